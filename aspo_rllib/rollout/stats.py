"""Metrics of a sampled batch of groups, computed before training on it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

import numpy as np

from aspo_rllib.metric_names import legal_parts
from aspo_rllib.types import BadNumbersError, Rollout, RolloutGroup

REPETITION_NGRAM_WORDS = 20


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Metrics of a batch of groups before any group is filtered out."""
    rollouts = [r for g in groups for r in g.rollouts]
    rewards = [[r.reward for r in g.rollouts] for g in groups]
    return {
        "reward/mean": float(np.mean(list(chain.from_iterable(rewards)))),
        "reward/std": float(np.std(list(chain.from_iterable(rewards)))),
        "reward/group_std": float(np.mean([np.std(of_group) for of_group in rewards])),
        "length/mean": float(np.mean([len(r.completion_ids) for r in rollouts])),
        **_lengths_by_ending(rollouts),
        "length/max": float(max(len(r.completion_ids) for r in rollouts)),
        "length/empty_frac": float(np.mean([not r.completion for r in rollouts])),
        "length/truncated_frac": float(np.mean([r.finish_reason == "length" for r in rollouts])),
        "repetition/frac": float(np.mean([r.repetition_frac for r in rollouts])),
        "grader/timeouts": float(sum(r.info.get("grade_status") == "timeout" for r in rollouts)),
        "grader/seconds": float(sum(r.info.get("grade_seconds", 0.0) for r in rollouts)),
        **_reward_means(groups),
        **_accuracies(groups),
    }


def _lengths_by_ending(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean tokens of the completions that the model ended, and of those that were cut; without those that are none."""
    by_ending: dict[str, list[int]] = defaultdict(list)
    for rollout in rollouts:
        ending = "truncated" if rollout.finish_reason == "length" else "finished"
        by_ending[ending].append(len(rollout.completion_ids))
    return {f"length/{ending}_mean": float(np.mean(lengths)) for ending, lengths in by_ending.items()}


def _reward_means(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """`reward/<name>/mean` of every named reward, over the completions that it applies to."""
    values: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for name, column in group.reward_columns().items():
            values[name] += [value for value in column if value is not None]
    return {f"reward/{name}/mean": float(np.mean(found)) for name, found in values.items() if found}


def _accuracies(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The shares of right completions and of uniform groups, and `reward/<set>/accuracy` of a mixture of envs, which
    tells the set of every rollout. Envs or sets that give rewards without a verdict have no part in them."""
    by_set: dict[str, list[list[bool | None]]] = defaultdict(list)
    for group in groups:
        by_set[group.rollouts[0].info.get("set", "")].append([r.correct for r in group.rollouts])
    judged = {name: verdicts for name, verdicts in by_set.items() if not any(None in v for v in verdicts)}
    everything = list(chain.from_iterable(judged.values()))
    if not everything:
        return {}
    return {
        "reward/accuracy": float(np.mean(list(chain.from_iterable(everything)))),
        "groups/all_right_frac": float(np.mean([all(v) for v in everything])),
        "groups/all_wrong_frac": float(np.mean([not any(v) for v in everything])),
    } | {
        f"reward/{name}/accuracy": float(np.mean(list(chain.from_iterable(judged[label]))))
        for label, name in legal_parts(judged).items()
        if label
    }


def failure_metrics(groups: Sequence[RolloutGroup]) -> dict[str, int]:
    """The numbers of completions that are missing because of grading errors, and because of NaN or inf logprobs."""
    num_nonfinite = sum(g.num_nonfinite for g in groups)
    if error := next((g.grade_error for g in groups if g.grade_error), None):
        warnings.warn(f"grader/errors: {error}. Such rollouts are dropped.", stacklevel=2)
    return {
        "grader/errors": sum(g.num_ungraded for g in groups) - num_nonfinite,
        "sampler/nonfinite": num_nonfinite,
    }


def staleness_metrics(groups: Sequence[RolloutGroup], weights_version: int) -> dict[str, float]:
    """The number of updates between the weights that sampled a rollout and the weights that now train on it."""
    staleness = [weights_version - r.weights_version for g in groups for r in g.rollouts]
    return {"staleness/mean": float(np.mean(staleness)), "staleness/max": float(max(staleness))}


def repetition(text: str) -> float:
    """Share of a text's word 20-grams that occurred earlier in the same text; 0 for texts of less than 20 words."""
    words = text.split()
    num_ngrams = len(words) - REPETITION_NGRAM_WORDS + 1
    if num_ngrams < 1:
        return 0.0
    distinct = set(zip(*(words[k:] for k in range(REPETITION_NGRAM_WORDS)), strict=False))
    return 1 - len(distinct) / num_ngrams


def check_completions(groups: Sequence[RolloutGroup]) -> None:
    """Raise BadNumbersError if most of the completions missing in these groups had NaN or inf log-probabilities."""
    nonfinite, missing = sum(g.num_nonfinite for g in groups), sum(g.num_ungraded for g in groups)
    if 2 * nonfinite > missing:
        raise BadNumbersError(
            f"sampler/nonfinite={nonfinite}: the engine returned NaN or inf log-probabilities for this many of "
            f"{missing + sum(len(g.rollouts) for g in groups)} completions, so that no batch can be built. The weights "
            "contain NaN or inf, or overflow in the engine's dtype: check llm_model, or use dtype='float32'."
        )
