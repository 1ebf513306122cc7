"""Evaluation on the training runners, between iterations, with the same prompts and request seeds every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN

from aspo_rllib.evaluate.samples import completion_rows
from aspo_rllib.evaluate.scores import scores
from aspo_rllib.evaluate.sets import EvaluationSet
from aspo_rllib.rollout.pool import RunnerPool
from aspo_rllib.rollout.queue import sample_groups
from aspo_rllib.rollout.stats import check_completions
from aspo_rllib.types import RolloutGroup


class SampledSet(NamedTuple):
    """The sampled groups of one evaluation set.

    num_overlong: number of prompts that were left out because they are too long.
    """

    groups: list[RolloutGroup]
    num_overlong: int


def sample_sets(runners: RunnerPool, sets: Mapping[str, EvaluationSet]) -> dict[str, SampledSet]:
    """Sample the completions of every set, one set after the other."""
    sampled = {}
    for name, evaluation_set in sets.items():
        tasks, num_overlong = evaluation_set.tasks()
        sampled[name] = SampledSet(sample_groups(runners, tasks, evaluation_set.config), num_overlong)
    return sampled


def summarize_sets(sampled: Mapping[str, SampledSet], *, named: bool) -> dict[str, float]:
    """The results of an evaluation: those of `summarize` for each set, and the mean accuracy and reward over the sets.

    named: whether the names of a set's results begin with the set's name. Without `eval_sets` there is one set without
        a name.
    """
    results: dict[str, float] = {}
    accuracies, rewards = [], []
    for name, (groups, num_overlong) in sampled.items():
        numbers = summarize(groups) | {"overlong_prompts": float(num_overlong)}
        prefix = f"{name}/" if named else ""
        results |= {f"{prefix}{number}": value for number, value in numbers.items()}
        if "accuracy" in numbers:
            accuracies.append(numbers["accuracy"])
        rewards.append(np.mean([r.reward for g in groups for r in g.rollouts]))
    if accuracies:
        results["accuracy"] = float(np.mean(accuracies))
    results[f"{ENV_RUNNER_RESULTS}/{EPISODE_RETURN_MEAN}"] = float(np.mean(rewards))
    return results


def summarize(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The scores of groups of k completions each.

    Prompts with a completion that could not be graded are left out and counted as `ungraded_prompts`. Raises
    RuntimeError if no prompt is left.
    """
    graded = [group for group in groups if not group.num_ungraded]
    if not graded:
        check_completions(groups)
        raise RuntimeError(f"Grading failed on all {len(groups)} prompts of the evaluation; each was tried twice.")
    return scores(completion_rows(graded)) | {"ungraded_prompts": float(len(groups) - len(graded))}
