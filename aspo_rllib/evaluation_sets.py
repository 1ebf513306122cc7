"""What is evaluated: one set of prompts, or several by name, each with its env and sampling settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from aspo_rllib.env_creators import make_env
from aspo_rllib.prompts import PromptEncoder, check_prompts

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

DEFAULT_SET = "default"  # the only one of a config without eval_sets

SETTINGS = (
    "env",
    "env_config",
    "evaluation_duration",
    "group_size",
    "temperature",
    "top_p",
    "max_prompt_tokens",
    "max_completion_tokens",
    "num_graders",
    "grader_timeout_s",
)
# Beside the sets' own results.
_RESERVED_NAMES = ("accuracy", "env_runners", "iteration")
_NAME = re.compile(r"(?!.*--)[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # RLlib joins names with "--" in checkpoints


@dataclass(frozen=True)
class EvaluationSet:
    """The prompts of one set, on the driver.

    config: whose env and sampling settings to use, a whole evaluation config.
    """

    config: ASPOConfig
    prompts: PromptEncoder

    def tasks(self) -> tuple[list[tuple[int, int]], int]:
        """The first `evaluation_duration` tasks as (position, index), and how many of them were too long.

        Position and index are the same, so that every evaluation asks with the same seeds.
        """
        asked = range(min(self.config.evaluation_duration, len(self.prompts)))
        limit = self.config.max_prompt_tokens
        tasks = [(i, i) for i in asked if self.prompts.num_tokens(i) <= limit]
        return tasks, len(asked) - len(tasks)


def set_configs(config: ASPOConfig) -> dict[str, ASPOConfig]:
    """The evaluation config of every set of a training config: `evaluation_config`, with the set's own settings on top.

    A set that names its env has an env_config of its own; the training env's is not for it.
    """
    configs: dict[str, ASPOConfig] = {}
    for name, settings in (config.eval_sets or {DEFAULT_SET: {}}).items():
        configs[name] = config.get_evaluation_config_object()
        configs[name].eval_sets = None
        if "env" in settings:
            configs[name].env_config = {}
        configs[name].update_from_dict(settings)
    return configs


def open_sets(config: ASPOConfig, make_prompts: Callable[[ASPOConfig], PromptEncoder]) -> dict[str, EvaluationSet]:
    """Every set of a training config, ready to be asked."""
    sets = {}
    for name, set_config in set_configs(config).items():
        try:
            sets[name] = EvaluationSet(set_config, make_prompts(set_config))
        except Exception as error:
            error.add_note(f"This is the env of the evaluation set {name!r}.")
            raise
    return sets


def prompts_of(config: ASPOConfig, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
    """The prompts of a config's env, made here. Raises ValueError as `make_env` and `check_prompts`."""
    prompts = PromptEncoder(make_env(config), tokenizer)
    try:
        check_prompts(prompts, config)
    except ValueError:
        prompts.close()
        raise
    return prompts


def check_eval_sets(eval_sets: Any) -> None:
    """Raise ValueError unless this is a dict of legal names to dicts of known settings, whatever their values."""
    if not isinstance(eval_sets, dict) or not eval_sets:
        raise ValueError(f"eval_sets={eval_sets!r}: expected a dict of names to settings, or None.")
    for name, settings in eval_sets.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
            raise ValueError(
                f"eval_sets: the name {name!r}: expected letters, digits and _.+-, no '--', and none of "
                f"{', '.join(_RESERVED_NAMES)}."
            )
        if not isinstance(settings, dict):
            raise ValueError(f"eval_sets[{name!r}]={settings!r}: expected a dict of settings.")
        for setting in settings:
            if setting not in SETTINGS:
                near = get_close_matches(str(setting), SETTINGS, n=1)
                meant = f"Did you mean {near[0]!r}?" if near else f"Expected some of {', '.join(SETTINGS)}."
                raise ValueError(f"eval_sets[{name!r}]: unknown setting {setting!r}. {meant}")
        if not isinstance(settings.get("env_config", {}), dict):
            raise ValueError(f"eval_sets[{name!r}]: env_config={settings['env_config']!r}: expected a dict.")
