"""The algorithm as users meet it: build, train, evaluate, save, restore, tune, stop."""

import contextlib
import copy
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.utils import flatten_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from aspo_rllib import ASPO, ASPOConfig, HistogramsCallback
from aspo_rllib.rollout import env_check
from aspo_rllib.rollout.queue import sample_groups
from aspo_rllib.run.trial_folder import trial_folder
from aspo_rllib.weights.object_store import fetch


class Recorder(RLlibCallback):
    """Writes down that it was called; on runners into the runner, on the driver into the algorithm."""

    def on_algorithm_init(self, *, algorithm, **kwargs):
        algorithm.calls = ["init"]

    def on_train_result(self, *, algorithm, result, **kwargs):
        algorithm.calls.append("train_result")
        result["from_callback"] = result["reward"]["mean"] + 1

    def on_evaluate_start(self, *, algorithm, **kwargs):
        algorithm.calls.append("evaluate_start")

    def on_evaluate_end(self, *, algorithm, evaluation_metrics, **kwargs):
        algorithm.calls.append("evaluate_end")

    def on_sample_end(self, *, env_runner, samples, **kwargs):
        env_runner.sampled = [*getattr(env_runner, "sampled", []), [g.prompt for g in samples]]

    def on_environment_created(self, *, env_runner, env, **kwargs):
        env_runner.environments = [*getattr(env_runner, "environments", []), type(env).__name__]


def on_runner(algo, func):
    return algo.env_runner_group.foreach_env_runner(func, local_env_runner=False)[0]


def completions(groups):
    return [r.completion_ids.tolist() for g in groups for r in g.rollouts]


def snapshot(algo, weights_of):
    """What must be equal for two runs to be at the same point: weights, place in the data, what comes next."""
    order = copy.copy(algo.task_order)
    tasks = order.lease(4)
    groups = sample_groups(algo.runners, tasks)
    return SimpleNamespace(weights=weights_of(algo.learner_group), tasks=tasks, completions=completions(groups))


def assert_same(a, b):
    assert a.tasks == b.tasks
    assert a.completions == b.completions
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.fixture(scope="module")
def run(ray_session, make_config, weights_of, tmp_path_factory):
    """Two iterations, an evaluation, a checkpoint, two more iterations."""
    algo = make_config(warmup_steps=20).callbacks([Recorder, HistogramsCallback]).build_algo()
    results = [algo.train(), algo.train()]
    calls = SimpleNamespace(driver=list(algo.calls), sampled=on_runner(algo, lambda runner: runner.sampled))
    evaluation = algo.evaluate()
    path = algo.save_to_path(tmp_path_factory.mktemp("run") / "checkpoint")
    saved = snapshot(algo, weights_of)
    results += [algo.train(), algo.train()]
    yield SimpleNamespace(
        algo=algo,
        results=results,
        calls=calls,
        evaluation=evaluation,
        path=path,
        saved=saved,
        final=snapshot(algo, weights_of),
    )
    algo.stop()


@pytest.fixture(scope="module")
def restored(run, weights_of):
    """The checkpoint in a new algorithm: at once, and two iterations later."""
    with contextlib.chdir(Path(run.path).parent):
        algo = ASPO.from_checkpoint("checkpoint")
    start, evaluation = snapshot(algo, weights_of), algo.evaluate()
    results = [algo.train(), algo.train()]
    yield SimpleNamespace(
        algo=algo, start=start, evaluation=evaluation, results=results, final=snapshot(algo, weights_of)
    )
    algo.stop()


# ---- train and evaluate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "reward/mean",
        "reward/accuracy",
        "reward/std",
        "reward/group_std",
        "ratio/mean",
        "ratio/pos_mean",
        "ratio/neg_mean",
        "ratio/max",
        "weight/pos_mean",
        "weight/neg_mean",
        "clip/pos_frac",
        "clip/neg_frac",
        "cap/pos_frac",
        "cap/neg_frac",
        "kl/old",
        "kl/sampler",
        "entropy/mean",
        "entropy/high_frac",
        "repetition/frac",
        "length/mean",
        "length/truncated_frac",
        "groups/all_right_frac",
        "groups/all_wrong_frac",
        "groups/used_frac",
        "grader/errors",
        "grader/timeouts",
        "optim/grad_norm",
        "optim/skipped",
        "optim/lr",
        "optim/steps",
        "sync/max_abs_dlogp",
        "sync/weights_version",
        "env_runners/episode_return_mean",
        "env_runners/episode_len_mean",
        "learners/default_policy/policy_loss",
        "learners/default_policy/total_loss",
        "num_env_steps_sampled_lifetime",
        "time/wait_s",
        "time/generate_s",
        "time/grade_s",
        "time/old_logprobs_s",
        "time/batch_s",
        "time/update_s",
        "time/sync_s",
    ],
)
def test_train_reports(run, key):
    value = run.results[1]
    for part in key.split("/"):
        value = value[part]
    assert np.isfinite(value)


OWN_METRICS = (
    *("cap", "clip", "entropy", "grader", "groups", "health", "kl", "length", "optim", "ratio", "repetition", "reward"),
    *("runners", "sampler", "staleness", "sync", "tasks", "tokens", "weight"),
)


def test_every_metric_of_ours_is_documented(run):
    page = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    names = {f"{group}/{name}" for group in OWN_METRICS for name in run.results[1][group]}
    evaluated = {name for name, value in run.evaluation.items() if isinstance(value, float)}
    names |= {re.sub(r"_at_\d+", "_at_k", f"evaluation/{name}") for name in evaluated}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_every_tracker_accepts_the_names_of_all_metrics(run):
    # MLflow's rule; our own names, and those of this env's data source, use a part of its characters only.
    result = run.results[1] | {"evaluation": run.evaluation}
    names = {name for name, value in flatten_dict(result).items() if isinstance(value, (int, float))}
    assert "evaluation/avg_at_8_se" in names and "evaluation/by_source/arithmetic_add_3/accuracy" in names
    assert {name for name in names if not re.fullmatch(r"[/\w.\- :]+", name, re.ASCII)} == set()
    ours = {name for name in names if name.split("/")[0] in (*OWN_METRICS, "evaluation", "time")}
    assert {name for name in ours if not re.fullmatch(r"\w+(/\w+)*", name, re.ASCII)} == set()


def test_counters_count_rollouts_steps_and_versions(run):
    # 4 prompts x 8 per iteration; 2 mini-batches x 2 epochs unless groups are dropped.
    assert [r["num_env_steps_sampled_lifetime"] for r in run.results] == [32, 64, 96, 128]
    assert [r["tasks"]["position"] for r in run.results] == [4, 8, 12, 16]
    assert [r["sync"]["weights_version"] for r in run.results] == [1, 2, 3, 4]
    steps = [r["optim"]["steps"] for r in run.results]
    assert all(later - earlier in (2, 4) for earlier, later in zip([0, *steps[:-1]], steps, strict=True))
    assert run.results[0]["env_runners"]["episode_return_mean"] == run.results[0]["reward"]["mean"]


def test_histograms_stand_in_tensorboard(run):
    events = EventAccumulator(str(trial_folder(run.algo) / "histograms"), size_guidance={"histograms": 0})
    events.Reload()
    steps = {tag: [event.step for event in events.Histograms(tag)] for tag in events.Tags()["histograms"]}
    updates = [i for i, result in enumerate(run.results, start=1) if result["groups"]["used_frac"]]
    assert steps == {"reward": [1, 2, 3, 4], "length": [1, 2, 3, 4], "weight/pos": updates, "weight/neg": updates}
    for event, result in zip(events.Histograms("reward"), run.results, strict=True):
        assert event.histogram_value.num == 32
        assert event.histogram_value.sum == pytest.approx(32 * result["reward"]["mean"])
    last, metrics = events.Histograms("weight/pos")[-1].histogram_value, run.results[updates[-1] - 1]
    counts = dict(zip(last.bucket_limit, last.bucket, strict=True))
    assert counts.get(0.0, 0) / last.num == pytest.approx(metrics["clip"]["pos_frac"])
    # Each weight counts as the upper edge of its bucket, and most buckets are 0.1 wide.
    assert 0 <= last.sum / last.num - metrics["weight"]["pos_mean"] < 0.3


def test_every_value_is_of_its_own_iteration(run):
    # An exponential average or a sum over iterations would not be a multiple of 1/32.
    for result in run.results:
        assert (result["reward"]["accuracy"] * 32) % 1 == 0


def test_engine_and_learner_agree_in_float32(run):
    for result in run.results:
        assert result["sync"]["max_abs_dlogp"] < 1e-4
        assert result["sampler"]["max_abs_dlogp"] < 1e-3 and result["kl"]["sampler"] < 1e-6


def test_evaluate_reports_accuracy_with_its_standard_error(run):
    evaluation = run.evaluation
    assert {"accuracy", "avg_at_8", "avg_at_8_se", "pass_at_8", "pass_at_8_se", "num_prompts"} <= evaluation.keys()
    assert evaluation["num_prompts"] == 8
    assert evaluation["accuracy"] == evaluation["avg_at_8"] <= evaluation["pass_at_8"]
    assert evaluation["env_runners"]["episode_return_mean"] == evaluation["accuracy"]


def test_evaluation_asks_the_test_split_and_trains_on_nothing(run, weights_of):
    before, position = weights_of(run.algo.learner_group), run.algo.task_order.position
    first, second = run.algo.evaluate(), run.algo.evaluate()
    assert first == second  # the same prompts with the same seeds
    env = gym.make("envs:aspo/Arithmetic-v0", split="test").unwrapped
    asked = on_runner(run.algo, lambda runner: runner.sampled[-1])
    assert asked == [env.task(i).prompt for i in range(8)]
    after = weights_of(run.algo.learner_group)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert run.algo.task_order.position == position


def test_an_iteration_without_evaluation_reports_none(run):
    # results[2] comes right after algo.evaluate(): NaN, or the old value, would both be wrong in a plot.
    accuracy = run.results[2].get("evaluation", {}).get("accuracy")
    assert accuracy is None


def test_driver_callbacks_fire(run):
    assert run.calls.driver == ["init", "train_result", "train_result"]
    assert run.results[0]["from_callback"] == run.results[0]["reward"]["mean"] + 1
    before = len(run.algo.calls)
    run.algo.evaluate()
    assert run.algo.calls[before:] == ["evaluate_start", "evaluate_end"]


def test_runner_callbacks_fire(run):
    assert [len(prompts) for prompts in run.calls.sampled] == [4, 4]  # one call per iteration
    assert on_runner(run.algo, lambda runner: runner.environments) == ["ArithmeticEnv"] * 2  # training, evaluation


# ---- checkpoints --------------------------------------------------------------------------------------------------


def test_a_restored_run_has_the_same_weights_tasks_and_completions(run, restored):
    assert_same(run.saved, restored.start)


def test_a_restored_run_evaluates_to_the_same_result(run, restored):
    assert restored.evaluation == run.evaluation


def test_n_plus_n_iterations_are_2n_iterations(run, restored):
    assert_same(run.final, restored.final)
    for ours, theirs in zip(run.results[2:], restored.results, strict=True):
        for group in ("reward", "ratio", "optim", "kl", "length", "tasks", "clip"):
            assert ours[group] == theirs[group]
        assert ours["training_iteration"] == theirs["training_iteration"]


def test_restoring_in_place_goes_back(run, restored, weights_of):
    with contextlib.chdir(run.path):
        restored.algo.restore_from_path("../checkpoint")
    assert_same(run.saved, snapshot(restored.algo, weights_of))


def test_the_checkpoints_model_scores_like_the_learner(run):
    model = AutoModelForCausalLM.from_pretrained(f"{run.path}/learner_group/hf", dtype=torch.float32).eval()
    held = model.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in run.saved.weights.items())


def test_saving_twice_to_one_path_keeps_the_newer(run, restored, tmp_path, weights_of):
    path = tmp_path / "checkpoint"
    restored.algo.save_to_path(path)
    run.algo.save_to_path(path)
    saved = AutoModelForCausalLM.from_pretrained(path / "learner_group" / "hf", dtype=torch.float32).state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights_of(run.algo.learner_group).items())
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


# ---- a user's own env, and what fails -----------------------------------------------------------------------------


class CountingEnv(gym.Env):
    """A plain single-turn Gymnasium env: name the digit that follows. It breaks when told to."""

    observation_space = action_space = gym.spaces.Text(1000)
    system_prompt = "Count."

    def __init__(self, config):
        self.first, self.broken = config.get("first", 0), config.get("broken", False)

    def __len__(self):
        return 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.index = options["index"]
        return f"after {self.first + self.index}:", {}

    def step(self, action):
        if self.broken and action not in env_check.COMPLETIONS:
            raise RuntimeError("the grader is down")
        correct = action.strip() == str(self.first + self.index + 1)
        return "", float(correct), True, False, {}


@pytest.fixture(scope="module")
def counting(ray_session, make_config):
    config = make_config(drop_uniform_groups=False).environment(CountingEnv, env_config={"first": 3})
    # top_p < 1 makes the engine's logprobs those of a part of the distribution: the check after a sync must not mind.
    config.evaluation(evaluation_config={}).sampling(group_size=2, top_p=0.5).llm(engine="transformers")
    config.training(sampler_correction="truncated")
    algo = config.build_algo()
    yield algo
    algo.stop()


def test_an_env_class_of_ones_own_trains(counting):
    result = counting.train()
    assert result["tasks"]["position"] == 4 and result["optim"]["steps"] == 4
    (group,) = sample_groups(counting.runners, [(0, 2)])
    assert group.prompt == "after 5:"
    # The system prompt is part of what the model sees: 6 bytes and a token of its own before the user's turn.
    prompt = counting.env_runner_group.foreach_env_runner(
        lambda runner: runner.tokenizer.decode(runner.sample(tasks=[(0, 2)])[0].rollouts[0].prompt_ids)
    )[0]
    assert "Count." in prompt and prompt.index("Count.") < prompt.index("after 5:")


def test_evaluation_takes_no_more_tasks_than_there_are(counting):
    assert counting.evaluate()["num_prompts"] == 5


def test_the_policys_module_is_that_of_the_local_learner(counting):
    module = counting.get_module()
    ours = module.policy.hf_model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in fetch(counting.learner_group.weights()))
    assert counting.get_module("another") is None


def test_a_users_function_with_a_typo_costs_one_restart_and_no_wait(counting, capfd):
    lost = counting.train()["runners"]["lost"]
    counting.env_runner_group.foreach_env_runner(lambda runner: runner.modul, local_env_runner=False)
    start = time.monotonic()
    result = counting.train()
    assert time.monotonic() - start < 120  # env_runner_restore_timeout_s is 600
    assert result["runners"] == {"in_service": 1, "lost": lost + 1}
    assert "env runner 1 is restarted: a function that was called on it has raised" in capfd.readouterr().err


@pytest.mark.slow
def test_without_restarts_an_env_that_fails_stops_training_with_its_own_error(ray_session, make_config):
    config = make_config().environment(CountingEnv, env_config={"broken": True}).llm(engine="transformers")
    config.evaluation(evaluation_config={}).fault_tolerance(restart_failed_env_runners=False)
    algo = config.build_algo()
    try:
        with pytest.raises(RuntimeError, match="the grader is down"):
            algo.train()
        with pytest.raises(RuntimeError, match="No env runner is left"):  # no iteration ticks by without one
            algo.train()
    finally:
        algo.stop()


# ---- processes and imports ----------------------------------------------------------------------------------------


def run_script(script, timeout):
    code = textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_needs_no_vllm_and_registers_both_algorithms():
    out = run_script(
        """
        import sys

        sys.modules["vllm"] = None  # makes every import of it fail
        import aspo_rllib
        from ray.tune.registry import get_trainable_cls

        config = aspo_rllib.ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=aspo_rllib.TINY_MODEL)
        config.validate()
        print(get_trainable_cls("ASPO").__name__, get_trainable_cls("GRPO").__name__)
        """,
        timeout=120,
    )
    assert out.split() == ["ASPO", "GRPO"]


def test_a_missing_model_is_refused_before_anything_starts(ray_session):
    with pytest.raises(ValueError, match="llm_model=None"):
        ASPOConfig().environment("aspo/Arithmetic-v0").build_algo()
