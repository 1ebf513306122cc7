"""Several envs as one, by weights: each set has its own data, prompts and grader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from envs.data.report import LoadReport
from envs.text_env import METRICS_OF_REWARDS, Grade, SingleTurnTextEnv, Task, is_metric_name


class MixEnv(SingleTurnTextEnv):
    """The tasks of several sets, interleaved by their weights.

        MixEnv({"math": {"env": "aspo/Math-v0", "data": "math.jsonl", "weight": 2},
                "code": {"env": "aspo/Code-v0", "data": "code.jsonl"}})

    One pass over the env contains every task at least once. If a set is small for its weight, its tasks are repeated.
    The task of an index depends only on the weights and the sizes of the sets. The data source of a task is the name of
    its set.

    Args:
        sets: a mapping from names to settings: "env" (an id, or a subclass of `SingleTurnTextEnv`), "weight" (above 0,
            by default 1), and the env's own arguments.

    Raises:
        ValueError: for a name that metrics cannot have, for a set without an env, for a weight that is not above 0, and
            for arguments that an env refuses.
    """

    def __init__(self, sets: Mapping[str, Mapping[str, Any]]):
        super().__init__()
        if not isinstance(sets, Mapping) or not sets:
            raise ValueError(f'sets={sets!r}: expected {{name: {{"env": ..., "weight": ..., ...}}}}')
        for name in sets:
            if not is_metric_name(name):
                raise ValueError(
                    f"sets: the name {name!r}: expected letters, digits and _, because it is part of metrics' names, "
                    f"and none of {', '.join(METRICS_OF_REWARDS)}"
                )
        weights = {name: _weight(name, config) for name, config in sets.items()}
        self.envs = {name: _made(name, config) for name, config in sets.items()}
        self._names = list(self.envs)
        self._set, self._index_in_set = _interleaved(
            np.array([len(env) for env in self.envs.values()]), np.array(list(weights.values()))
        )

    def __len__(self) -> int:
        return len(self._set)

    def task(self, index: int) -> Task:
        """Return a task of one of the sets, with the set's system prompt as a message in its history."""
        name = self._names[self._set[index]]
        env = self.envs[name]
        task = env.task(int(self._index_in_set[index]))
        history = task.history
        if env.system_prompt and not task.templated and not any(m["role"] == "system" for m in history):
            history = ({"role": "system", "content": env.system_prompt}, *history)
        return replace(task, answer=(name, task), data_source=name, history=history)

    def grade(self, task: Task, completion: str) -> Grade:
        """Grade the completion by the env of the task's set."""
        name, own = task.answer
        return self.envs[name].graded(own, completion)

    def step(self, action: str):
        """As in the base class; info["set"] names the set, by which rewards are logged."""
        index = self._index
        *result, info = super().step(action)
        return *result, info | {"set": self._names[self._set[index]]}

    def load_reports(self) -> dict[str, LoadReport]:
        """The load reports of all sets that read data."""
        return {
            f"{name}/{inner}".rstrip("/"): report
            for name, env in self.envs.items()
            for inner, report in getattr(env, "load_reports", dict)().items()
        }

    def questions(self) -> np.ndarray:
        """The int64 hashes of the questions of all tasks, in order, without the sets that read no data."""
        found = np.zeros(len(self), dtype=np.int64)
        known = np.zeros(len(self), dtype=bool)
        for number, env in enumerate(self.envs.values()):
            if hasattr(env, "questions"):
                mine = self._set == number
                found[mine] = env.questions()[self._index_in_set[mine]]
                known |= mine
        return found[known]

    def close(self) -> None:
        """Close the envs of all sets."""
        for env in self.envs.values():
            env.close()


def _weight(name: str, config: Mapping[str, Any]) -> float:
    weight = config.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ValueError(f"sets[{name!r}]: weight={weight!r} is not a number above 0")
    return float(weight)


def _made(name: str, config: Mapping[str, Any]) -> SingleTurnTextEnv:
    arguments = {key: value for key, value in config.items() if key not in ("env", "weight")}
    if config.get("env") is None:
        raise ValueError(f'sets[{name!r}] names no env: add "env": "aspo/Math-v0", or another one')
    try:
        if callable(config["env"]):
            env = config["env"](**arguments)
        else:
            env = gymnasium.make(config["env"], disable_env_checker=True, **arguments).unwrapped
    except Exception as error:
        error.add_note(f"This is the set {name!r} of the mixture.")
        raise
    if not isinstance(env, SingleTurnTextEnv):
        raise ValueError(f"sets[{name!r}]: env={config['env']!r} is not a SingleTurnTextEnv")
    if env.answer_prefix:
        raise ValueError(f"sets[{name!r}]: answer_prefix={env.answer_prefix!r} cannot be set in a mixture")
    return env


def _interleaved(sizes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every index, the set and the task in it. Each set is spread evenly, in proportion to its weight."""
    if not sizes.all():
        raise ValueError(f"sets: one of them has no task; their sizes are {sizes.tolist()}")
    counts = np.ceil((sizes / weights).max() * weights - 1e-9).astype(np.int64)
    number = np.repeat(np.arange(len(sizes)), counts)
    turn = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((turn + 0.5) / counts[number], kind="stable")
    return number[order], (turn % sizes[number])[order]
