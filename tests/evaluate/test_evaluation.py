"""Evaluation: what is left out, several sets, what train() reports of it, and the samples that are kept."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from ray import tune
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aspo_rllib.config.eval_sets import set_configs
from aspo_rllib.evaluate.in_training import summarize
from aspo_rllib.evaluate.samples import SamplesCallback, completion_rows
from aspo_rllib.run.pass_rates import PassRatesCallback
from aspo_rllib.run.trial_folder import trial_folder


def test_prompts_that_could_not_be_graded_are_left_out_and_counted(make_groups):
    # make_groups: every second completion is right. The second prompt lost one of its completions: its mean over the
    # others is not avg@2.
    whole, torn = make_groups([[(3, 2), (3, 4)], [(3, 9)]])
    torn = replace(torn, num_ungraded=1)
    results = summarize([whole, torn])
    assert (results["accuracy"], results["num_prompts"], results["ungraded_prompts"]) == (0.5, 1, 1)
    assert results["length_mean"] == 3
    with pytest.raises(RuntimeError, match="Grading failed on all 2 prompts"):
        summarize([torn, torn])


def test_an_envs_info_becomes_columns(make_groups):
    (group,) = make_groups([[(3, 2)]])
    known = {"data_source": "a/b", "difficulty": 3, "extracted": "7", "grade_status": "ok"}
    told = replace(group, rollouts=(replace(group.rollouts[0], info=known, completion="so 7"),))
    (row,) = completion_rows([told])
    assert (row["data_source"], row["difficulty"], row["extracted"], row["grade_status"]) == ("a/b", "3", "7", "ok")
    assert (row["index"], row["sample"], row["prompt"], row["completion"]) == (100, 0, "prompt 0", "so 7")
    assert (row["num_tokens"], row["finish_reason"], row["correct"], row["reward"]) == (2, "stop", False, 0.0)
    assert all(completion_rows([group])[0][name] is None for name in known)


# ---- several sets -------------------------------------------------------------------------------------------------


def test_a_set_goes_on_top_of_the_evaluation_config(make_config):
    config = make_config().evaluation(
        evaluation_config={"env_config": {"split": "test"}, "temperature": 0.8},
        eval_sets={
            "same_env": {"group_size": 4},
            "other_env": {"env": "aspo/Reasoning-v0", "env_config": {"tasks": {"gcd": 1}}, "temperature": 0.5},
        },
    )
    config.validate()
    same, other = set_configs(config).values()
    assert (same.env, same.env_config) == ("aspo/Arithmetic-v0", {"digits": 3, "split": "test"})
    assert (same.group_size, same.temperature, same.evaluation_duration) == (4, 0.8, 8)
    assert (other.env, other.env_config) == ("aspo/Reasoning-v0", {"tasks": {"gcd": 1}})
    assert (other.group_size, other.temperature, other.in_evaluation) == (8, 0.5, True)
    assert config.env_config == {"digits": 3} and config.group_size == 8


BAD_SETS = [
    ([], "eval_sets=[]: expected a dict"),
    ({}, "eval_sets={}: expected a dict"),
    ({"accuracy": {}}, "'accuracy'"),
    ({"a/b": {}}, "'a/b'"),
    ({"aime-24": {}}, "'aime-24'"),
    ({"": {}}, "the name ''"),
    ({"aime": None}, "eval_sets['aime']=None: expected a dict"),
    ({"aime": {"groupsize": 4}}, "eval_sets['aime']: unknown setting 'groupsize'. Did you mean 'group_size'?"),
    ({"aime": {"lr": 1}}, "eval_sets['aime']: unknown setting 'lr'"),
    ({"ok": {}, "aime": {"group_size": 0}}, "eval_sets['aime']: group_size=0: expected an int >= 1"),
    ({"aime": {"temperature": -1.0}}, "eval_sets['aime']: temperature=-1.0: expected >= 0"),
    ({"aime": {"temperature": 0.0}}, "eval_sets['aime']: group_size=8 at temperature=0"),
    ({"aime": {"evaluation_duration": "auto"}}, "eval_sets['aime']: evaluation_duration='auto': expected an int >= 1"),
    ({"aime": {"env": 3}}, "eval_sets['aime']: env=3: expected the id"),
    ({"aime": {"env_config": "x.jsonl"}}, "eval_sets['aime']: env_config='x.jsonl': expected a dict"),
]


@pytest.mark.parametrize(("eval_sets", "message"), BAD_SETS, ids=[str(sets) for sets, _ in BAD_SETS])
def test_a_bad_set_is_named_with_its_field(make_config, eval_sets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_config().evaluation(eval_sets=eval_sets).validate()


def test_a_bad_evaluation_config_is_refused_before_anything_starts(make_config):
    with pytest.raises(ValueError, match="evaluation_config: top_p=2: expected in"):
        make_config().evaluation(evaluation_config={"top_p": 2}).validate()


def test_an_env_that_cannot_be_made_names_its_set_before_any_engine_starts(ray_session, make_config):
    config = make_config().evaluation(eval_sets={"hard": {"env_config": {"digits": 0}}})
    with pytest.raises(ValueError, match="digits=0") as error:
        config.build_algo()
    assert error.value.__notes__ == ["This is the env of the evaluation set 'hard'."]


class DigitEnv(gym.Env):
    """Name the digit that follows; not the training env, and of unequal difficulty."""

    observation_space = action_space = gym.spaces.Text(1000)

    def __init__(self, config):
        self.first = config["first"]

    def __len__(self):
        return 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.index = options["index"]
        return f"{self.first}+{self.index}=", {"difficulty": "odd" if self.index % 2 else "even"}

    def step(self, action):
        correct = action.strip() == str(self.first + self.index)
        return "", float(correct), True, False, {"correct": correct}


@pytest.fixture(scope="module")
def run(ray_session, make_config):
    """Three iterations with an evaluation of three sets before them and after the second, and two more by hand."""
    config = make_config().callbacks(type("Often", (SamplesCallback,), {"training_interval": 1}))
    config.evaluation(
        evaluation_interval=2,
        eval_sets={
            "test": {},
            "long": {"env_config": {"split": "test"}, "group_size": 4, "max_completion_tokens": 40},
            "digits": {"env": DigitEnv, "env_config": {"first": 200}, "evaluation_duration": 100, "group_size": 2},
        },
    )
    algo = config.build_algo()
    results = [algo.train() for _ in range(3)]
    yield SimpleNamespace(algo=algo, results=results, by_hand=[algo.evaluate(), algo.evaluate()])
    algo.stop()


@pytest.mark.slow
def test_every_set_has_its_own_numbers(run):
    evaluation = run.results[1]["evaluation"]
    for name, k, num_prompts in (("test", 8, 8), ("long", 4, 8), ("digits", 2, 5)):
        numbers = evaluation[name]
        assert numbers["num_prompts"] == num_prompts
        assert numbers["accuracy"] == numbers[f"avg_at_{k}"] <= numbers[f"pass_at_{k}"]
    assert evaluation["accuracy"] == np.mean([evaluation[name]["accuracy"] for name in ("test", "long", "digits")])
    assert evaluation["test"]["by_source"]["arithmetic_add_3"]["num_prompts"] == 8
    assert {name: numbers["num_prompts"] for name, numbers in evaluation["digits"]["by_difficulty"].items()} == {
        "even": 3,
        "odd": 2,
    }
    assert run.results[0]["evaluation_at_start"]["test"].keys() == evaluation["test"].keys()


@pytest.mark.slow
def test_train_carries_the_latest_evaluation(run):
    first, second, third = run.results
    assert first["evaluation_at_start"] == first["evaluation"]
    assert first["evaluation"]["iteration"] == 0 and second["evaluation"]["iteration"] == 2
    assert third["evaluation"] == second["evaluation"] and "evaluation_at_start" not in third
    assert 0 <= second["evaluation"]["accuracy"] <= 1


@pytest.mark.slow
def test_a_set_is_asked_with_the_same_seeds_every_time(run):
    once, again = run.by_hand
    for name in ("test", "long"):
        assert again[name] == once[name]
    assert np.isnan(again["digits"]["maj_at_2"])  # this env extracts no answers
    assert again["digits"]["accuracy"] == once["digits"]["accuracy"]


@pytest.mark.slow
def test_every_runner_makes_the_env_of_a_set_once(run):
    envs = run.algo.env_runner_group.foreach_env_runner(
        lambda runner: [type(encoder.env.unwrapped).__name__ for encoder, _ in runner._tasks.values()],
        local_env_runner=False,
    )[0]
    assert envs == ["ArithmeticEnv", "ArithmeticEnv", "DigitEnv"]  # training, test and long, digits


@pytest.mark.slow
def test_the_groups_of_the_last_evaluation_are_there_for_callbacks(run):
    groups = run.algo.latest_evaluation_groups
    assert {name: len(g) for name, g in groups.items()} == {"test": 8, "long": 8, "digits": 5}
    assert groups["digits"][3].prompt == "200+3="


@pytest.mark.slow
def test_samples_of_evaluations_and_training_are_kept(run):
    algo = run.algo
    folder = trial_folder(algo) / "samples"
    assert sorted(path.stem for path in folder.glob("*.parquet")) == [
        *(f"evaluation_{iteration:06}" for iteration in (0, 2, 3)),
        *(f"training_{iteration:06}" for iteration in (1, 2, 3)),
    ]
    evaluation = pd.read_parquet(folder / "evaluation_000003.parquet")
    assert evaluation.groupby("set").size().to_dict() == {"test": 8, "long": 8, "digits": 8}  # 4 prompts x 2 each
    asked = algo.latest_evaluation_groups["digits"][3].rollouts[1]
    (row,) = evaluation[(evaluation["set"] == "digits") & (evaluation["index"] == 3) & (evaluation["sample"] == 1)].iloc
    assert (row["prompt"], row["completion"], row["correct"]) == ("200+3=", asked.completion, asked.correct)

    training = pd.read_parquet(folder / "training_000003.parquet")
    assert len(training) == 8
    for _, row in training.iterrows():
        (group,) = [g for g in algo.latest_groups if g.index == row["index"]]
        assert row["completion"] == group.rollouts[row["sample"]].completion
        if group.position in algo.latest_advantages:
            assert row["advantage"] == algo.latest_advantages[group.position][row["sample"]]
            assert (row["advantage"] > 0) == row["correct"]
        else:
            assert np.isnan(row["advantage"])


@pytest.mark.slow
def test_samples_are_shown_in_tensorboard(run):
    events = EventAccumulator(str(trial_folder(run.algo) / "samples"))
    events.Reload()
    shown = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert {tag: sorted({e.step for e in list_}) for tag, list_ in shown.items()} == {
        "evaluation/text_summary": [0, 2, 3],
        "training/text_summary": [1, 2, 3],
    }
    text = shown["evaluation/text_summary"][0].tensor_proto.string_val[0].decode()
    assert "    200+3=" in text and "**set digits, index 3, sample 1, correct" in text


# ---- under Tune ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_samples_and_pass_rates_lie_in_the_trials_folder_under_tune(ray_session, make_config, tmp_path):
    config = make_config().evaluation(evaluation_interval=1).callbacks([SamplesCallback, PassRatesCallback])
    config.llm(engine="transformers")
    run_config = tune.RunConfig(stop={"training_iteration": 1}, storage_path=str(tmp_path), name="kept")
    (result,) = tune.Tuner("ASPO", param_space=config, run_config=run_config).fit()
    assert result.error is None
    assert (Path(result.path) / "samples" / "evaluation_000001.parquet").exists()
    assert len((Path(result.path) / "pass_rates.jsonl").read_text().splitlines()) == 4
    assert "evaluation/by_source/arithmetic_add_3/accuracy" in result.metrics_dataframe.columns
    # Tune's own events stay alone in their folder: TensorBoard follows one file per folder.
    assert len(list(Path(result.path).glob("events.out.tfevents*"))) == 1
