"""The reward of a completion by its named components and their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.grading.pool import Graded

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

LARGEST_REWARD = float(np.finfo(np.float32).max)  # advantages are float32


def rewards_of(graded: Graded, config: ASPOSettings, index: int) -> tuple[float, dict[str, float | None]]:
    """The reward of a graded completion of task `index`, and its components by name.

    With `reward_weights` the reward is the weighted sum of the components that apply to the task, and otherwise that of
    the env. A completion whose grading took too long has 0 in every component.

    Raises ValueError if the components are not those of `reward_weights`, and for a reward beyond float32. In an
    evaluation, an env without components gives its own reward.
    """
    components: dict[str, float | None] = dict(graded.info.get("rewards", {}))
    weights = config.reward_weights
    if not components and graded.info.get("grade_status") == "timeout":
        components = dict.fromkeys(weights or (), 0.0)
    reward = graded.reward
    if weights is not None and (components or not config.in_evaluation):
        _check_names(components, config)
        reward = float(sum(weights[name] * value for name, value in components.items() if value is not None))
    for name, value in {"reward": reward, **components}.items():
        if value is not None and not abs(value) <= LARGEST_REWARD:
            what = "reward" if name == "reward" else f"reward {name!r}"
            raise ValueError(
                f"The env {config.env!r} gave task {index} the {what} {value!r}: expected a number of at most "
                f"{LARGEST_REWARD:.2g} in size."
            )
    return reward, components


def check_known_names(env: Any, config: ASPOSettings) -> None:
    """Raise ValueError if an env knows the names of its rewards beforehand, and `reward_weights` has other ones."""
    names = getattr(env, "reward_names", None)
    if names is not None and config.reward_weights is not None:
        _check_names(names, config)


def _check_names(names: Iterable[str], config: ASPOSettings) -> None:
    given, weights = list(names), config.reward_weights
    assert weights is not None
    strange = [name for name in weights if name not in given]
    unweighted = [name for name in given if name not in weights]
    if not strange and not unweighted:
        return
    problem = f"has no reward {strange[0]!r}" if strange else f"has a reward {unweighted[0]!r} without a weight"
    raise ValueError(
        f"reward_weights={weights!r}: the env {config.env!r} {problem}; expected a weight for each of its rewards "
        f"{given} (0 for one that is only logged), or None."
    )
