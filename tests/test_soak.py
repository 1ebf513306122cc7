"""A long run in which something dies every twenty iterations. Not part of the slow tests: `make soak`, ten minutes."""

import os
from collections import defaultdict
from functools import partial
from statistics import median

import numpy as np
import psutil
import pytest
import ray
from faults import FailingEnv, arm_runner, assert_gone, crash, die

from aspo_rllib import ASPO

ITERATIONS = 200
FAULT_EVERY = 20
SAVE_EVERY = 10
WARM_UP = 10  # iterations of a process before its memory counts
LARGEST_GROWTH = 0.05


def resident_bytes():
    """What this process alone holds; the object store is shared."""
    return os.getpid(), psutil.Process().memory_full_info().uss


def kill_graders():
    for child in psutil.Process().children(recursive=True):
        child.kill()


class Soak:
    """The run, what it trained on, and the memory of its processes."""

    def __init__(self, config, folder, rng):
        self.algo = config.build_algo()
        self.folder = folder
        self.rng = rng
        self.failures = folder / "failures"
        self.trained: list[int] = []
        self.memory: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.save()

    @property
    def iteration(self):
        return len(self.trained) // 4

    def save(self):
        self.algo.save_to_path(self.folder / "checkpoint")

    def lose_learner(self):
        (learner,) = self.algo.learner_group.on_all(lambda learner: os.getpid())
        os.kill(learner, 9)
        with pytest.raises(ray.exceptions.RayError):
            self.algo.train()
        self.algo.stop()
        self.algo = ASPO.from_checkpoint(self.folder / "checkpoint")
        del self.trained[4 * self.algo.iterations_trained :]

    def lose_runner(self, fault):
        arm_runner(self.algo, int(self.rng.choice(self.algo.runners.ready())), fault)

    def lose_graders(self):
        self.algo.runners.call(lambda runner: kill_graders())

    def lose_prompt(self):
        self.failures.write_text("1")

    def train(self):
        result = self.algo.train()
        assert result["env_runners"]["num_episodes"] == 32
        assert not result["sync"]["max_abs_dlogp"] > 1e-4  # NaN where nothing was learned, or no runner was there
        self.trained += [group.position for group in self.algo.latest_groups]
        learners = self.algo.learner_group.on_all(lambda learner: resident_bytes())
        runners = self.algo.runners.call(lambda runner: resident_bytes()).values()
        for kind, readings in (("driver", [resident_bytes()]), ("learner", learners), ("runner", runners)):
            for pid, num_bytes in readings:
                self.memory[kind, pid].append(num_bytes)

    def growth(self):
        """By process, from the warm-up's end to its own; of those that lived long enough to tell."""
        settled = {process: values[WARM_UP:] for process, values in self.memory.items()}
        return {
            process: median(values[-5:]) / median(values[:5]) - 1
            for process, values in settled.items()
            if len(values) >= FAULT_EVERY
        }


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_hundred_iterations_with_a_fault_every_twenty(ray_session, make_config, tmp_path):
    (tmp_path / "failures").write_text("0")
    config = make_config(max_staleness=1).environment(FailingEnv, env_config={"failures": str(tmp_path / "failures")})
    config.env_runners(num_env_runners=2).learners(num_learners=1).evaluation(evaluation_config={})
    soak = Soak(config, tmp_path, np.random.default_rng(0))
    faults = [
        partial(soak.lose_runner, die),
        partial(soak.lose_runner, crash),
        soak.lose_learner,
        soak.lose_graders,
        soak.lose_prompt,
    ]
    try:
        while soak.iteration < ITERATIONS:
            soak.train()
            if soak.iteration % SAVE_EVERY == 0:
                soak.save()
            if soak.iteration % FAULT_EVERY == FAULT_EVERY // 2:
                fault = faults[int(soak.rng.integers(len(faults)))]
                print(f"iteration {soak.iteration}: {fault}", flush=True)
                fault()
    finally:
        soak.algo.stop()
    assert soak.trained == list(range(4 * ITERATIONS))
    growth = soak.growth()
    print("growth of memory:", {f"{kind} {pid}": f"{share:+.1%}" for (kind, pid), share in growth.items()})
    assert growth and max(growth.values()) < LARGEST_GROWTH
    assert_gone([pid for _, pid in soak.memory if pid != os.getpid()])
