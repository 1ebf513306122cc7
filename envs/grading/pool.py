"""Grade during generation, by copies of an env in worker processes. If one is killed, no completion is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import cloudpickle
import gymnasium as gym

from envs.grading.child import Child, ChildDied, ChildError
from envs.grading.rewards import problem_of

# While a worker grades one completion, the next one is already there, so the worker never waits for a message.
_MIN_QUEUE = 2
# The caller may only call once per engine step, so a worker gets work for this many seconds, but not for more, because
# other workers may be idle then.
_QUEUE_S = 0.05
_MAX_QUEUE = 32
# A worker that is grading gets more only if all of it fits into the socket, at 4 bytes per character and 2 KB per
# message. Otherwise the caller would wait for the worker to read, and the worker for the caller to read an answer that
# is as long: a deadlock.
_QUEUE_CHARS = 3 << 14
_MAX_ATTEMPTS = 2
_MAX_ANSWERS = 20_000
_MAX_GROWTH_BYTES = 1 << 30


@dataclass(frozen=True)
class Graded:
    """The result of grading one completion.

    Attributes:
        prompt: the prompt of the task; None if no step finished.
        reward, info: the values that `step` returned. If no step finished, the reward is 0 and info["grade_status"]
            is "timeout", or "sandbox_error" if two worker processes died. The status is also "sandbox_error" if the
            reward, or one of its named components in info["rewards"], was not a finite number, and if no component
            applies; info["grade_error"] then has the reason.
    """

    prompt: str | None
    reward: float
    info: dict[str, Any]


class WorkerContext(dict):
    """An env_config with the attributes of RLlib's EnvContext, for env creators that read them."""

    def __init__(self, env_config: dict[str, Any], worker_index: int, num_workers: int | None):
        super().__init__(env_config)
        self.worker_index = worker_index
        self.num_workers = num_workers
        self.vector_index = 0
        self.remote = False


def ungraded(graded: Graded) -> bool:
    """Whether the grader itself failed; then there is no grade of the completion."""
    return graded.info.get("grade_status") == "sandbox_error"


@dataclass
class _Item:
    key: Hashable
    index: int
    completion: str
    attempt: int = 1


@dataclass
class _Worker:
    child: Child
    queue: deque[_Item] = field(default_factory=deque)
    deadline: float = 0.0  # of the first in the queue
    failed_starts: int = 0

    def takes(self, item: _Item) -> bool:
        """Whether the worker should get one more completion now."""
        if not self.child.ready or self.child.worn_out:
            return False
        if not self.queue:
            return True  # it waits for a message, and reads one of any size at once
        characters = len(item.completion) + sum(len(queued.completion) for queued in self.queue)
        seconds = (len(self.queue) + 1) * self.child.last_answer_s
        is_short = seconds < _QUEUE_S and len(self.queue) < _MAX_QUEUE
        return characters < _QUEUE_CHARS and (is_short or len(self.queue) < _MIN_QUEUE)


class GradingPool:
    """Grades completions in `num_workers` processes while the caller does other work.

    Each worker makes its own env. A grade must depend only on the task and the completion, because the completions of a
    worker that dies are graded again by a new worker.

    Args:
        make_env: makes the single-turn env, whose reset takes options={"index": i}.
        num_workers: at least 1.
        timeout_s: seconds for one completion, above 0. It is the last limit: graders have shorter limits of their own.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(self, make_env: Callable[[], gym.Env], num_workers: int, timeout_s: float):
        if num_workers < 1:
            raise ValueError(f"num_workers={num_workers} must be at least 1")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s} must be above 0")
        self._timeout_s = timeout_s
        self._waiting: deque[_Item] = deque()
        self._done: list[tuple[Hashable, Graded]] = []
        self._workers = [
            _Worker(
                Child(
                    "envs.grading.pool:grader",
                    cloudpickle.dumps(make_env),
                    max_answers=_MAX_ANSWERS,
                    max_growth_bytes=_MAX_GROWTH_BYTES,
                )
            )
            for _ in range(num_workers)
        ]
        for worker in self._workers:
            worker.child.launch()

    def submit(self, key: Hashable, index: int, completion: str) -> None:
        """Queue a completion of task `index` for grading; its result has the same `key`."""
        self._waiting.append(_Item(key, index, completion))
        self._dispatch()

    def collect(self, wait_s: float = 0.0) -> list[tuple[Any, Graded]]:
        """Return the finished results (key, Graded), in any order.

        Args:
            wait_s: seconds to wait for the first result.

        Raises:
            RuntimeError: with the traceback, if the env raised an exception.
        """
        give_up = time.monotonic() + wait_s
        while True:
            self._work(give_up - time.monotonic())
            if self._done or not self.pending or time.monotonic() >= give_up:
                done, self._done = self._done, []
                return done

    @property
    def pending(self) -> int:
        """Number of completions without a result."""
        return len(self._waiting) + sum(len(worker.queue) for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.child.pid for worker in self._workers]

    def clear(self) -> None:
        """Drop every completion without a result, and every result that was not collected."""
        self._waiting.clear()
        self._done.clear()
        for worker in self._workers:
            if worker.queue:
                worker.queue.clear()
                self._replace(worker)

    def close(self) -> None:
        """End the workers."""
        self._waiting.clear()
        for worker in self._workers:
            worker.queue.clear()
            worker.child.close()

    def _work(self, wait_s: float) -> None:
        """Send completions and read answers; wait for an answer, but not longer than a deadline."""
        self._dispatch()
        deadlines = [worker.deadline for worker in self._workers if worker.queue]
        wait_s = min([wait_s, *(deadline - time.monotonic() for deadline in deadlines)])
        readable = wait([worker.child.connection for worker in self._workers], timeout=max(wait_s, 0))
        for worker in self._workers:
            if worker.child.connection in readable:
                self._read(worker)
            elif worker.queue and time.monotonic() > worker.deadline:
                self._give_up_first(worker, "timeout", self._timeout_s)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._waiting:
            takers = [worker for worker in self._workers if worker.takes(self._waiting[0])]
            if not takers:
                return
            self._send(min(takers, key=lambda worker: len(worker.queue)), self._waiting.popleft())

    def _send(self, worker: _Worker, item: _Item) -> None:
        if not worker.queue:
            worker.deadline = time.monotonic() + self._timeout_s
        worker.queue.append(item)
        worker.child.submit((item.index, item.completion), self._timeout_s)

    def _read(self, worker: _Worker) -> None:
        if not worker.child.ready:
            self._finish_start(worker)
            return
        while worker.child.connection.poll():
            try:
                graded = worker.child.receive()
            except ChildDied:
                self._bury(worker)
                return
            except ChildError as error:
                worker.queue.popleft()
                raise RuntimeError(f"the env failed in a grading worker:\n{error}") from None
            self._done.append((worker.queue.popleft().key, graded))
        worker.deadline = time.monotonic() + self._timeout_s
        if worker.child.worn_out and not worker.queue:
            self._replace(worker)

    def _finish_start(self, worker: _Worker) -> None:
        try:
            worker.child.start()
            worker.failed_starts = 0
        except (ChildDied, ChildError) as failure:
            worker.failed_starts += 1
            if worker.failed_starts == _MAX_ATTEMPTS:
                raise RuntimeError(f"a grading worker cannot make its env: {failure}") from None
            worker.child.launch()

    def _bury(self, worker: _Worker) -> None:
        """The first completion of a dead worker may be the cause, so it is tried once more. Others are queued again."""
        if worker.queue and worker.queue[0].attempt == _MAX_ATTEMPTS:
            self._give_up_first(worker, "sandbox_error", 0.0)
            return
        if worker.queue:
            worker.queue[0].attempt += 1
        self._replace(worker)

    def _give_up_first(self, worker: _Worker, status: str, seconds: float) -> None:
        item = worker.queue.popleft()
        info = {
            "index": item.index,
            "extracted": None,
            "correct": False,
            "grade_status": status,
            "grade_seconds": seconds,
        }
        self._done.append((item.key, Graded(prompt=None, reward=0.0, info=info)))
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """Start a new process; the queue of the old one is served first."""
        self._waiting.extendleft(reversed(worker.queue))
        worker.queue.clear()
        worker.child.close()
        worker.child.launch()


def grader(make_env: bytes) -> Callable[[tuple[int, str]], Graded]:
    """Runs in a worker: makes the env, and grades (index, completion) by it."""
    env = cloudpickle.loads(make_env)()

    def grade(request: tuple[int, str]) -> Graded:
        index, completion = request
        prompt, _ = env.reset(options={"index": index})
        _, reward, terminated, _, info = env.step(completion)
        assert terminated, "a single-turn env ends after one step"
        spec = getattr(env, "spec", None)
        where = f"of {spec.id if spec is not None else type(env.unwrapped).__name__} for task {index}"
        problem = problem_of(reward, info.get("rewards", {}), where)
        if problem is not None:
            return Graded(prompt, 0.0, {**info, "rewards": {}, "grade_status": "sandbox_error", "grade_error": problem})
        if "rewards" in info:
            info["rewards"] = {n: None if r is None else float(r) for n, r in info["rewards"].items()}
        return Graded(prompt, float(reward), info)

    return grade
