"""Metrics' names that every tracker accepts, and a run that MLflow and W&B record."""

import math
import os
import re

import pytest
from ray import tune

from aspo_rllib.metric_names import legal_parts


def test_labels_become_parts_of_legal_names():
    labels = ["openai/gsm8k", "C++", "aime", "MATH-500", "2.5"]
    assert list(legal_parts(labels).values()) == ["openai_gsm8k", "C__", "aime", "MATH_500", "2_5"]


def test_labels_that_would_share_a_name_or_lose_all_of_it_stay_apart():
    labels = ["a-b", "a/b", "a", "数学", "", "几何"]
    parts = legal_parts(labels)
    assert len(set(parts.values())) == len(labels)
    assert parts["a"] == "a" and re.fullmatch(r"a_b_[0-9a-f]{6}", parts["a-b"])
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", part) for part in parts.values())
    assert legal_parts(reversed(labels)) == parts  # whatever their order
    assert parts["数学"] == legal_parts(["数学"])["数学"]  # and whatever the others


@pytest.mark.slow
def test_mlflow_and_wandb_record_a_run_with_an_evaluation(ray_session, make_config, tmp_path, monkeypatch):
    mlflow, wandb = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.air.integrations.wandb import WandbLoggerCallback

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the only store of mlflow-skinny without a server
    config = make_config().llm(engine="transformers")
    config.evaluation(evaluation_interval=1, eval_sets={"test": {}, "train": {"env_config": {}}})
    callbacks = [
        MLflowLoggerCallback(tracking_uri=f"file://{tmp_path}/mlflow", experiment_name="tracked"),
        WandbLoggerCallback(project="tracked", mode="offline", dir=str(tmp_path)),
    ]
    run_config = tune.RunConfig(
        stop={"training_iteration": 2}, storage_path=str(tmp_path / "results"), name="tracked", callbacks=callbacks
    )
    (result,) = tune.Tuner("ASPO", param_space=config, run_config=run_config).fit()
    assert result.error is None

    (run,) = mlflow.search_runs(experiment_names=["tracked"], output_format="list")
    assert run.info.status == "FINISHED"
    for name in ("evaluation/test/avg_at_8", "evaluation/test/by_source/arithmetic_add_3/accuracy", "reward/mean"):
        shown = result.metrics_dataframe[name].iloc[-1]
        assert math.isclose(run.data.metrics[name], shown)
    (offline,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert wandb.__version__ and os.path.getsize(offline) > 0
