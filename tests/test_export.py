"""Which checkpoints have a loadable model, and how one is made of a checkpoint without."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from aspo_rllib import ASPOConfig
from aspo_rllib.doctor import preflight
from aspo_rllib.export import export

MODEL = Path("learner_group", "hf")


@pytest.fixture(scope="module")
def run(ray_session, make_config, weights_of, tmp_path_factory):
    """Checkpoints after iterations 1 and 2 of a run that exports every second one."""
    folder = tmp_path_factory.mktemp("run")
    algo = make_config().llm(engine="transformers", chat_template="{{ messages[0].content }}")
    algo = algo.checkpointing(export=2).build_algo()
    weights = []
    for iteration in (1, 2):
        algo.train()
        algo.save_to_path(folder / str(iteration))
        weights.append(weights_of(algo.learner_group))
    algo.stop()
    return SimpleNamespace(first=folder / "1", second=folder / "2", weights=weights)


def assert_same_files(a, b):
    assert {path.name: path.read_bytes() for path in a.iterdir()} == {p.name: p.read_bytes() for p in b.iterdir()}


def test_every_second_checkpoint_has_a_model(run):
    assert not (run.first / MODEL).exists()
    held = AutoModelForCausalLM.from_pretrained(run.second / MODEL, dtype=torch.float32).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in run.weights[1].items())


def test_the_command_makes_the_folder_that_the_run_would_have_written(run, tmp_path):
    command = [sys.executable, "-m", "aspo_rllib.export", str(run.second), "--out", str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model'}\n"
    assert_same_files(tmp_path / "model", run.second / MODEL)


def test_without_a_folder_the_model_goes_where_the_run_puts_it(run, tmp_path):
    checkpoint = shutil.copytree(run.first, tmp_path / "checkpoint")
    assert export(checkpoint) == checkpoint / MODEL
    held = AutoModelForCausalLM.from_pretrained(checkpoint / MODEL, dtype=torch.float32).state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in run.weights[0].items())
    assert [path.name for path in (checkpoint / MODEL).parent.glob("hf*")] == ["hf"]
    with pytest.raises(ValueError, match="exists already"):
        export(checkpoint)


def test_a_checkpoint_is_read_from_a_uri(run, tmp_path):
    with pytest.raises(ValueError, match="not a local folder: give the folder of the model"):
        export(f"file://{run.second}")
    assert_same_files(export(f"file://{run.second}", tmp_path / "model"), run.second / MODEL)


@pytest.mark.parametrize("named", [Path(), MODEL])
def test_a_checkpoint_without_a_model_is_answered_with_the_command(run, make_config, named):
    message = f"has no loadable model; `python -m aspo_rllib.export {run.first}` makes {run.first / MODEL}"
    with pytest.raises(ValueError, match=message):
        preflight.check_model(make_config().llm(model=str(run.first / named)))


def test_a_checkpoint_in_place_of_its_model_is_answered_with_the_models_folder(run, make_config):
    with pytest.raises(ValueError, match=f"is a checkpoint: give the folder of its model, {run.second / MODEL}"):
        preflight.check_model(make_config().llm(model=str(run.second)))
    preflight.check_model(make_config().llm(model=str(run.second / MODEL)))


def test_a_model_that_is_elsewhere_now_is_named(run, random_model, tmp_path):
    checkpoint = shutil.copytree(run.first, tmp_path / "checkpoint")
    record = checkpoint / "learner_group" / "base_model.json"
    begun = json.loads(record.read_text())
    record.write_text(json.dumps(begun | {"model": "/gone"}))
    with pytest.raises(ValueError, match="this run"):
        export(checkpoint, base_model=random_model)  # of other shapes
    assert export(checkpoint, base_model=begun["model"]) == checkpoint / MODEL


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"no base_model\.json"):
        export(tmp_path)
    checkpoint = shutil.copytree(run.first, tmp_path / "checkpoint")
    next((checkpoint / "learner_group" / "state").glob("*.distcp")).unlink()
    with pytest.raises(ValueError, match=r"shard .* is missing"):
        export(checkpoint)
    assert not (checkpoint / MODEL).exists()


@pytest.mark.parametrize("value", ["last", 0, -1, 1.5, True, None])
def test_other_values_are_refused(make_config, value):
    with pytest.raises(ValueError, match=r"checkpoint_export=.*: expected 'every', 'never', or an int >= 1"):
        make_config().checkpointing(export=value).validate()


def test_the_setting_counts_iterations():
    def exported(value):
        config = ASPOConfig().checkpointing(export=value)
        return [iteration for iteration in range(7) if config.exports(iteration)]

    assert exported("every") == list(range(7))
    assert exported("never") == []
    assert exported(3) == [0, 3, 6]
