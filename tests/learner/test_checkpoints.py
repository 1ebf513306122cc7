"""What is on disk: whole or not there, loadable by others, and enough to go on as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from aspo_rllib import TINY_MODEL
from aspo_rllib.export import export
from aspo_rllib.learner.advantages import grpo
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.checkpoints import whole_folder

LENGTHS = [[(4, 3), (4, 17), (4, 8), (4, 1)], [(6, 30), (6, 2), (6, 12), (6, 5)]]
REWARDS = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], float)


@pytest.fixture
def update(make_groups):
    """One update with rollouts that depend on the seed."""

    def update(learners, seed=0):
        batches = build_train_batches(
            make_groups(LENGTHS, seed=seed),
            [grpo(r) for r in REWARDS],
            num_learners=len(learners),
            minibatch_prompts=1,
            max_tokens_per_microbatch=64,
        )
        return learners.update(**({"batches": batches} if learners.is_remote else {"batch": batches[0]}))

    return update


# ---- whole or not at all ------------------------------------------------------------------------------------------


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with whole_folder(tmp_path / "checkpoint") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "checkpoint").exists()
    assert (tmp_path / "checkpoint" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_failed_write_leaves_the_old_folder_as_it_was(tmp_path):
    path = tmp_path / "checkpoint"
    with whole_folder(path) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_folder(path) as partial:
        (partial / "a").write_text("new")
        raise OSError("disk full")
    assert (path / "a").read_text() == "old"


def test_a_new_folder_replaces_the_old_one_and_any_leftovers(tmp_path):
    path = tmp_path / "checkpoint"
    for name in ("first", "second"):
        (tmp_path / "checkpoint.partial").mkdir()
        (tmp_path / "checkpoint.partial" / "leftover").touch()
        with whole_folder(path) as partial:
            (partial / name).touch()
    assert [p.name for p in path.iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


# ---- training state -----------------------------------------------------------------------------------------------


def test_training_goes_on_as_if_it_had_not_stopped(build_learners, update, weights_of, tmp_path):
    # Warm-up and Adam's moments are still moving: a lost counter or moment would show.
    training = {"warmup_steps": 20, "weight_decay": 0.1, "num_epochs": 2}
    running = build_learners(**training)
    update(running, seed=0)
    running.save_to_path(tmp_path)
    resumed = build_learners(**training)
    resumed.restore_from_path(tmp_path)
    results = [update(learners, seed=1)[0] for learners in (running, resumed)]
    assert results[0].values == results[1].values and results[0].sums == results[1].sums
    assert running.weights().version == resumed.weights().version == 2
    a, b = weights_of(running), weights_of(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("updates_before", [0, 1])
def test_saving_changes_nothing(build_learners, update, weights_of, tmp_path, updates_before):
    saved, never_saved = build_learners(), build_learners()
    for learners in (saved, never_saved):
        for seed in range(updates_before):
            update(learners, seed)
    saved.save_to_path(tmp_path)
    a, b = (update(learners, seed=7) and weights_of(learners) for learners in (saved, never_saved))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_of_nothing_but_skipped_steps_restores(build_learners, make_groups, update, weights_of, tmp_path):
    skipped = build_learners()
    batches = build_train_batches(
        make_groups(LENGTHS),
        [np.full(4, np.nan)] * 2,
        num_learners=0,
        minibatch_prompts=2,
        max_tokens_per_microbatch=1000,
    )
    skipped.update(batch=batches[0])
    skipped.save_to_path(tmp_path)
    resumed = build_learners()
    resumed.restore_from_path(tmp_path)
    a, b = (update(learners, seed=7) and weights_of(learners) for learners in (skipped, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_restoring_an_older_checkpoint_undoes_later_steps(build_learners, update, weights_of, tmp_path):
    learners = build_learners()
    update(learners)
    then = weights_of(learners)
    learners.save_to_path(tmp_path)
    update(learners, seed=1)
    learners.restore_from_path(tmp_path)
    now = weights_of(learners)
    assert all(torch.equal(then[name], now[name]) for name in then)
    assert learners.weights().version == 1


@pytest.mark.parametrize("now", [{"weight_decay": 0.3}, {"betas": (0.5, 0.6)}, {"lr": 3e-5, "weight_decay": 0.0}])
def test_the_optimizers_settings_are_those_of_the_config_that_restores(build_learners, update, now, tmp_path):
    saved = build_learners(weight_decay=0.1, betas=(0.9, 0.99))
    update(saved)
    saved.save_to_path(tmp_path)
    restored = build_learners(**({"weight_decay": 0.1, "betas": (0.9, 0.99)} | now))
    restored.restore_from_path(tmp_path)
    update(restored)
    (group,) = restored.on_all(lambda learner: learner.optimizer.param_groups)[0]
    assert {name: group[name] for name in now} == now
    assert {float(s["step"]) for s in restored.on_all(lambda learner: learner.optimizer.state)[0].values()} == {4.0}


def test_with_lora_only_the_adapters_are_saved_and_training_goes_on(
    build_learners, update, weights_of, make_groups, tmp_path
):
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    running = build_learners(lora=lora)
    base = weights_of(running)
    update(running, seed=0)
    assert not all(torch.equal(base[name], tensor) for name, tensor in weights_of(running).items())
    running.save_to_path(tmp_path)
    saved = FileSystemReader(tmp_path / "state").read_metadata().state_dict_metadata
    assert all("lora_" in name for name in saved if name.startswith("model.")) and any(
        "lora_" in name for name in saved
    )
    running.export(tmp_path)
    assert_scores_like_the_learner(tmp_path / "hf", running, make_groups)  # merged: needs no peft
    resumed = build_learners(lora=lora)
    resumed.restore_from_path(tmp_path)
    a, b = (update(learners, seed=1) and weights_of(learners) for learners in (running, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(("saving", "restoring"), [(2, 1), (1, 2)])
def test_a_checkpoint_restores_on_another_number_of_learners(
    build_learners, update, weights_of, largest_difference, tmp_path, saving, restoring
):
    training = {"warmup_steps": 20, "num_epochs": 2}
    before = build_learners(num_learners=saving, **training)
    update(before, seed=0)
    before.save_to_path(tmp_path)
    after = build_learners(num_learners=restoring, **training)
    after.restore_from_path(tmp_path)
    assert largest_difference(weights_of(before), weights_of(after)) == 0
    results = [update(learners, seed=1)[0].values for learners in (before, after)]
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert largest_difference(weights_of(before), weights_of(after)) < 1e-5


# ---- the Hugging Face folder --------------------------------------------------------------------------------------


@pytest.fixture
def exported(build_learners, update, tmp_path):
    learners = build_learners()
    update(learners)
    learners.export(tmp_path)
    return learners, tmp_path / "hf"


def test_the_folder_opens_in_transformers_and_scores_like_the_learner(exported, make_groups):
    learners, folder = exported
    assert_scores_like_the_learner(folder, learners, make_groups)


def assert_scores_like_the_learner(folder, learners, make_groups):
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rollouts = [r for g in make_groups(LENGTHS, seed=5) for r in g.rollouts]
    prompts, completions = [r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts]
    (scores,) = learners.on_all(lambda learner: learner.score(prompts, completions))
    for prompt, completion, ours in zip(prompts, completions, scores, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
        with torch.no_grad():
            logprobs = hf_model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        np.testing.assert_allclose(ours, logprobs.gather(-1, ids[len(prompt) :, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": {"q_proj", "v_proj"}, "init_lora_weights": False}])
def test_the_folder_can_be_made_later_from_the_state(build_learners, update, lora, tmp_path):
    learners = build_learners(lora=lora)
    update(learners)
    learners.save_to_path(tmp_path / "checkpoint" / "learner_group")
    learners.export(tmp_path)
    later = export(tmp_path / "checkpoint")
    assert {p.name: p.read_bytes() for p in later.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "hf").iterdir()
    }


def test_the_folder_loads_without_missing_or_unexpected_weights(exported):
    _, info = AutoModelForCausalLM.from_pretrained(exported[1], output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_the_folder_holds_the_tokenizer_with_its_chat_template(exported):
    ours, source = (AutoTokenizer.from_pretrained(folder) for folder in (exported[1], TINY_MODEL))
    message = [{"role": "user", "content": "123+456="}]
    chats = [t.apply_chat_template(message, add_generation_prompt=True, return_dict=False) for t in (ours, source)]
    assert chats[0] == chats[1] and ours.eos_token_id == source.eos_token_id


def test_the_folder_keeps_the_models_config(exported, random_model):
    ours, source = (json.loads(Path(folder, "config.json").read_text()) for folder in (exported[1], random_model))
    assert ours == source


def test_a_process_killed_while_writing_leaves_the_old_folder_usable(tmp_path):
    path = tmp_path / "checkpoint"
    with whole_folder(path) as partial:
        (partial / "a").write_text("old")
    script = f"""
import pathlib, time
from aspo_rllib.learner.checkpoints import whole_folder
with whole_folder(pathlib.Path({str(path)!r})) as partial:
    (partial / "a").write_text("half of the new")
    print("writing", flush=True)
    time.sleep(600)
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.wait()
    assert (path / "a").read_text() == "old"
    with whole_folder(path) as partial:
        assert not list(partial.iterdir())  # nothing of the killed attempt
        (partial / "a").write_text("new")
    assert (path / "a").read_text() == "new"
