"""What both systems of vs_trl.py are told to do, and the task they do it on."""

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
WARM_UP = 2  # one for the shapes that are compiled, and one for those that change


@dataclass(frozen=True)
class Job:
    """What one process of one system does.

    max_staleness: batches it samples ahead; TRL none. engine: what samples, as in `.llm(engine=...)`.
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
    """A coin that costs nothing to toss: most groups get both sides, whatever the model says."""
    return float(len(completion) % 2)


class ParityEnv(ArithmeticEnv):
    """Three-digit sums as prompts, `reward_of` as the verdict."""

    def __init__(self, env_config: dict | None = None):  # RLlib makes an env class with its env_config
        super().__init__(**(env_config or {}))

    def grade(self, task: Task, completion: str) -> Grade:
        reward = reward_of(completion)
        return Grade(reward, bool(reward), extracted=None, status="ok" if reward else "wrong")


def schedule(job: Job) -> Iterator[None]:
    """Each item is an iteration to do. Tells the parent which of them count, and waits for its word between repeats.

    What was sampled ahead while it waited is used up before the clock starts, so that a repeat begins and ends with as
    much under way.
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
    """Of a system's own process: the job is the only argument, the lengths of all completions the last line."""
    job = Job(**json.loads(sys.argv[1]))
    print("LENGTHS", json.dumps(run(job, schedule(job))), flush=True)
