"""Turns a task of the env into the prompt's token ids for the engine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_rllib.config.env_creators import make_env
from aspo_rllib.model import companions
from aspo_rllib.rollout.env_check import check_env
from aspo_rllib.rollout.rewards import check_known_names
from envs.chat import BARE_TEMPLATE, TEMPLATE_DATE, render

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

HASHED_PROMPTS = 1024
LOOKED_AT = 4096  # largest number of prompts that `check_prompts` examines
KNOWN_LENGTHS = 1 << 16  # 10 MB; those of a million prompts would take 150 MB, and are counted faster than sampled


@dataclass(frozen=True)
class Prompt:
    """The prompt of one task.

    text: the env's prompt as text.
    ids: `[T]` int32, the tokens of the chat-templated prompt.
    info: the info dict that the env's `reset` returned.
    """

    text: str
    ids: np.ndarray
    info: dict[str, Any]


class PromptEncoder:
    """Gets prompts from the env and applies the tokenizer's chat template to them.

    The system message comes from the task's own history (`info["history"]`, chat messages before the prompt), or else
    from the env's `system_prompt`. A prompt with `info["templated"]` already contains a template's tokens, so that the
    template is not applied. `info["answer_prefix"]`, the beginning of the answer, is appended to the prompt.
    `num_tokens(index)` caches the lengths of the latest KNOWN_LENGTHS prompts.
    """

    def __init__(
        self,
        env: gym.Env[str, str],
        tokenizer: PreTrainedTokenizerBase,
        template_kwargs: Mapping[str, Any] | None = None,
        template_date: str = TEMPLATE_DATE,
    ):
        self.env = env
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self.template_date = template_date
        self.num_tokens = lru_cache(maxsize=KNOWN_LENGTHS)(self._num_tokens)

    def __len__(self) -> int:
        """Number of tasks."""
        env: Any = self.env.unwrapped  # Gymnasium promises no length
        return len(env)

    def encode(self, index: int) -> Prompt:
        """The prompt of a task, whatever its length."""
        rendered, text, info = self._rendered(index)
        encoding = self.tokenizer(rendered, add_special_tokens=False)
        return Prompt(text, np.asarray(encoding["input_ids"], dtype=np.int32), info)

    def render(self, index: int) -> str:
        """The chat-templated prompt of a task, as text."""
        return self._rendered(index)[0]

    def _rendered(self, index: int) -> tuple[str, str, dict[str, Any]]:
        text, info = self.env.reset(options={"index": index})
        prefix = info.get("answer_prefix", "")
        if info.get("templated"):
            return text + prefix, text, info
        messages = [*info.get("history", ()), {"role": "user", "content": text}]
        system = getattr(self.env.unwrapped, "system_prompt", None)
        if system and not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": system})
        return render(self.tokenizer, messages, self.template_kwargs, self.template_date) + prefix, text, info

    def _num_tokens(self, index: int) -> int:
        return len(self.encode(index).ids)

    def close(self) -> None:
        """Close the env."""
        self.env.close()


def check_prompts(prompts: PromptEncoder, config: ASPOSettings) -> None:
    """Raise ValueError if a config's env has no task, or no task whose prompt is short enough.

    Warns if the env has fewer tasks than a batch. The check stops at the first prompt that fits and examines at most
    LOOKED_AT prompts, evenly spread. For an evaluation only the first `evaluation_duration` tasks count.
    """
    num_tasks, limit = len(prompts), config.max_prompt_tokens
    if not num_tasks:
        raise ValueError(f"env={config.env!r} has no task; look at env_config={dict(config.env_config)!r}.")
    asked = min(num_tasks, config.evaluation_duration) if config.in_evaluation else num_tasks
    looked_at = range(0, asked, -(-asked // LOOKED_AT))
    _check_different(prompts, looked_at)
    if all(prompts.num_tokens(index) > limit for index in looked_at):
        shortest = min(prompts.num_tokens(index) for index in looked_at)
        who = "the evaluation" if config.in_evaluation else config.env
        raise ValueError(
            f"max_prompt_tokens={limit}: all {len(looked_at)} prompts of {who} are longer; the shortest has {shortest} "
            "tokens. Raise max_prompt_tokens, or choose other tasks."
        )
    if not config.in_evaluation and num_tasks < config.batch_prompts:
        warnings.warn(
            f"batch_prompts={config.batch_prompts}: {config.env} has only {num_tasks} task(s), so every batch contains "
            "several groups of the same task. Lower batch_prompts, or add tasks.",
            stacklevel=3,
        )


def _check_different(prompts: PromptEncoder, indices: Sequence[int]) -> None:
    """Raise ValueError if the chat template renders two different questions as the same prompt."""
    rendered: dict[str, str] = {}
    for index in indices[:2]:
        text = prompts.render(index)
        question = prompts.encode(index).text
        if rendered.setdefault(text, question) != question:
            raise ValueError(
                f"chat_template: two different questions give the same prompt, {text[:200]!r}; the template does not "
                "show the user's message."
            )


def load_tokenizer(config: ASPOSettings) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The model's tokenizer, with the config's chat template if it has one, and the token ids that end a completion.

    Raises ValueError if there is no chat template or no end token.
    """
    model, trust = config.base_model, config.trust_remote_code
    tokenizer = companions.load_tokenizer(model, trust_remote_code=trust, chat_template=config.chat_template)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"chat_template=None and the tokenizer of llm_model={config.llm_model!r} has none of its own; "
            "set .llm(chat_template=...), for example "
            f"{BARE_TEMPLATE!r} for the bare prompt."
        )
    stop = companions.end_tokens(tokenizer, companions.load_generation_config(model, trust_remote_code=trust))
    if not stop:
        raise ValueError(
            f"llm_model={config.llm_model!r}: neither tokenizer nor generation_config.json nor config.json has an eos "
            "token."
        )
    return tokenizer, stop


def prompts_of(config: ASPOSettings, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
    """Create a config's env and the encoder of its prompts.

    Raises ValueError as `make_env`, `check_env` and `check_prompts` do, and for names in `reward_weights` that are not
    the env's.
    """
    prompts = PromptEncoder(make_env(config), tokenizer, config.chat_template_kwargs, config.template_date)
    try:
        check_known_names(prompts.env.unwrapped, config)
        check_env(prompts.env, config.env)
        check_prompts(prompts, config)
    except ValueError:
        prompts.close()
        raise
    return prompts


def task_hashes(prompts: PromptEncoder) -> dict[str, Any]:
    """Number of tasks, and a hash over the tokens of up to HASHED_PROMPTS prompts, evenly spread."""
    stride = -(-len(prompts) // HASHED_PROMPTS)
    digest = blake2b(digest_size=8)
    for index in range(0, len(prompts), stride):
        digest.update(prompts.encode(index).ids.tobytes() + b"|")
    return {"num_tasks": len(prompts), "prompts_blake2b": digest.hexdigest()}


def first_prompts(prompts: PromptEncoder, config: ASPOSettings, count: int = 8) -> list[np.ndarray]:
    """Token ids of the first prompts, cut to `max_prompt_tokens`, for a check before anything was sampled."""
    return [prompts.encode(index).ids[: config.max_prompt_tokens] for index in range(min(count, len(prompts)))]
