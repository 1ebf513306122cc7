"""Envs whose grading goes wrong in chosen ways. In a module of their own: worker processes import it."""

import os
import time
from pathlib import Path

from envs.arithmetic import ArithmeticEnv
from envs.grading.child import Child


class Troublesome(ArithmeticEnv):
    """Three-digit sums, but task 40 and task 3 (and their completions) are trouble.

    trouble: "none"; "raises" (any task); "dies" (task 40 ends the process); "hangs" (task 3 never returns); "slow"
        (every task takes 0.1 s); "dies once" (task 40, as long as the file `flag` does not exist).
    """

    def __init__(self, trouble="none", flag=None, **arithmetic):
        super().__init__(**arithmetic)
        self.trouble = trouble
        self.flag = flag
        self.hard = self.task(40).prompt
        self.endless = self.task(3).prompt

    def grade(self, task, completion):
        if self.trouble == "raises":
            raise RuntimeError("grader down")
        if self.trouble == "dies" and task.prompt == self.hard:
            os._exit(3)
        if self.trouble == "dies once" and task.prompt == self.hard and not Path(self.flag).exists():
            Path(self.flag).touch()
            os._exit(3)
        if self.trouble == "hangs" and task.prompt == self.endless:
            time.sleep(1000)
        if self.trouble == "slow":
            time.sleep(0.1)
        return super().grade(task, completion)


def worker_pids(runner):
    """The process ids of all grading workers of an env runner."""
    return [pid for _, pool in runner._tasks.values() for pid in pool.pids]


def hoarder():
    """A handler that keeps as many bytes as it is asked for."""
    kept = []

    def handle(num_bytes):
        kept.append(b"x" * num_bytes)
        return len(kept)

    return handle


def grandparent():
    """A handler that starts a child of its own and tells its process id."""
    grandchild = Child("operator:itemgetter", 0)

    def handle(request):
        grandchild.start()
        return grandchild.pid

    return handle


class OddRewards(ArithmeticEnv):
    """Three-digit sums whose reward is `reward`, whatever the answer, at every `every`-th one; else 1."""

    def __init__(self, reward, every=1, **arithmetic):
        super().__init__(**arithmetic)
        self._reward, self._every, self._count = reward, every, 0

    def step(self, action):
        observation, _, *rest = super().step(action)
        self._count += 1
        return observation, self._reward if self._count % self._every == 0 else 1.0, *rest


class NamedRewards(ArithmeticEnv):
    """Three-digit sums whose info has `components` as the named rewards, whatever the answer."""

    def __init__(self, components, **arithmetic):
        super().__init__(**arithmetic)
        self._components = components

    def step(self, action):
        *result, info = super().step(action)
        return *result, info | {"rewards": self._components}
