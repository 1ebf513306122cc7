"""Continuing a run: what its command may change, and that Tune's stored trials get it."""

import json
import re

import pytest
from ray.tune.experiment import Trial

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.run.begun import check_begun
from aspo_rllib.run.resuming import StoredRun


def config_of(**training):
    return (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
        .llm(model=TINY_MODEL, max_prompt_tokens=32)
        .training(betas=(0.9, 0.95), **training)
        .evaluation(evaluation_config={"env_config": {"split": "test"}})
        .debugging(seed=0)
    )


@pytest.fixture
def folder(tmp_path):
    """A Tune experiment's folder with the state of one trial, as Tune writes it."""
    trial = Trial("ASPO", config=config_of().to_dict(), stub=True, stopping_criterion={"training_iteration": 60})
    trial.create_placement_group_factory()
    state = {"trial_data": [trial.get_json_state()], "runner_data": {}}
    (tmp_path / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))
    return tmp_path


def test_a_folder_without_state_has_no_run(tmp_path):
    assert StoredRun.read(str(tmp_path)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config,
        lambda config: config.env_runners(num_env_runners=2, num_gpus_per_env_runner=1).learners(num_learners=4),
        lambda config: config.training(max_tokens_per_microbatch=4096).evaluation(evaluation_interval=5),
    ],
)
def test_the_same_learning_on_other_machines_goes_on(folder, change):
    StoredRun.read(str(folder)).check(change(config_of()).to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.training(loss="grpo"), "loss='aspo', not 'grpo'"),
        (lambda config: config.debugging(seed=1), "seed=0, not 1"),
        (lambda config: config.llm(model="other"), "not 'other'"),
        (lambda config: config.environment(env_config={"digits": 2}), "env_config/digits=3, not 2"),
        (lambda config: config.environment(env_config={"split": "x"}), "env_config/split=None, not 'x'"),
        (
            lambda config: config.evaluation(evaluation_config={"env_config": {"split": "train"}}),
            "evaluation_config/env_config/split='test', not 'train'",
        ),
        (lambda config: config.training(loss=check_begun), "loss='aspo', not <function check_begun"),
    ],
)
def test_other_learning_is_refused(folder, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        StoredRun.read(str(folder)).check(change(config_of()).to_dict())
    assert str(refusal.value).count(", not ") == 1  # and nothing else is named


def test_a_function_of_the_same_name_is_the_same_in_every_process(folder):
    trial = Trial("ASPO", config=config_of(loss=lambda x: x.ratio).to_dict(), stub=True)
    stored = StoredRun("", None, "", {}, [trial])
    stored.check(config_of(loss=lambda x: x.ratio).to_dict())  # another object at another address


def test_settings_are_written_once_and_then_compared(tmp_path):
    check_begun(tmp_path / "new", {"seeds": (1, 2), "lr": 0.1})
    check_begun(tmp_path / "new", {"seeds": [1, 2]})
    with pytest.raises(ValueError, match=r"new' was begun with seeds=\[1, 2\], not \[1\]; lr=0\.1, not 0\.2\. Use"):
        check_begun(tmp_path / "new", {"seeds": [1], "lr": 0.2})
