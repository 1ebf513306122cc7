"""The evaluation sets of a config. Each set has a complete evaluation config."""

from __future__ import annotations

from typing import Any

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.metric_names import legal_part
from aspo_rllib.names import nearest

DEFAULT_SET = "default"  # the name of the only set of a config without eval_sets

SETTINGS = (
    "env",
    "env_config",
    "evaluation_duration",
    "group_size",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "stop",
    "max_prompt_tokens",
    "max_completion_tokens",
    "num_graders",
    "chat_template_kwargs",
    "grader_timeout_s",
    "reward_weights",
)
# These names appear next to the names of the sets in the results.
_RESERVED_NAMES = ("accuracy", "env_runners", "iteration")


def set_configs(config: ASPOSettings) -> dict[str, ASPOSettings]:
    """The evaluation config of every set of a training config.

    It consists of `evaluation_config` and the set's own settings, which override it. If a set has its own env, the
    training env's env_config does not apply to it. An env that is not that of the training does not get its
    reward_weights.
    """
    configs: dict[str, ASPOSettings] = {}
    for name, settings in (config.eval_sets or {DEFAULT_SET: {}}).items():
        configs[name] = config.get_evaluation_config_object()
        configs[name].eval_sets = None
        if "env" in settings:
            configs[name].env_config = {}
        configs[name].update_from_dict(settings)
        own_weights = "reward_weights" in {**(config.evaluation_config or {}), **settings}
        if configs[name].env != config.env and not own_weights:
            configs[name].reward_weights = None
    return configs


def check_eval_sets(eval_sets: Any) -> None:
    """Raise ValueError unless this is a dict of legal names to dicts of known settings. Values are not checked here."""
    if not isinstance(eval_sets, dict) or not eval_sets:
        raise ValueError(f"eval_sets={eval_sets!r}: expected a dict of names to settings, or None.")
    for name, settings in eval_sets.items():
        if not isinstance(name, str) or not name or name != legal_part(name) or name in _RESERVED_NAMES:
            raise ValueError(
                f"eval_sets: the name {name!r}: expected letters, digits and _, because it is part of metrics' names "
                f"in every tracker, and none of {', '.join(_RESERVED_NAMES)}."
            )
        if not isinstance(settings, dict):
            raise ValueError(f"eval_sets[{name!r}]={settings!r}: expected a dict of settings.")
        for setting in settings:
            if setting not in SETTINGS:
                hint = nearest(setting, SETTINGS) or f" Expected some of {', '.join(SETTINGS)}."
                raise ValueError(f"eval_sets[{name!r}]: unknown setting {setting!r}.{hint}")
        if not isinstance(settings.get("env_config", {}), dict):
            raise ValueError(f"eval_sets[{name!r}]: env_config={settings['env_config']!r}: expected a dict.")
