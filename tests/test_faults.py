"""Deaths, crashes and hangs, injected for real: nothing is lost, nothing hangs, and a run's numbers stay its own."""

import json
import time
from functools import partial
from pathlib import Path

import pytest
import ray
import torch.distributed as dist
from faults import FailingEnv, arm_runner, assert_gone, crash, die, fail_at_call, hang, processes
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib import watchdog
from aspo_rllib.watchdog import watch

ITERATIONS = 6
STAGE_TIMEOUT_S = 15.0
FAULTS = {1: die, 2: crash, 3: hang}  # by iteration


# ---- runners ------------------------------------------------------------------------------------------------------


def train(algo):
    """One iteration: its result, and the positions of the tasks that it trained on."""
    result = algo.train()
    return result, [group.position for group in algo.latest_groups]


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """How many prompts are still to raise."""
    file = tmp_path_factory.mktemp("failing") / "failures"
    file.write_text("0")
    return file


@pytest.fixture(scope="module")
def config(make_config, failures):
    config = make_config().environment(FailingEnv, env_config={"failures": str(failures)})
    config.llm(engine="transformers")  # it starts in half of vLLM's time
    return config.evaluation(evaluation_config={}).fault_tolerance(stage_timeout_s=STAGE_TIMEOUT_S)


@pytest.fixture(scope="module")
def undisturbed(ray_session, config, weights_of):
    """A run without faults: its rewards, and its weights after each iteration."""
    algo = config.build_algo()
    try:
        (started,) = algo.runners.call(lambda runner: processes()).values()
        return [(train(algo)[0]["reward"], weights_of(algo.learner_group)) for _ in range(ITERATIONS)]
    finally:
        algo.stop()
        assert_gone(started)


@pytest.mark.slow
def test_runners_that_die_crash_hang_or_raise_change_nothing(
    undisturbed, config, failures, weights_of, largest_difference, capfd
):
    algo = config.copy(copy_frozen=False).env_runners(num_env_runners=2).build_algo()
    try:
        trained = []
        started = algo.runners.call(lambda runner: processes())
        for iteration, (reward, weights) in enumerate(undisturbed):
            # Maybe while the other is still starting: then none is left for a while.
            if iteration in FAULTS:
                arm_runner(algo, algo.runners.ready()[0], FAULTS[iteration])
            if iteration == 4:
                failures.write_text("1")
            result, positions = train(algo)
            trained += positions
            assert result["env_runners"]["num_episodes"] == 32
            assert result["reward"] == reward  # the same completions, whoever sampled them
            assert largest_difference(weights_of(algo.learner_group), weights) < 1e-5
            assert result["sync"]["max_abs_dlogp"] < 1e-4
            assert result["runners"]["lost"] == min(iteration, 4)
        assert trained == list(range(4 * ITERATIONS))
        assert_gone(started[1])  # its graders, too
        told = capfd.readouterr().err
        assert "the engine crashed" in told and "the prompts' disk is away" in told
        assert f"no answer within stage_timeout_s={STAGE_TIMEOUT_S}" in told and "tasks at [12" in told

        # What takes down every runner is no runner's fault.
        failures.write_text("1000")
        with pytest.raises(RuntimeError, match=r"3 env runners failed while sampling .*24") as raised:
            algo.train()
        assert "the prompts' disk is away" in str(raised.value.__cause__)

        for runner in algo.env_runner_group._worker_manager.actors().values():
            ray.kill(runner)  # for good
        with pytest.raises(RuntimeError, match="No env runner is left: 2 of 2 cannot be restarted"):
            algo.train()
    finally:
        start = time.monotonic()
        algo.stop()
        assert time.monotonic() - start < 60


# ---- learners -----------------------------------------------------------------------------------------------------


def arm_learner(learner, rank, fault):
    if dist.get_rank() == rank:
        fail_at_call(2, fault, learner.optimizer, "step")


class Record(RLlibCallback):
    """Writes down what was trained on; at iteration 3, the first time, the second learner is to die in its update."""

    folder: Path

    def on_train_result(self, *, algorithm, result, **kwargs):
        iteration = result["training_iteration"]
        line = {"iteration": iteration, "positions": [group.position for group in algorithm.latest_groups]}
        with (self.folder / "trained.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        armed = self.folder / "armed"
        if iteration == 3 and not armed.exists():
            armed.touch()
            algorithm.learner_group.on_all(partial(arm_learner, rank=1, fault=die))


@pytest.mark.slow
def test_tune_goes_on_from_the_last_checkpoint_when_a_learner_dies(undisturbed, config, failures, tmp_path):
    failures.write_text("0")
    record = type("RecordHere", (Record,), {"folder": tmp_path})
    result = tune.Tuner(
        "ASPO",
        param_space=config.copy(copy_frozen=False).learners(num_learners=2).callbacks(record),
        run_config=tune.RunConfig(
            stop={"training_iteration": 5},
            storage_path=str(tmp_path),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True),
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    ).fit()[0]
    assert result.error is None and result.metrics["reward"] == undisturbed[4][0]
    lines = [json.loads(line) for line in (tmp_path / "trained.jsonl").read_text().splitlines()]
    # The fourth iteration never ended; the third was beyond the checkpoint, and is done again.
    assert [line["iteration"] for line in lines] == [1, 2, 3, 3, 4, 5]
    assert all(line["positions"] == [4 * (line["iteration"] - 1) + n for n in range(4)] for line in lines)


@pytest.mark.slow
def test_a_learner_that_hangs_is_an_error_and_all_of_them_end(build_learners, make_groups):
    group = build_learners(num_learners=2)
    group.config.stage_timeout_s = 1.0
    workers = list(group._workers)
    with pytest.raises(TimeoutError, match=r"No answer from learner\(s\) \[1\] within stage_timeout_s=1"):
        group.on_all(lambda learner: hang() if dist.get_rank() == 1 else None)
    for worker in workers:
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(worker.apply.remote(lambda learner: None), timeout=30)


# ---- the watchdog -------------------------------------------------------------------------------------------------


def test_what_takes_too_long_says_where_it_is(capfd):
    with watch("the stage", 0.1):
        time.sleep(0.5)
    told = capfd.readouterr().err
    assert told.startswith("the stage: longer than stage_timeout_s=0.1")
    assert "test_what_takes_too_long_says_where_it_is" in told  # in the stack of this thread


def test_who_waits_says_so(capfd, monkeypatch):
    monkeypatch.setattr(watchdog, "TELL_EVERY_S", 0.1)
    with watchdog.tell_waiting("waiting for godot"):
        time.sleep(0.35)
    told = capfd.readouterr().err.splitlines()
    assert len(told) >= 2 and set(told) == {"waiting for godot (0 s so far)"}
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("limit_s", [None, 30.0])
def test_what_is_quick_says_nothing(capfd, limit_s):
    with watch("the stage", limit_s):
        pass
    assert capfd.readouterr() == ("", "")
