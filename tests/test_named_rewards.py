"""Named rewards through a whole iteration: functions, weights, metrics, samples."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import reward_examples
import torch
from task_envs import NamedSums

from aspo_rllib import SamplesCallback


class EverySample(SamplesCallback):
    training_interval = 1
    num_prompts = completions_per_prompt = 8


def test_rewards_of_functions_are_weighted_logged_and_written(ray_session, make_config, tmp_path):
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{a}+{a + 1}=", "answer": str(2 * a + 1), "level": 2} for a in range(100, 116)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = ["reward_examples:length_reward", reward_examples.always_half]
    env_config = {"data": str(data), "rewards": rewards, "cache_dir": str(tmp_path)}
    config = (
        make_config(advantage="gdpo", drop_uniform_groups=False)
        .environment(NamedSums)
        .llm(engine="transformers", deterministic=True)
        .sampling(reward_weights={"correct": 1, "length_reward": -0.5, "Judge": 2})
        .callbacks(EverySample)
    )
    config.env_config = env_config  # `environment` adds to the settings of the env before
    config.evaluation_config = {"env_config": env_config}
    algo = config.build_algo()
    try:
        reward = algo.train()["reward"]
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        table = pq.read_table(next(Path(algo.logdir).glob("samples/training_*.parquet"))).to_pylist()
    finally:
        algo.stop()
        torch.use_deterministic_algorithms(False)  # the learner is in this process
    assert is_deterministic
    assert reward["Judge"]["mean"] == 0.5 and reward["length_reward"]["mean"] > 0
    expected = reward["correct"]["mean"] - 0.5 * reward["length_reward"]["mean"] + 1.0
    assert reward["mean"] == pytest.approx(expected) and reward["accuracy"] == reward["correct"]["mean"]
    for row in table:
        named = dict(row["rewards"])
        length = len(row["completion"]) / (2 * len(row["prompt"]))
        assert named == {"correct": float(row["correct"]), "length_reward": pytest.approx(length), "Judge": 0.5}
        assert row["reward"] == pytest.approx(named["correct"] - 0.5 * length + 1.0)


def test_prompts_without_answers_are_trained_on_and_have_no_accuracy(ray_session, make_config, tmp_path):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{a}+{a + 89}="}) + "\n" for a in range(356, 372)))
    env_config = {"data": str(data), "rewards": ["reward_examples:size"], "cache_dir": str(tmp_path)}
    config = make_config().environment("aspo/Prompts-v0").llm(engine="transformers")
    config.env_config = env_config  # `environment` adds to the settings of the env before
    config.evaluation_config = {"env_config": env_config}
    algo = config.sampling(reward_weights={"size": 2}).build_algo()
    try:
        result, evaluation = algo.train(), algo.evaluate()
    finally:
        algo.stop()
    assert "accuracy" not in result["reward"] and "accuracy" not in evaluation
    assert result["reward"]["mean"] == pytest.approx(2 * result["reward"]["size"]["mean"])
    assert result["groups"]["used_frac"] > 0 and result["optim"]["steps"] > 0
