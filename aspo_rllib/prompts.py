"""From a task of the env to the token ids that the engine is asked with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """One task, ready to be asked.

    text: the env's own prompt; ids: `[T]` int32, chat-templated; info: what the env's `reset` said with it.
    """

    text: str
    ids: np.ndarray
    info: dict[str, Any]


class PromptEncoder:
    """Asks the env for its prompts and puts them into the tokenizer's chat template.

    A system message comes from the task's own history (`info["history"]`, chat messages before the prompt) or else
    from the env's `system_prompt`. `num_tokens(index)` remembers the lengths of prompts that it was asked for.
    """

    def __init__(self, env: gym.Env, tokenizer: PreTrainedTokenizerBase):
        self.env = env
        self.tokenizer = tokenizer
        self.num_tokens = lru_cache(maxsize=1 << 20)(self._num_tokens)

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.env.unwrapped)

    def encode(self, index: int) -> Prompt:
        """The prompt of a task, whatever its length."""
        text, info = self.env.reset(options={"index": index})
        messages = [*info.get("history", ()), {"role": "user", "content": text}]
        system = getattr(self.env.unwrapped, "system_prompt", None)
        if system and not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": system})
        encoding = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return Prompt(text, np.asarray(encoding["input_ids"], dtype=np.int32), info)

    def _num_tokens(self, index: int) -> int:
        return len(self.encode(index).ids)

    def close(self) -> None:
        """Close the env."""
        self.env.close()
