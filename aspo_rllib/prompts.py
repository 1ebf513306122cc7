"""From a task of the env to the token ids that the engine is asked with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from transformers import AutoTokenizer, BatchEncoding, GenerationConfig, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

LOOKED_AT = 4096  # prompts, before a set of tasks is given up


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

    def __init__(self, env: gym.Env[str, str], tokenizer: PreTrainedTokenizerBase):
        self.env = env
        self.tokenizer = tokenizer
        self.num_tokens = lru_cache(maxsize=1 << 20)(self._num_tokens)

    def __len__(self) -> int:
        """Number of tasks."""
        env: Any = self.env.unwrapped  # Gymnasium promises no length
        return len(env)

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
        assert isinstance(encoding, BatchEncoding)
        return Prompt(text, np.asarray(encoding["input_ids"], dtype=np.int32), info)

    def _num_tokens(self, index: int) -> int:
        return len(self.encode(index).ids)

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def check_prompts(prompts: PromptEncoder, config: ASPOConfig) -> None:
    """Raise ValueError if a config's env has no task, or none that fits; warn if a batch has to repeat tasks.

    Stops at the first prompt that fits, and looks at LOOKED_AT at most, evenly spread. An evaluation asks the first
    `evaluation_duration` tasks only.
    """
    num_tasks, limit = len(prompts), config.max_prompt_tokens
    if not num_tasks:
        raise ValueError(f"env={config.env!r} has no task; look at env_config={dict(config.env_config)!r}.")
    asked = min(num_tasks, config.evaluation_duration) if config.in_evaluation else num_tasks
    looked_at = range(0, asked, -(-asked // LOOKED_AT))
    if all(prompts.num_tokens(index) > limit for index in looked_at):
        shortest = min(prompts.num_tokens(index) for index in looked_at)
        who = "the evaluation" if config.in_evaluation else config.env
        raise ValueError(
            f"max_prompt_tokens={limit}: all {len(looked_at)} prompts of {who} are longer; the shortest has {shortest} "
            "tokens. Raise it, or choose other tasks."
        )
    if not config.in_evaluation and num_tasks < config.batch_prompts:
        warnings.warn(
            f"batch_prompts={config.batch_prompts}: {config.env} has {num_tasks} task(s) only, so every batch asks "
            "some of them more than once, in groups of their own. Lower batch_prompts, or bring more tasks.",
            stacklevel=3,
        )


def load_tokenizer(config: ASPOConfig) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The model's tokenizer, with the config's chat template if it has one, and the token ids that end a completion.

    Raises ValueError if there is no chat template or no end token.
    """
    tokenizer = AutoTokenizer.from_pretrained(config.llm_model, trust_remote_code=config.trust_remote_code)
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    if tokenizer.chat_template is None:
        raise ValueError(
            f"chat_template=None and the tokenizer of llm_model={config.llm_model!r} has none of its own; "
            "set .llm(chat_template=...), for example \"{{ messages[-1]['content'] }}\" for the bare prompt."
        )
    try:
        generation = GenerationConfig.from_pretrained(config.base_model)
    except OSError:  # the folder has no generation_config.json
        generation = GenerationConfig()
    stop = {tokenizer.eos_token_id, *np.atleast_1d(generation.eos_token_id or [])} - {None}
    if not stop:
        raise ValueError(f"llm_model={config.llm_model!r}: neither tokenizer nor generation_config has an eos token.")
    return tokenizer, sorted(int(i) for i in stop)
