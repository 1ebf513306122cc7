"""From graded groups to advantages and batches, with DAPO's penalty for length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aspo_rllib.learner.advantages import Advantage, batch_advantages, group_advantages, resolve_advantage
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.model.layouts import Layout
from aspo_rllib.types import RolloutGroup, TrainBatch

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings


class ShapedBatch(NamedTuple):
    """What an iteration's groups become.

    num_used: number of groups that are trained on.
    advantages: those of the groups that are trained on by their position, NaN for rollouts that were left out.
    batches: one per learner; [] if no group is left.
    """

    num_used: int
    advantages: dict[int, NDArray[np.float32]]
    batches: list[TrainBatch]


def shape_batch(groups: Sequence[RolloutGroup], config: ASPOSettings, layout: Layout) -> ShapedBatch:
    """Filter groups on correctness, shape rewards, compute advantages and divide the rollouts among the learners."""
    kept = groups_to_train(groups, config)
    num_used, advantages = len(kept), take_advantages(kept, config)
    shaped = by_position(groups, kept, advantages)
    if config.truncated == "mask":
        kept, advantages = mask_truncated(kept, advantages)
    if not kept:
        return ShapedBatch(num_used, shaped, [])
    batches = build_train_batches(
        kept,
        advantages,
        num_learners=config.num_learners,
        minibatch_prompts=config.minibatch_prompts,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        layout=layout,
    )
    return ShapedBatch(num_used, shaped, batches)


def groups_to_train(groups: Sequence[RolloutGroup], config: ASPOSettings) -> list[RolloutGroup]:
    """The groups that an update uses, after `truncated` and `drop_uniform_groups` have been applied."""
    if config.truncated == "drop":
        groups = [group.without_truncated() for group in groups]
    return [g for g in groups if (g.is_informative if config.drop_uniform_groups else g.rollouts)]


def by_position(
    groups: Sequence[RolloutGroup], kept: Sequence[RolloutGroup], advantages: Sequence[NDArray[np.float32]]
) -> dict[int, NDArray[np.float32]]:
    """The advantages of the groups in the update, by the position of the group; NaN for rollouts that were left out."""
    found = {group.position: a for group, a in zip(kept, advantages, strict=True)}
    for group in groups:
        if group.position in found and len(found[group.position]) < len(group.rollouts):
            ended = np.array([r.finish_reason != "length" for r in group.rollouts], dtype=bool)
            spread = np.full(len(ended), np.nan, dtype=np.float32)
            spread[ended] = found[group.position]
            found[group.position] = spread
    return found


def mask_truncated(
    groups: Sequence[RolloutGroup], advantages: Sequence[NDArray[np.float32]]
) -> tuple[list[RolloutGroup], list[NDArray[np.float32]]]:
    """Groups and their advantages without the truncated completions, which the baselines already include."""
    ended = [np.array([r.finish_reason != "length" for r in group.rollouts], dtype=bool) for group in groups]
    masked = [(g.without_truncated(), a[e]) for g, a, e in zip(groups, advantages, ended, strict=True) if e.any()]
    return [group for group, _ in masked], [a for _, a in masked]


def take_advantages(groups: Sequence[RolloutGroup], config: ASPOSettings) -> list[NDArray[np.float32]]:
    """The advantages of a batch, `[G]` per group, with the method and the length penalty of the config."""
    advantage = resolve_advantage(config.method.advantage)
    num_tokens = [[len(r.completion_ids) for r in group.rollouts] for group in groups]
    of_groups = []
    for group, lengths in zip(groups, num_tokens, strict=True):
        penalties = overlong_penalty(
            lengths,
            max_completion_tokens=config.max_completion_tokens,
            buffer_tokens=config.overlong_buffer_tokens,
            factor=config.overlong_penalty_factor,
        )
        rewards, weights = _rewards(group, advantage, config.reward_weights or {})
        of_groups.append(group_advantages(advantage, rewards, weights, penalties))
    return batch_advantages(advantage, of_groups, num_tokens)


def _rewards(
    group: RolloutGroup, advantage: Advantage, weights: Mapping[str, float]
) -> tuple[NDArray[np.float64], list[float] | None]:
    """The rewards for a method: `[G, C]` and the weights of the C components, or the sums `[G]` and None."""
    columns = group.reward_columns() if advantage.by_component else {}
    if not columns:
        return np.array([r.reward for r in group.rollouts], dtype=np.float64), None
    # None means that a component does not apply. The conversion makes NaN of it.
    return np.array(list(columns.values()), dtype=np.float64).T, [weights.get(name, 1.0) for name in columns]


def overlong_penalty(
    completion_tokens: ArrayLike, *, max_completion_tokens: int, buffer_tokens: int, factor: float
) -> NDArray[np.float32]:
    """DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), which is added to the reward.

    It is 0 up to `max_completion_tokens - buffer_tokens`, and falls linearly from there to `-factor` at
    `max_completion_tokens`. With `buffer_tokens=0` it is always 0. The result has the shape of `completion_tokens`.
    Raises ValueError on settings out of range.
    """
    if max_completion_tokens < 1:
        raise ValueError(f"max_completion_tokens must be at least 1, got {max_completion_tokens}")
    if not 0 <= buffer_tokens <= max_completion_tokens:
        raise ValueError(f"buffer_tokens must be in [0, {max_completion_tokens}], got {buffer_tokens}")
    if not (np.isfinite(factor) and factor >= 0):
        raise ValueError(f"factor must be finite and not negative, got {factor}")
    tokens = np.asarray(completion_tokens, dtype=np.float64)
    if (tokens < 0).any():
        raise ValueError(f"completion_tokens must not be negative, got {tokens.min():g}")
    if buffer_tokens == 0:
        return np.zeros(tokens.shape, dtype=np.float32)
    into_buffer = (tokens - (max_completion_tokens - buffer_tokens)) / buffer_tokens
    return np.asarray(0.0 - factor * np.clip(into_buffer, 0.0, 1.0), dtype=np.float32)
