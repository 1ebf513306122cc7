"""Evaluation on the training runners, between iterations: avg@k and pass@k over held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN, EVALUATION_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from aspo_rllib.env_runner import sample_groups
from aspo_rllib.metrics import pass_at_k, standard_error
from aspo_rllib.types import RolloutGroup


def evaluate(algorithm, eval_env_runner_group) -> tuple[dict, int, int]:
    """RLlib's `custom_evaluation_function`: the first `evaluation_duration` tasks of the evaluation config's env.

    Every evaluation asks the same prompts with the same request seeds, so that differences come from the weights.
    """
    config = algorithm.evaluation_config
    prompts = algorithm.evaluation_prompts
    asked = range(min(config.evaluation_duration, len(prompts)))
    tasks = [(i, i) for i in asked if prompts.num_tokens(i) <= config.max_prompt_tokens]
    if not tasks:
        raise ValueError(
            f"max_prompt_tokens={config.max_prompt_tokens}: all {len(asked)} prompts of the evaluation are longer."
        )
    groups = sample_groups(algorithm.env_runner_group, tasks, config)
    results = summarize(groups) | {"overlong_prompts": float(len(asked) - len(tasks))}
    logger = MetricsLogger(root=False)
    for name, value in results.items():
        logger.log_value(name, value, reduce="mean", window=1)
    mean_reward = float(np.mean([r.reward for g in groups for r in g.rollouts]))
    logger.log_value((ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN), mean_reward, reduce="mean", window=1)
    algorithm.metrics.aggregate([logger.reduce()], key=EVALUATION_RESULTS)
    completions = sum(len(g.rollouts) for g in groups)
    return results, completions, completions


def summarize(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Accuracy with its standard error over prompts, for groups of k completions each.

    Prompts with a completion that could not be graded are left out and counted. Raises RuntimeError if all are.
    """
    num_asked = len(groups)
    groups = [g for g in groups if not g.num_ungraded]
    if not groups:
        raise RuntimeError(f"Grading failed on all {num_asked} prompts of the evaluation, after a second try each.")
    correct = np.array([[r.correct for r in g.rollouts] for g in groups])
    k = correct.shape[1]
    per_prompt, passed = correct.mean(axis=1), pass_at_k(correct, k)
    lengths = [len(r.completion_ids) for g in groups for r in g.rollouts]
    return {
        "accuracy": float(per_prompt.mean()),
        f"avg@{k}": float(per_prompt.mean()),
        f"avg@{k}_se": standard_error(per_prompt),
        f"pass@{k}": float(passed.mean()),
        f"pass@{k}_se": standard_error(passed),
        "num_prompts": float(len(groups)),
        "ungraded_prompts": float(num_asked - len(groups)),
        "length_mean": float(np.mean(lengths)),
        "truncated_frac": float(np.mean([r.finish_reason == "length" for g in groups for r in g.rollouts])),
    }
