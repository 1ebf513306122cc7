"""The job of both systems of vs_trl.py, and its task."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from envs.arithmetic import ArithmeticEnv
from envs.text_env import Grade, Task

CAP_TOKENS = {"fixed": 64, "stops": 192}
EPOCHS_AND_MINIBATCHES = {1: (1, 1), 12: (3, 4)}
WARM_UP = 2  # iterations: one compiles the first shapes, the other the dynamic shapes


@dataclass(frozen=True)
class Job:
    """The job of one process of one system.

    max_staleness: number of batches that are sampled ahead; TRL samples none.
    engine: the engine that samples, as in `.llm(engine=...)`.
    """

    model: str
    setting: str
    steps: int
    prompts: int
    group_size: int
    seconds: float
    repeats: int
    max_staleness: int
    engine: str


def reward_of(completion: str) -> float:
    """A reward that is cheap and looks random, so that most groups get both values with any model."""
    return float(len(completion) % 2)


class ParityEnv(ArithmeticEnv):
    """An env with three-digit sums as prompts and `reward_of` as the grade."""

    def __init__(self, env_config: dict | None = None):  # RLlib passes the env_config to an env class
        super().__init__(**(env_config or {}))

    def grade(self, task: Task, completion: str) -> Grade:
        reward = reward_of(completion)
        return Grade(reward, bool(reward), extracted=None, status="ok" if reward else "wrong")


def schedule(job: Job) -> Iterator[None]:
    """Yields once per iteration. It reports to the parent which iterations count, and waits for it between repeats.

    Batches that were sampled ahead during the wait are used before the measurement starts, so that the same number of
    batches is in progress at the start and at the end of a repeat.
    """
    yield from [None] * WARM_UP
    _tell_and_wait("READY")
    for _ in range(job.repeats):
        yield from [None] * job.max_staleness
        print("START", flush=True)
        start, iterations = time.perf_counter(), 0
        while time.perf_counter() - start < job.seconds:
            yield None
            iterations += 1
        _tell_and_wait(f"END {iterations}")


def _tell_and_wait(text: str) -> None:
    print(text, flush=True)
    sys.stdin.readline()


def main(run: Callable[[Job, Iterator[None]], list[int]]) -> None:
    """The main function of a system's process. Its argument is the job; its last line has all completions' lengths."""
    job = Job(**json.loads(sys.argv[1]))
    print("LENGTHS", json.dumps(run(job, schedule(job))), flush=True)
