"""From groups to optimizer steps: assigns rollouts to learners, mini-batches and micro-batches. Numpy only.

The driver decides all of this, because it has the lengths of all rollouts. The learners then need no collective to
agree on counts, and the result of a step does not depend on the number of learners or on the size of micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aspo_rllib.model.layouts import LAYOUTS, Cost, Layout, padded_tokens, shared_tokens
from aspo_rllib.types import Minibatch, Rollout, RolloutGroup, TrainBatch


def split_minibatches(num_prompts: int, minibatch_prompts: int) -> list[np.ndarray]:
    """Split `num_prompts` groups, in order, into optimizer steps of at most `minibatch_prompts` prompts.

    The sizes differ by at most one. A last step with a single prompt would change the weights as much as a full step.
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


def cut_microbatches(lengths: Sequence[int], max_tokens: int, *, cost: Cost = padded_tokens) -> list[list[int]]:
    """Put rollouts, longest first, into micro-batches whose `cost`, a number of tokens, is at most `max_tokens`.

    A rollout longer than `max_tokens` gets its own micro-batch. Returns positions into `lengths`.
    """
    microbatches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if microbatches and cost([lengths[k] for k in (*microbatches[-1], i)]) <= max_tokens:
            microbatches[-1].append(i)
        else:
            microbatches.append([i])
    return microbatches


def cut_to_count(microbatches: list[list[int]], count: int) -> list[list[int]]:
    """Split the largest micro-batches until there are `count`; adds empty ones if each has at most one row."""
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
    """Divide rollouts among learners, and each share into micro-batches, the same number on every learner.

    Returns for each learner its share, as positions into `lengths`, and its micro-batches, as positions into the share.
    """
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
    layout: Layout = LAYOUTS["padded"],
) -> list[TrainBatch]:
    """Build one TrainBatch per learner.

    advantages: one `[G]` array per group.
    num_learners: number of learners that train together; 0 and 1 both mean one.
    layout: the learner's layout, which defines the cost of a micro-batch and which rollouts must stay together.
    """
    learners = max(1, num_learners)
    rollouts: list[list[Rollout]] = [[] for _ in range(learners)]
    row_advantages: list[list[float]] = [[] for _ in range(learners)]
    minibatches: list[list[Minibatch]] = [[] for _ in range(learners)]

    for step in split_minibatches(len(groups), minibatch_prompts):
        members = [
            [(groups[g].rollouts[i], advantages[g][i]) for i in unit]
            for g in step
            for unit in layout.units(groups[g].rollouts, max_tokens_per_microbatch)
        ]
        lengths = [shared_tokens([r for r, _ in unit]) for unit in members]
        num_loss_tokens = sum(len(r.completion_ids) for unit in members for r, _ in unit)
        num_sequences = sum(map(len, members))
        for k, (share, cut) in enumerate(_divide(lengths, learners, max_tokens_per_microbatch, layout.cost)):
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
