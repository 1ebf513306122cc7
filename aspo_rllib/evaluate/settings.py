"""The settings of an evaluation without training. The command line reads their defaults without slow imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The settings that determine an evaluation's completions.

    The fields have the meaning of ASPOConfig's fields of the same names; k is its `group_size`, and limit its
    `evaluation_duration` (None: all tasks of the env).
    """

    model: str
    env: str
    env_config: dict[str, Any] = field(default_factory=dict)
    k: int = 16
    limit: int | None = None
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: list[str] | None = None
    reward_weights: dict[str, float] | None = None
    max_prompt_tokens: int = 1024
    max_completion_tokens: int = 1024
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    template_date: str = "2024-07-26"
    dtype: str = "float32"
    engine: str = "vllm"
    seed: int = 0
    trust_remote_code: bool = False
