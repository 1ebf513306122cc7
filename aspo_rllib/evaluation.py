"""Evaluation on the training runners, between iterations: the same prompts with the same request seeds every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN, EVALUATION_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from aspo_rllib.rollout_queue import sample_groups
from aspo_rllib.samples import completion_rows
from aspo_rllib.scores import scores
from aspo_rllib.types import RolloutGroup

if TYPE_CHECKING:
    from aspo_rllib.aspo import ASPO


def evaluate(algorithm: ASPO, eval_env_runner_group: object) -> tuple[dict[str, float], int, int]:
    """RLlib's `custom_evaluation_function`: asks every evaluation set, one after the other.

    Without `eval_sets` the numbers of `summarize` are the result. With them, each set's stand under its name, and
    `accuracy` is the mean over the sets.
    """
    results: dict[str, float] = {}
    accuracies, rewards = [], []
    algorithm.latest_evaluation_groups = {}
    for name, evaluation_set in algorithm.evaluation_sets.items():
        tasks, num_overlong = evaluation_set.tasks()
        groups = sample_groups(algorithm.env_runner_group, tasks, evaluation_set.config)
        numbers = summarize(groups) | {"overlong_prompts": float(num_overlong)}
        prefix = f"{name}/" if algorithm.config.eval_sets else ""
        results |= {f"{prefix}{number}": value for number, value in numbers.items()}
        accuracies.append(numbers["accuracy"])
        rewards.append(np.mean([r.reward for g in groups for r in g.rollouts]))
        algorithm.latest_evaluation_groups[name] = groups
    results["accuracy"] = float(np.mean(accuracies))
    results[f"{ENV_RUNNER_RESULTS}/{EPISODE_RETURN_MEAN}"] = float(np.mean(rewards))
    logger = MetricsLogger(root=False)
    for name, value in results.items():
        logger.log_value(tuple(name.split("/")), float(value), reduce="mean", window=1)
    algorithm.metrics.aggregate([logger.reduce()], key=EVALUATION_RESULTS)
    completions = sum(len(g.rollouts) for groups in algorithm.latest_evaluation_groups.values() for g in groups)
    return results, completions, completions


def summarize(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The scores of groups of k completions each.

    Prompts with a completion that could not be graded are left out and counted as `ungraded_prompts`. Raises
    RuntimeError if all are.
    """
    graded = [group for group in groups if not group.num_ungraded]
    if not graded:
        raise RuntimeError(f"Grading failed on all {len(groups)} prompts of the evaluation, after a second try each.")
    return scores(completion_rows(graded)) | {"ungraded_prompts": float(len(groups) - len(graded))}
