"""Evaluation: its numbers by hand, and what train() reports of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from aspo_rllib.evaluation import summarize


def groups(verdicts, lengths=1, finish_reason="stop", num_ungraded=0):
    return [
        SimpleNamespace(
            num_ungraded=num_ungraded,
            rollouts=[
                SimpleNamespace(correct=bool(v), completion_ids=np.zeros(lengths), finish_reason=finish_reason)
                for v in row
            ],
        )
        for row in verdicts
    ]


def test_accuracy_is_the_mean_over_prompts_with_its_standard_error():
    # Per prompt 1/2, 0, 1: mean 1/2; std (ddof 1) of [.5, 0, 1] = 0.5, so the error is 0.5 / sqrt(3).
    results = summarize(groups([[1, 0], [0, 0], [1, 1]]))
    assert results["accuracy"] == results["avg@2"] == pytest.approx(0.5)
    assert results["avg@2_se"] == pytest.approx(0.5 / 3**0.5)
    assert results["pass@2"] == pytest.approx(2 / 3)  # two of three prompts were solved at least once
    assert results["num_prompts"] == 3


def test_truncated_completions_are_counted():
    results = summarize(groups([[0, 0]], lengths=8, finish_reason="length"))
    assert results["truncated_frac"] == 1 and results["length_mean"] == 8


def test_prompts_that_could_not_be_graded_are_left_out_and_counted():
    # The second prompt lost one of its completions: its mean over the other one is not avg@2.
    results = summarize(groups([[1, 0]]) + groups([[1]], num_ungraded=1))
    assert (results["accuracy"], results["num_prompts"], results["ungraded_prompts"]) == (0.5, 1, 1)
    with pytest.raises(RuntimeError, match="Grading failed on all 2 prompts"):
        summarize(groups([[1], [0]], num_ungraded=1))


@pytest.mark.slow
def test_train_carries_the_latest_evaluation(ray_session, make_config):
    config = make_config().evaluation(evaluation_interval=2)
    algo = config.build_algo()
    try:
        first, second, third = (algo.train() for _ in range(3))
    finally:
        algo.stop()
    assert first["evaluation_at_start"] == first["evaluation"]
    assert first["evaluation"]["iteration"] == 0 and second["evaluation"]["iteration"] == 2
    assert third["evaluation"] == second["evaluation"] and "evaluation_at_start" not in third
    assert 0 <= second["evaluation"]["accuracy"] <= 1
