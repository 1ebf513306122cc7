"""Puzzles that reasoning-gym generates and scores: logic, grids, words, arithmetic, graphs, games."""

import copy
import random
import re
import warnings
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from itertools import accumulate
from types import ModuleType
from typing import Any

import numpy as np

from envs.grading.math.text import final_part
from envs.text_env import Grade, SingleTurnTextEnv, Task

SPLITS = ("train", "test")

_REVIEWED_VERSION = "0.1.25"
_RUNS_ANSWERS = "it executes the model's text as code"
_NOT_REPEATABLE = "its tasks differ from one process to the next"
# Found by reading and by trying every scorer of the reviewed version.
LEFT_OUT = {
    "binary_matrix": _RUNS_ANSWERS,
    "countdown": _RUNS_ANSWERS,
    "intermediate_integration": _RUNS_ANSWERS,
    "n_queens": _RUNS_ANSWERS,
    "polynomial_multiplication": _RUNS_ANSWERS,
    "puzzle24": _RUNS_ANSWERS,
    "simple_integration": _RUNS_ANSWERS,
    "spiral_matrix": _RUNS_ANSWERS,
    "string_insertion": _RUNS_ANSWERS,
    "codeio": _NOT_REPEATABLE,
    "isomorphic_strings": _NOT_REPEATABLE,
    "knight_swap": _NOT_REPEATABLE,
    "ransom_note": _NOT_REPEATABLE,
    "word_ladder": _NOT_REPEATABLE,
    "game_of_life_halting": "its answers are wrong",
    "coin_flip": 'any beginning of the right answer scores 1, "0" among them',
    "composite": "it is itself a mixture: give this env the names of several sets",
}

# Answers for which a scorer takes very long, or which it accepts for every task.
_NOT_A_NUMBER = re.compile("nan", re.IGNORECASE)
_UNFIT = {
    "complex_arithmetic": _NOT_A_NUMBER,
    "number_sorting": _NOT_A_NUMBER,
    "propositional_logic": re.compile(r".{151}", re.DOTALL),
    "rubiks_cube": re.compile(r"\d{4}"),
    "rush_hour": re.compile(r"\d{3}"),
}
_MAX_ANSWER_CHARS = 10_000

_SEEDS_PER_SPLIT = 2**31  # numpy takes seeds below 2**32
_MAX_CACHED = 256


class ReasoningEnv(SingleTurnTextEnv):
    """Tasks of one reasoning-gym set, or of a weighted mixture of several.

    The answer is the text between the last <answer> and </answer> after the thought. The set's own scorer scores it.
    The reward is 1 for the full score, and 0 for every other score.

    `split` and `seed` choose the random seeds of the tasks. The seeds of the two splits are disjoint, but a set with
    few different puzzles may have the same one in both. Most sets generate a task in milliseconds, a few in half a
    second. The last 256 tasks are cached.

    Args:
        tasks: the name of a set, a list of names with equal weights, or a mapping from names to weights. Instead
            of a weight, {"weight": 2.0, "config": {...}} also sets options of the set; both keys are optional.
        num_tasks: number of tasks, at least 1.
        split: "train" or "test".
        seed: a non-negative integer.
        system_prompt: replaces the default; "" means none.

    Raises:
        ValueError: for an argument outside its range, for a set that reasoning-gym does not have or that is left out
            here (with the reason), and for a config that the set refuses.
        ImportError: without reasoning-gym 0.1.25. Other versions may execute the text of the model.
    """

    system_prompt = (
        "Solve the problem. Think first, then give the final answer between <answer> and </answer>, "
        "exactly in the form that the problem asks for and with nothing else between the tags."
    )

    def __init__(
        self,
        tasks: str | Sequence[str] | Mapping[str, float | Mapping[str, Any]],
        num_tasks: int = 1000,
        split: str = "train",
        seed: int = 0,
        system_prompt: str | None = None,
    ):
        super().__init__()
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not one of {', '.join(map(repr, SPLITS))}")
        _check_integer("num_tasks", num_tasks, 1, _SEEDS_PER_SPLIT // 2)
        _check_integer("seed", seed, 0, None)
        if system_prompt is not None:
            self.system_prompt = system_prompt or None
        self.num_tasks = num_tasks
        self.seed = seed
        first_seed = _hash(f"reasoning {seed}") % (_SEEDS_PER_SPLIT - num_tasks)
        self._first_seed = first_seed + SPLITS.index(split) * _SEEDS_PER_SPLIT
        chosen = _weights_and_configs(tasks)
        self._names = list(chosen)
        self._configs = {name: self._checked_config(name, config) for name, (_, config) in chosen.items()}
        self._bounds = list(accumulate(weight for weight, _ in chosen.values()))
        self._sets: dict[str, Any] = {}
        self._tasks: dict[int, Task] = {}

    def __len__(self) -> int:
        return self.num_tasks

    def task(self, index: int) -> Task:
        """Return task `index`; its answer is the name of the set and reasoning-gym's entry."""
        if index not in self._tasks:
            if len(self._tasks) >= _MAX_CACHED:
                del self._tasks[next(iter(self._tasks))]
            self._tasks[index] = self._made(index)
        return self._tasks[index]

    def grade(self, task: Task, completion: str) -> Grade:
        """Grade by the set's scorer. If the scorer raises, it cannot read the answer, which is then wrong."""
        name, entry = task.answer
        answer = _tagged_answer(completion)
        if answer is None:
            return Grade(0.0, False, None, "no_answer")
        if len(answer) > _MAX_ANSWER_CHARS or (name in _UNFIT and _UNFIT[name].search(answer)):
            return Grade(0.0, False, answer, "guarded")
        try:
            score = self._set(name).score_answer(answer, copy.deepcopy(entry))  # some scorers write into the entry
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError):
            score = 0.0
        correct = score == 1.0  # above 1 the scorer is wrong; 0.999 is a time that is wrong by a minute
        return Grade(float(correct), correct, answer, "ok" if correct else "wrong")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sets": {}, "_tasks": {}}

    def _made(self, index: int) -> Task:
        point = _hash(f"{self.seed} {index}") / 2**64 * self._bounds[-1]
        name = self._names[min(bisect(self._bounds, point), len(self._names) - 1)]
        dataset = self._set(name)
        with _own_randomness(self._first_seed + index):
            entry = dataset[index]
        return Task(entry["question"], (name, entry), f"reasoning/{name}")

    def _set(self, name: str) -> Any:
        if name not in self._sets:
            dataset_class, _ = _reasoning_gym().factory.DATASETS[name]
            with _own_randomness(self._first_seed):
                self._sets[name] = dataset_class(self._configs[name])
        return self._sets[name]

    def _checked_config(self, name: str, options: Mapping[str, Any]) -> Any:
        datasets = _reasoning_gym().factory.DATASETS
        if name in LEFT_OUT:
            raise ValueError(f"tasks: {name!r} is left out: {LEFT_OUT[name]}")
        if name not in datasets:
            known = ", ".join(sorted(datasets.keys() - LEFT_OUT))
            raise ValueError(f"tasks: reasoning-gym has no {name!r}; it has {known}")
        if not {"seed", "size"}.isdisjoint(options):
            raise ValueError(f"tasks: the config of {name!r} sets seed or size: use seed and num_tasks of this env")
        try:
            config = datasets[name][1](**options, seed=self._first_seed, size=self.num_tasks)
            if hasattr(config, "validate"):  # one has none
                config.validate()
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"tasks: the config {dict(options)} of {name!r} is refused: {error}") from None
        return config


def _reasoning_gym() -> ModuleType:
    try:
        found = version("reasoning-gym")
    except ImportError:
        raise ImportError("ReasoningEnv needs reasoning-gym: pip install 'aspo-rllib[reasoning]'") from None
    if found != _REVIEWED_VERSION:
        raise ImportError(f"reasoning-gym {found} was not reviewed: pip install reasoning-gym=={_REVIEWED_VERSION}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of packages that it imports
        import reasoning_gym.factory
    return reasoning_gym


def _weights_and_configs(tasks: Any) -> dict[str, tuple[float, Mapping[str, Any]]]:
    if isinstance(tasks, str):
        tasks = [tasks]
    if not isinstance(tasks, Mapping):
        if not isinstance(tasks, Sequence) or not all(isinstance(name, str) for name in tasks):
            raise ValueError(f"tasks={tasks!r} is neither a name, a list of names nor a mapping from names to weights")
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"tasks={list(tasks)!r} has a name twice: give it a weight, {{name: 2.0}}")
        tasks = dict.fromkeys(tasks, 1.0)
    if not tasks:
        raise ValueError("tasks is empty: name at least one set of reasoning-gym")
    chosen = {}
    for name, options in tasks.items():
        options = options if isinstance(options, Mapping) else {"weight": options}
        if options.keys() - {"weight", "config"}:
            raise ValueError(f"tasks[{name!r}]={dict(options)!r}: the keys are weight and config")
        weight = options.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"tasks[{name!r}]: weight={weight!r} is not a number above 0")
        chosen[name] = (float(weight), options.get("config", {}))
    return chosen


def _tagged_answer(completion: str) -> str | None:
    part = final_part(completion)
    end = -1 if part is None else part.rfind("</answer>")
    start = -1 if end < 0 else part.rfind("<answer>", 0, end)
    return None if start < 0 else part[start + len("<answer>") : end].strip()


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Restore the global generators of the process afterwards, because some sets draw from them or seed them."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _hash(text: str) -> int:
    """64 bits that are the same on every machine, unlike hash()."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _check_integer(name: str, value: Any, lowest: int, highest: int | None) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < lowest or (highest is not None and value > highest):
        raise ValueError(f"{name}={value!r} is not an integer in {lowest}..{'' if highest is None else highest}")
