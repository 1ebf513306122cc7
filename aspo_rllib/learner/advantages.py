"""From rewards to advantages: a family of functions of one group, and a table with their sources.

G is the number of completions of one prompt (`group_size`), and C the number of named rewards. The module runs on the
driver and uses only numpy. To add a method, write a function of a group's rewards `[G]` and a row of `ADVANTAGES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aspo_rllib.names import nearest

Array = NDArray[np.float64]
STD_EPSILON = 1e-6


# ---- functions of one group: rewards [G] -> advantages [G] -------------------------------------------------------


def centred(rewards: Array) -> Array:
    """R - mean, exactly 0 for equal rewards. In a group of one it is the reward itself."""
    if len(rewards) == 1:
        return rewards
    if (rewards == rewards[0]).all():
        # The mean of equal numbers can have a rounding error, which the division by std + 1e-6 would magnify.
        return np.zeros_like(rewards)
    return np.asarray(rewards - rewards.mean())


def grpo(rewards: Array) -> Array:
    """(R - mean) / (std + 1e-6) with the unbiased std. In a group of one the std counts as 1."""
    std = rewards.std(ddof=1) if len(rewards) > 1 else 1.0
    return centred(rewards) / (std + STD_EPSILON)


def rloo(rewards: Array) -> Array:
    """R minus the mean of the other rewards, which is G / (G - 1) times R - mean."""
    size = len(rewards)
    return centred(rewards) * (size / (size - 1)) if size > 1 else rewards


def maxrl(rewards: Array) -> Array:
    """(R - mean) / (mean + 1e-6).

    With rewards of 0 and 1, a prompt is weighted by 1 / its pass rate, as in maximum likelihood. Raises ValueError on
    negative rewards, because the mean is then no pass rate.
    """
    if (rewards < 0).any():
        raise ValueError(
            f"advantage 'maxrl' divides by the group's mean reward: expected rewards >= 0, got {rewards.min():g}; "
            "an overlong penalty makes them negative."
        )
    return centred(rewards) / (rewards.mean() + STD_EPSILON) if len(rewards) > 1 else rewards


def pass_at_k(rewards: Array, *, k: int = 4) -> Array:
    """What a completion adds to the best of k completions.

    It is k times the mean of (max(R, best of S) - best of S) over all subsets S of k - 1 other completions. It gives an
    unbiased estimate of the gradient of the expected best reward of k, which is pass@k if rewards are 0 and 1. It is
    never negative. k must be at least 2; in groups with fewer than k completions, k is G.
    """
    if k < 2:
        raise ValueError(f"pass_at_k: expected k >= 2, got {k}")
    size = len(rewards)
    if size == 1:
        return rewards
    k = min(k, size)
    order = np.argsort(rewards, kind="stable")
    ascending = rewards[order]
    # The j-th lowest reward is the best of C(j, k - 2) subsets of k - 1. A better reward adds the difference to it.
    subsets = np.array([math.comb(j, k - 2) for j in range(size)], dtype=np.float64)
    above = np.tril(ascending[:, None] - ascending) @ subsets
    advantages = np.empty(size)
    advantages[order] = above * k / math.comb(size - 1, k - 1)
    return advantages


# ---- functions of a batch: advantages [G] of each group and the completions' lengths -----------------------------


def whiten_tokens(advantages: Sequence[Array], num_tokens: Sequence[Array]) -> list[Array]:
    """Normalize to zero mean and unit variance over all tokens of the batch, so that a completion counts by its length.

    The variance is the unbiased one over tokens, plus 1e-8, as in verl's `masked_whiten`.
    """
    values, weights = np.concatenate(advantages), np.concatenate(num_tokens).astype(np.float64)
    count = weights.sum()
    if count < 2 or (values == values[0]).all():
        return [np.zeros_like(a) for a in advantages]
    mean = (weights * values).sum() / count
    variance = (weights * (values - mean) ** 2).sum() / (count - 1)
    return [(a - mean) / np.sqrt(variance + 1e-8) for a in advantages]


def whiten_completions(advantages: Sequence[Array], num_tokens: Sequence[Array]) -> list[Array]:
    """(A - mean) / (std + 1e-4) over all completions of the batch, with the unbiased std."""
    values = np.concatenate(advantages)
    if len(values) < 2 or (values == values[0]).all():
        return [np.zeros_like(a) for a in advantages]
    return [(a - values.mean()) / (values.std(ddof=1) + 1e-4) for a in advantages]


# ---- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advantage:
    """A method.

    of_group: from the rewards `[G]` of one group to its advantages `[G]`.
    of_batch: a second step, from the advantages of all groups and the lengths of their completions to new advantages.
        None: there is no second step.
    by_component: True: `of_group` is applied to each named reward separately, and the weighted results are added.
        False: it is applied to the weighted sum of the rewards.
    source: the paper, and the code with which the method was compared.
    """

    of_group: Callable[[Array], Array]
    of_batch: Callable[[Sequence[Array], Sequence[Array]], list[Array]] | None = None
    by_component: bool = False
    source: str = ""


ADVANTAGES: dict[str, Advantage] = {
    "grpo": Advantage(grpo, source="arXiv 2402.03300; code of verl"),
    "dr_grpo": Advantage(centred, source="arXiv 2503.20783; code of verl"),
    "rloo": Advantage(rloo, source="arXiv 2402.14740; code of verl"),
    "maxrl": Advantage(maxrl, source="arXiv 2602.02710; code of tajwarfahim/maxrl"),
    "pass_at_k": Advantage(pass_at_k, source="PKPO, arXiv 2505.15201, its leave-one-out-minus-one baseline"),
    "gdpo": Advantage(grpo, whiten_completions, by_component=True, source="arXiv 2601.05242; code of NVlabs/GDPO"),
    "reinforce_plus_plus": Advantage(
        centred, whiten_tokens, source="arXiv 2501.03262, with the group's baseline; code of verl"
    ),
}


def resolve_advantage(advantage: str | Advantage | Callable[[Array], Array]) -> Advantage:
    """The `Advantage` for a name, an `Advantage`, or a function of a group's rewards.

    Raises ValueError for an unknown name.
    """
    if isinstance(advantage, Advantage):
        return advantage
    if callable(advantage):
        return Advantage(advantage)
    if isinstance(advantage, str) and advantage in ADVANTAGES:
        return ADVANTAGES[advantage]
    raise ValueError(
        f"unknown advantage {advantage!r}.{nearest(advantage, ADVANTAGES)} Known: {sorted(ADVANTAGES)}; or give an "
        "Advantage or a function of a group's rewards."
    )


def group_advantages(
    advantage: Advantage, rewards: ArrayLike, weights: ArrayLike | None = None, penalties: ArrayLike = 0.0
) -> Array:
    """The advantages `[G]` of one group, before `of_batch`.

    rewards: `[G]`, or `[G, C]` with `weights` `[C]`. In `[G, C]`, NaN means that a component does not apply to a
        completion. It then counts as 0, or, with `by_component`, the component's advantage is 0.
    penalties: `[G]` or a number, added to the weighted sum. With `by_component` they are a component of their own.

    Raises ValueError on another shape, or on a reward that is not finite.
    """
    columns = np.asarray(rewards, dtype=np.float64)
    if columns.ndim not in (1, 2) or len(columns) == 0:
        raise ValueError(f"rewards must be [group_size] or [group_size, components], got shape {columns.shape}")
    if np.isinf(columns).any() or (columns.ndim == 1 and np.isnan(columns).any()):
        raise ValueError(f"rewards must be finite, got {columns[~np.isfinite(columns)][0]}")
    columns = columns.reshape(len(columns), -1)
    scale = np.ones(columns.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    penalties = np.broadcast_to(np.asarray(penalties, dtype=np.float64), len(columns))
    if not advantage.by_component:
        return _checked(advantage, np.nan_to_num(columns) @ scale + penalties)
    parts = [weight * _of_component(advantage, column) for weight, column in zip(scale, columns.T, strict=True)]
    total: Array = np.sum(parts, axis=0)
    return total + (_checked(advantage, penalties) if penalties.any() else 0.0)


def batch_advantages(
    advantage: Advantage, groups: Sequence[Array], num_tokens: Sequence[ArrayLike]
) -> list[NDArray[np.float32]]:
    """The advantages of a batch, one float32 array per group. `groups` has the results of `group_advantages`."""
    if advantage.of_batch is not None and groups:
        groups = advantage.of_batch(groups, [np.asarray(n) for n in num_tokens])
    return [np.asarray(g, dtype=np.float32) for g in groups]


def _of_component(advantage: Advantage, rewards: Array) -> Array:
    """The advantages of one component over the completions to which it applies; 0 for the other completions."""
    applies = ~np.isnan(rewards)
    found = np.zeros(len(rewards))
    if applies.sum() > 1 or len(rewards) == 1:  # a single completion cannot be compared with others
        found[applies] = _checked(advantage, rewards[applies])
    return found


def _checked(advantage: Advantage, rewards: Array) -> Array:
    """The result of the advantage function, checked because the function may be the user's own."""
    values = np.asarray(advantage.of_group(rewards), dtype=np.float64)
    if values.shape != rewards.shape or not np.isfinite(values).all():
        raise ValueError(
            f"the advantage function {advantage.of_group!r} must give {len(rewards)} finite numbers for as many "
            f"rewards, got {values}"
        )
    return values
