"""A replay is the run's update again, to the last bit, and its parts of the gradient's norm are what they say."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.tune.utils.util import SafeFallbackEncoder

from aspo_rllib import ASPOConfig
from aspo_rllib.model.companions import load_tokenizer
from aspo_rllib.replay import table
from aspo_rllib.replay.__main__ import main
from aspo_rllib.replay.replaying import find_start, replay
from aspo_rllib.replay.saved import SavedBatch, find_trial
from aspo_rllib.run.trial_folder import trial_folder

ITERATIONS = 4


@pytest.fixture(scope="module")
def trial(ray_session, make_config, tmp_path_factory):
    """The folder of a run of four iterations, with the last three batches and, as Tune names them, every checkpoint."""
    config = make_config(warmup_steps=20, num_epochs=3, kl_coef=0.01, grad_clip=0.5)
    config.llm(engine="transformers").debugging(saved_batches=3)
    algo = config.build_algo()
    folder = trial_folder(algo)
    for iteration in range(ITERATIONS):
        with (folder / "result.json").open("a") as file:  # as Tune writes it
            print(json.dumps(algo.train(), cls=SafeFallbackEncoder), file=file)
        algo.save_to_path(folder / f"checkpoint_{iteration:06d}")
    algo.stop()
    yield Path(shutil.copytree(folder, tmp_path_factory.mktemp("experiment") / "trial"))
    shutil.rmtree(folder)


def results_of(trial):
    return [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]


def without_checkpoints(trial, folder, *missing):
    """A copy of the trial's folder without the checkpoints of these iterations."""
    shutil.copytree(trial, folder)
    for iteration in missing:
        shutil.rmtree(folder / f"checkpoint_{iteration - 1:06d}")
    return folder


def test_the_latest_batches_are_kept_whole(trial):
    files = sorted(path.name for path in (trial / "rollouts").iterdir())
    assert files == [f"iteration_{n:06d}.parquet" for n in (2, 3, 4)]
    batch = SavedBatch.read(trial)
    assert (batch.iteration, batch.weights_version) == (4, results_of(trial)[2]["sync"]["weights_version"])
    assert isinstance(batch.config, ASPOConfig) and batch.config.grad_clip == 0.5
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    assert len(batch.groups) == 4 and len(rollouts) == 32
    assert np.mean([r.reward for r in rollouts]) == results_of(trial)[3]["reward"]["mean"]
    assert {r.weights_version for r in rollouts} == {batch.weights_version}
    assert {len(r.sampler_logprobs) - len(r.completion_ids) for r in rollouts} == {0}


@pytest.mark.parametrize("iteration", [2, 3, 4])
def test_a_replay_is_the_runs_update_to_the_last_bit(trial, iteration):
    again, result = replay(trial, iteration), results_of(trial)[iteration - 1]
    assert again.start.path.name == f"checkpoint_{iteration - 2:06d}"
    assert again.start.weights_version == again.batch.weights_version
    learner = result["learners"]["default_policy"]
    assert again.metrics["learners/default_policy/total_loss"] == learner["total_loss"]
    assert again.metrics["learners/default_policy/kl_loss"] == learner["kl_loss"]
    assert again.metrics["optim/grad_norm"] == result["optim"]["grad_norm"]
    for name in ("ratio/mean", "ratio/max", "clip/pos_frac", "kl/old", "kl/ref", "kl/sampler", "entropy/mean"):
        group, key = name.split("/")
        assert again.metrics[name] == result[group][key]
    assert again.of_run["optim/grad_norm"] == result["optim"]["grad_norm"]


def test_each_step_has_its_own_numbers(trial):
    again = replay(trial, 3)
    norms = [step.grad_norm for step in again.steps]
    assert len(norms) in (3, 6)  # 3 epochs of at most 2 mini-batches
    assert again.metrics["optim/grad_norm"] == sum(norms) / len(norms)
    losses = [step.metrics["learners/default_policy/total_loss"] for step in again.steps]
    assert again.metrics["learners/default_policy/total_loss"] == pytest.approx(np.mean(losses))
    # The first mini-batch is scored by the weights that it is trained with.
    assert again.steps[0].metrics["ratio/min"] == again.steps[0].metrics["ratio/max"] == 1
    last = again.steps[-1].metrics
    assert last["ratio/min"] < 1 < last["ratio/max"] and last["ratio/min"] < last["ratio/mean"] < last["ratio/max"]


def test_the_parts_add_up_to_the_norm(trial):
    for step in replay(trial, 4).steps:
        assert sum(row.parts.sum() for row in step.rows) == pytest.approx(step.grad_norm, rel=0.01)


def test_a_completions_part_is_its_gradient_along_the_whole_one(trial):
    # Without a KL term the first step's loss is the sum over completions of -A * sum(logp) / (tokens of the step).
    settings = ["kl_coef=0.0", "aggregation='token'", "num_epochs=1", "minibatch_prompts=4"]
    again = replay(trial, 4, assignments=settings)
    (step,) = again.steps
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(again.start.path / "learner_group" / "hf").eval()
    num_tokens = sum(len(rollout.completion_ids) for _, _, rollout in again.rollouts)
    gradients = []
    for (_, _, rollout), advantage in zip(again.rollouts, again.advantages, strict=True):
        ids = torch.from_numpy(np.concatenate([rollout.prompt_ids, rollout.completion_ids]).astype(np.int64))
        logprobs = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
        start = len(rollout.prompt_ids)
        chosen = logprobs[torch.arange(start - 1, len(ids) - 1), ids[start:]]
        loss = -float(advantage) * chosen.sum() / num_tokens
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    whole = sum(gradients)
    assert float(whole.norm()) == pytest.approx(step.grad_norm, rel=1e-4)
    expected = [float(g @ whole / whole.norm()) for g in gradients]
    parts = {row.number: row.parts.sum() for row in step.rows}
    found = [parts[number] for number in range(len(expected))]
    assert found == pytest.approx(expected, rel=0.02, abs=2e-3 * step.grad_norm)
    assert max(expected) > 0.05 * step.grad_norm


def test_other_weights_are_named_and_catching_up_finds_the_runs(trial, tmp_path, capsys):
    folder = without_checkpoints(trial, tmp_path / "trial", 2, 3)
    main([str(folder), "--iteration", "4"])
    shown = capsys.readouterr().out
    versions = [r["sync"]["weights_version"] for r in results_of(trial)]
    off = int(versions[2] - versions[0])
    assert f"checkpoint_000000, of iteration 1: version {versions[0]:.0f}, {off} updates before the run's" in shown
    assert replay(folder, 4).metrics["optim/grad_norm"] != results_of(trial)[3]["optim"]["grad_norm"]
    again = replay(folder, 4, catch_up=True)
    assert again.start.weights_version == versions[2]
    assert again.metrics["optim/grad_norm"] == results_of(trial)[3]["optim"]["grad_norm"]


def test_without_a_checkpoint_it_begins_with_the_initial_model(trial, tmp_path):
    folder = without_checkpoints(trial, tmp_path / "trial", 1, 2, 3, 4)
    assert find_start(folder, 4).path is None
    again = replay(folder, 2)
    assert "the initial model: version 0, 1 update before the run's version 1" in table.describe_start(again)
    assert again.metrics["kl/ref"] > 0  # the weights moved from the reference during the update only
    assert again.steps[0].metrics["kl/ref"] == pytest.approx(0, abs=1e-9)


def test_the_command_needs_no_ray_and_shows_tokens_in_their_text(trial):
    command = [sys.executable, "-m", "aspo_rllib.replay", str(trial.parent), "--iteration", "3", "--top", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"RAY_ADDRESS": "no-such-host:1"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("batch       iteration 3: 4 prompts, 32 completions")
    assert lines[1].startswith("weights     checkpoint_000001, of iteration 2: version 2, as in the run")
    (whole,) = [line.split() for line in lines if line.split()[:1] == ["all"]]
    (of_run,) = [line.split() for line in lines if line.split()[:1] == ["run"]]
    assert whole[1:4] == of_run[1:4] and of_run[4] == "-"  # the run itself records no smallest ratio
    assert sum("[[" in line and "]]" in line for line in lines) == 3


def test_a_step_that_is_not_finite_shows_the_token(trial, tmp_path):
    folder = shutil.copytree(trial, tmp_path / "trial")
    batch = SavedBatch.read(folder, 4)
    group = batch.groups[0]
    broken = group.rollouts[0].sampler_logprobs.copy()
    broken[1] = np.nan
    rollouts = (replace(group.rollouts[0], sampler_logprobs=broken), *group.rollouts[1:])
    replace(batch, groups=[replace(group, rollouts=rollouts), *batch.groups[1:]]).write(folder, {}, keep=3)
    again = replay(folder, 4, assignments=["old_logprobs='sampler'", "drop_uniform_groups=False"])
    number = table.largest_step(again)
    assert not math.isfinite(again.steps[number - 1].grad_norm)
    config = again.config
    tokenizer = load_tokenizer(config.base_model, trust_remote_code=False, chat_template=config.chat_template)
    lines = table.describe_step(again, number, tokenizer, top=1).splitlines()
    assert "gradient norm nan; sizes of dL/dlogp instead of parts" in lines[0]
    part, task, sample, token, *_ = lines[-1].split()
    assert (part, int(task), int(sample), int(token)) == ("inf", group.index, 0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iteration", "1"], "iteration=1: {trial}/rollouts has those of 2-4"),
        (["--set", "clip_hihg=1"], "no field 'clip_hihg'. Did you mean 'clip_high'"),
        (["--set", "clip_low=7"], "clip_low=7: expected in [0, 1], or None. Change the run's settings"),
        (["--checkpoint", "nowhere"], "checkpoint='nowhere': expected the folder of a checkpoint"),
        (["--step", "99"], "--step 99: expected 1 to "),
    ],
)
def test_a_mistake_is_named(trial, arguments, message):
    with pytest.raises(SystemExit) as error:
        main([str(trial), *arguments])
    assert message.format(trial=trial) in str(error.value)


def test_a_folder_without_batches_says_how_to_get_them(tmp_path):
    with pytest.raises(SystemExit, match="saved_batches"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="there is no such folder"):
        main([str(tmp_path / "nowhere")])


def test_several_trials_are_not_guessed_between(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "rollouts").mkdir(parents=True)
        (tmp_path / name / "rollouts" / "iteration_000001.parquet").touch()
    with pytest.raises(ValueError, match="several trials have saved batches"):
        find_trial(tmp_path)
    assert find_trial(tmp_path / "a") == tmp_path / "a"
