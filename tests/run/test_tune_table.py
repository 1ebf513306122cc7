"""What a plain Tuner prints: the main metrics of each trial in Tune's table, and no config."""

import contextlib
import os
import sys

import pytest
from ray import tune

from aspo_rllib.run.tune_table import table_values


def test_the_values_are_those_of_the_iteration():
    result = {
        "reward": {"accuracy": 0.25},
        "learners": {"default_policy": {"total_loss": -0.5}},
        "entropy": {"mean": 0.125},
        "held_out_accuracy": 0.75,
        "tokens": {"completion": 300},
    }
    assert table_values(result, 2.0) == {
        "mean_accuracy": 0.25,
        "mean_loss": -0.5,
        "held_out_accuracy": 0.75,
        "mean_entropy": 0.125,
        "tokens_per_s": 150.0,
    }


def test_an_iteration_without_update_and_verdict_has_only_its_speed():
    assert table_values({"reward": {"mean": 1.0}, "tokens": {"completion": 3}}, 1.5) == {"tokens_per_s": 2.0}


@pytest.mark.slow
def test_a_plain_tuner_prints_a_table_and_no_config(ray_session, make_config, tmp_path, capfd):
    assert os.environ["RAY_TUNE_CALLBACKS"] == "aspo_rllib.run.tune_table.QuietTrials"
    config = make_config().llm(engine="transformers")
    config.evaluation(evaluation_interval=1, evaluation_duration=4, evaluation_config={})
    config.seed = tune.grid_search([0, 1])
    run_config = tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 1})
    with contextlib.redirect_stdout(sys.__stdout__):  # Tune pickles what it prints to
        results = tune.Tuner("ASPO", param_space=config, run_config=run_config).fit()
    assert not results.errors
    printed = capfd.readouterr().out
    final = printed[printed.rindex("== Status ==") :]
    headings = next(line for line in final.splitlines() if "Trial name" in line)
    expected = ("seed", "acc", "iter", "held_out_accuracy", "mean_entropy", "tokens_per_s")
    assert [name for name in expected if f" {name} " not in headings] == []
    assert final.count("TERMINATED |") == 2
    assert "batch_prompts" not in printed and "Result for" not in printed
