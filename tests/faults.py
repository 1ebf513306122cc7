"""What goes wrong on clusters, done on purpose. In a module of its own: actors import it."""

import os
import signal
import time
from pathlib import Path

import psutil
import torch
from torch.distributed.tensor import DTensor

from envs.arithmetic import ArithmeticEnv


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def crash():
    raise RuntimeError("the engine crashed")


def hang():
    time.sleep(3600)


def poison(learner):
    """What an overflow leaves behind."""
    weight = next(p.data for p in learner.policy.parameters() if p.requires_grad)
    (weight.to_local() if isinstance(weight, DTensor) else weight)[0, :3] = torch.nan


def fail_at_call(number, fault, owner, name):
    """Have the n-th call of `owner.name` do `fault` first."""
    original, calls = getattr(owner, name), iter(range(1, number + 1))

    def faulty(*args, **kwargs):
        if next(calls, 0) == number:
            fault()
        return original(*args, **kwargs)

    setattr(owner, name, faulty)


def arm_runner(algo, number, fault):
    """The fault comes at the third step of the engine's next work: completions are under way then."""
    algo.runners.call(
        lambda runner: runner.on_engine_thread(lambda sampler: fail_at_call(3, fault, sampler.engine, "step")), [number]
    )


def processes():
    """This one and all below it."""
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def assert_gone(pids):
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


class FailingEnv(ArithmeticEnv):
    """Three-digit sums; a file holds how many more prompts are to raise on runners.

    RLlib calls an env's class with its config.
    """

    def __init__(self, env_config):
        super().__init__(digits=3)
        self.failures = Path(env_config["failures"])
        self.on_runner = env_config.worker_index > 0

    def reset(self, **kwargs):
        left = int(self.failures.read_text() or 0)  # another runner may be writing it
        if left and self.on_runner:
            self.failures.write_text(str(left - 1))
            raise OSError("the prompts' disk is away")
        return super().reset(**kwargs)
