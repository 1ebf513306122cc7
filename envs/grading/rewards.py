"""What an env may give as the reward of a completion, and as its named components."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from envs.text_env import check_reward_names


def problem_of(reward: Any, components: Any, where: str) -> str | None:
    """What is wrong with the numbers of one completion; None if nothing is.

    Raises ValueError if the components are no mapping of legal names.
    """
    if not isinstance(components, Mapping):
        raise ValueError(f"info['rewards'] {where} is {components!r}; expected a dict of names to numbers")
    check_reward_names(components, f"info['rewards'] {where}")
    if not _is_finite(reward):
        return f"the reward {where} is {reward!r}; expected a finite number"
    for name, value in components.items():
        if value is not None and not _is_finite(value):
            return f"the reward {name!r} {where} is {value!r}; expected a finite number, or None if it does not apply"
    if components and all(value is None for value in components.values()):
        return f"all rewards {where} are None, so that it has no grade"
    return None


def _is_finite(reward: Any) -> bool:
    """Whether a reward is a finite number; numpy numbers and tensors of one element are accepted."""
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError, OverflowError):  # None, a str, an array of several, an int beyond all floats
        return False
