"""From groups to optimizer steps: who trains which rollout, in which micro-batch, over which denominators.

Everything is decided here, on the driver, which knows all lengths: the learners need no collective to agree on counts,
and the result of a step does not depend on the number of learners or on how the batch is cut. Numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from aspo_rllib.types import Minibatch, Rollout, RolloutGroup, TrainBatch

Cost = Callable[[Sequence[int]], int]
Units = Callable[[Sequence[Rollout], int], list[list[int]]]


def split_minibatches(num_prompts: int, minibatch_prompts: int) -> list[np.ndarray]:
    """Cut `num_prompts` groups, in order, into optimizer steps of at most `minibatch_prompts` prompts.

    Sizes differ by at most one: a leftover step of a single prompt would move the weights as far as a full one.
    """
    return np.array_split(np.arange(num_prompts), math.ceil(num_prompts / minibatch_prompts))


def balance_by_tokens(lengths: Sequence[int], num_learners: int) -> list[list[int]]:
    """Give each rollout to the learner with the fewest tokens so far, longest rollouts first.

    Returns one list of positions into `lengths` per learner. Equal lengths give equal counts.
    """
    shares: list[list[int]] = [[] for _ in range(num_learners)]
    loads = [0] * num_learners
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        learner = min(range(num_learners), key=lambda k: (loads[k], len(shares[k])))
        shares[learner].append(i)
        loads[learner] += lengths[i]
    return shares


def padded_tokens(lengths: Sequence[int]) -> int:
    """Tokens of a forward pass over right-padded rows: rows x longest row."""
    return len(lengths) * max(lengths)


def packed_tokens(lengths: Sequence[int]) -> int:
    """Tokens of a forward pass over one row without padding."""
    return sum(lengths)


def alone(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[int]]:
    """Each rollout may go to any learner and micro-batch."""
    return [[i] for i in range(len(rollouts))]


def siblings(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[int]]:
    """The rollouts of a group stay together, as many as fit into `max_tokens` with their prompt once."""
    units: list[list[int]] = []
    for i in range(len(rollouts)):
        if units and _unit_tokens([rollouts[k] for k in (*units[-1], i)]) <= max_tokens:
            units[-1].append(i)
        else:
            units.append([i])
    return units


def _unit_tokens(rollouts: Sequence[Rollout]) -> int:
    return len(rollouts[0].prompt_ids) + sum(len(r.completion_ids) for r in rollouts)


# For each of `packing.LAYOUTS`: what a micro-batch costs, and what is not taken apart.
COSTS: dict[str, Cost] = {"padded": padded_tokens, "packed": packed_tokens, "shared": packed_tokens}
UNITS: dict[str, Units] = {"padded": alone, "packed": alone, "shared": siblings}


def cut_microbatches(lengths: Sequence[int], max_tokens: int, *, cost: Cost = padded_tokens) -> list[list[int]]:
    """Cut rollouts, longest first, so that the `cost` of each micro-batch's lengths stays within `max_tokens`.

    A rollout longer than `max_tokens` gets a micro-batch of its own. Returns positions into `lengths`.
    """
    microbatches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if microbatches and cost([lengths[k] for k in (*microbatches[-1], i)]) <= max_tokens:
            microbatches[-1].append(i)
        else:
            microbatches.append([i])
    return microbatches


def cut_to_count(microbatches: list[list[int]], count: int) -> list[list[int]]:
    """Split the largest micro-batches until there are `count`; empty ones when no row is left to part with."""
    microbatches = list(microbatches)
    while len(microbatches) < count:
        largest = max(range(len(microbatches)), key=lambda k: len(microbatches[k]), default=None)
        if largest is None or len(microbatches[largest]) < 2:
            microbatches.append([])
            continue
        rows = microbatches.pop(largest)
        microbatches[largest:largest] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return microbatches


def _divide(
    lengths: Sequence[int], num_learners: int, max_tokens: int, cost: Cost
) -> list[tuple[list[int], list[list[int]]]]:
    """For each learner its positions into `lengths`, and positions into those per micro-batch, equally many for all."""
    shares = balance_by_tokens(lengths, num_learners)
    cuts = [cut_microbatches([lengths[i] for i in share], max_tokens, cost=cost) for share in shares]
    count = max(map(len, cuts))
    return [(share, cut_to_count(cut, count)) for share, cut in zip(shares, cuts, strict=True)]


def build_train_batches(
    groups: Sequence[RolloutGroup],
    advantages: Sequence[np.ndarray],
    *,
    num_learners: int,
    minibatch_prompts: int,
    max_tokens_per_microbatch: int,
    cost: Cost = padded_tokens,
    units: Units = alone,
) -> list[TrainBatch]:
    """The TrainBatch of every learner.

    groups, advantages: one `[G]` array of advantages per group.
    num_learners: learners that train together; 0 and 1 both mean one.
    cost: tokens of a micro-batch from the lengths of its units; units: which rollouts of a group, by position, stay
        together. Both go with the learner's layout.
    """
    learners = max(1, num_learners)
    rollouts: list[list[Rollout]] = [[] for _ in range(learners)]
    row_advantages: list[list[float]] = [[] for _ in range(learners)]
    minibatches: list[list[Minibatch]] = [[] for _ in range(learners)]

    for step in split_minibatches(len(groups), minibatch_prompts):
        members = [
            [(groups[g].rollouts[i], advantages[g][i]) for i in unit]
            for g in step
            for unit in units(groups[g].rollouts, max_tokens_per_microbatch)
        ]
        lengths = [_unit_tokens([r for r, _ in unit]) for unit in members]
        num_loss_tokens = sum(len(r.completion_ids) for unit in members for r, _ in unit)
        num_sequences = sum(map(len, members))
        for k, (share, cut) in enumerate(_divide(lengths, learners, max_tokens_per_microbatch, cost)):
            first_rows = len(rollouts[k]) + np.cumsum([0, *(len(members[i]) for i in share)])
            rows = [np.arange(*ends) for ends in pairwise(first_rows)]
            rollouts[k] += [r for i in share for r, _ in members[i]]
            row_advantages[k] += [a for i in share for _, a in members[i]]
            microbatches = tuple(np.concatenate([np.arange(0), *(rows[i] for i in m)]) for m in cut)
            minibatches[k].append(Minibatch(microbatches, num_loss_tokens, num_sequences))
    return [
        TrainBatch(
            prompt_ids=tuple(r.prompt_ids for r in rollouts[k]),
            completion_ids=tuple(r.completion_ids for r in rollouts[k]),
            sampler_logprobs=tuple(r.sampler_logprobs for r in rollouts[k]),
            advantages=np.array(row_advantages[k], dtype=np.float32),
            minibatches=tuple(minibatches[k]),
        )
        for k in range(learners)
    ]
