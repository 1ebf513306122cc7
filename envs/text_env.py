"""Single-turn text environments: the observation is a prompt, the action is a completion, and then the episode ends."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded

GRADE_STATUSES = ("ok", "wrong", "no_answer", "timeout", "guarded", "sandbox_error")

_PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))
_MAX_SAMPLE_LENGTH = 32
# A reward is logged as reward/NAME/mean, and a set of a mixture as reward/NAME/accuracy, beside metrics of these names.
# MLflow ends a run at a name with other characters.
METRICS_OF_REWARDS = ("mean", "std", "group_std", "accuracy")
_METRIC_NAME = re.compile(r"[A-Za-z0-9_]+")


class TextSpace(gym.spaces.Text):
    """Every `str`, of any length and alphabet.

    `gymnasium.spaces.Text` demands a finite alphabet, but prompts and completions contain LaTeX, newlines and any
    other Unicode. `sample()` draws at most 32 printable ASCII characters, so random actions are readable.
    """

    def __init__(self, seed: int | np.random.Generator | None = None):
        super().__init__(max_length=sys.maxsize, min_length=0, charset=_PRINTABLE_ASCII, seed=seed)

    def sample(self, mask: tuple | None = None, probability: tuple | None = None) -> str:
        """Draw a short printable string; `mask` and `probability` have the same meaning as in the parent class."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(_MAX_SAMPLE_LENGTH + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is a `str`."""
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        """False: no array of fixed size can represent every string."""
        return False

    def __repr__(self) -> str:
        return "TextSpace()"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TextSpace)


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        prompt: the question to the model, without any chat template.
        answer: the value that `grade` compares with: the gold text, a list of test cases, ... It never leaves the env.
        data_source: the origin of the problem. Metrics and evaluation are grouped by it.
        history: chat messages before the prompt, each one {"role": ..., "content": ...}: a system message (which
            replaces the one of the env) and worked examples.
        templated: whether the prompt already contains the tokens of a chat template and must not get a second one.
        columns: the row that the task was read from, for reward functions; None if it is not kept.
    """

    prompt: str
    answer: Any
    data_source: str
    history: tuple[dict[str, str], ...] = ()
    templated: bool = False
    columns: dict[str, Any] | None = None


@dataclass(frozen=True)
class Grade:
    """The grade of one completion.

    Attributes:
        reward: the reward for training, before any shaping.
        correct: whether accuracy counts the completion as right; None if there is no verdict, only a reward.
        extracted: the answer that was found in the completion; None if there was none.
        status: "ok" (correct), "wrong", "no_answer" (nothing to compare), "timeout" (of the grader),
            "guarded" (refused before grading, as unsafe or too large) or "sandbox_error" (the grader failed:
            the rollout must be dropped, because it has no information about the model).
        rewards: the named components of the reward, such as {"correct": 1.0, "format": 0.0}; None for a component
            that does not apply to the task. The setting `reward_weights` weighs them, and without it `reward` counts.
            Empty if the reward has no components.

    Raises:
        ValueError: for a status that is not in `GRADE_STATUSES`, and for a name that no reward may have.
    """

    reward: float
    correct: bool | None
    extracted: str | None
    status: str
    rewards: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self):
        if self.status not in GRADE_STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(GRADE_STATUSES)}")
        check_reward_names(self.rewards, "Grade.rewards")


def is_metric_name(name: Any) -> bool:
    """Whether a reward, or a set of a mixture, can be logged under this name."""
    return isinstance(name, str) and bool(_METRIC_NAME.fullmatch(name)) and name not in METRICS_OF_REWARDS


def check_reward_names(names: Iterable[Any], where: str) -> None:
    """Raise ValueError, which begins with `where`, for an illegal name of a reward, and for one that occurs twice."""
    seen: set[str] = set()
    for name in names:
        if not is_metric_name(name):
            raise ValueError(
                f"{where}: {name!r} is not the name of a reward: expected letters, digits and _, and none of "
                f"{', '.join(METRICS_OF_REWARDS)}"
            )
        if name in seen:
            raise ValueError(f"{where}: two rewards have the name {name!r}")
        seen.add(name)


class SingleTurnTextEnv(gym.Env[str, str], ABC):
    """A numbered list of problems. An episode is one problem and one answer.

    A task family defines the number of problems, the problem with a given index, and the grade of a completion. An
    index must mean the same problem in every process, because all rollouts of a group are graded by its index:

        class ReverseEnv(SingleTurnTextEnv):
            system_prompt = "Write the word backwards."
            words = ("stressed", "drawer", "evil")

            def __len__(self):
                return len(self.words)

            def task(self, index):
                word = self.words[index]
                return Task(prompt=word, answer=word[::-1], data_source="reverse")

            def grade(self, task, completion):
                text = completion.strip()
                correct = text == task.answer
                return Grade(float(correct), correct, text or None, "ok" if correct else "wrong")

    A subclass with its own `__init__` calls `super().__init__()`. The observation contains neither `system_prompt` nor
    `answer_prefix`. The sampler writes `system_prompt` (None: there is none) into the chat template, and puts
    `answer_prefix`, the beginning of every answer, after the prompt. `grade` gets the text after it. `reward_names` are
    the names of the rewards in every grade, if the env knows them beforehand; the settings are then checked at once.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium reads a plain class attribute)
    system_prompt: str | None = None
    answer_prefix = ""
    reward_names: tuple[str, ...] | None = None

    def __init__(self):
        self.observation_space = TextSpace()
        self.action_space = TextSpace()
        self._index: int | None = None  # None: the next call must be reset()

    @abstractmethod
    def __len__(self) -> int:
        """Number of tasks; `task` is defined on range(len(self))."""

    @abstractmethod
    def task(self, index: int) -> Task:
        """Return the task with this index: a pure function of the index and the constructor's arguments."""

    @abstractmethod
    def grade(self, task: Task, completion: str) -> Grade:
        """Grade any string, also a hostile one. The content of the string never makes it raise."""

    def graded(self, task: Task, completion: str) -> Grade:
        """What `step` reports: `grade`, to which a base class of several envs may add rewards."""
        return self.grade(task, completion)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode with a problem.

        Args:
            seed: reseeds the generator that draws tasks.
            options: {"index": i} selects task i. Without an index, a task is drawn by `np_random`.

        Returns:
            (prompt, info) with info["index"], info["data_source"] and, for a task
            that has them, info["history"] and info["templated"].

        Raises:
            ValueError: for an unknown option, and for an index that is not an integer in range(len(self)).
        """
        super().reset(seed=seed)
        index = self._chosen_index(options or {})
        task = self.task(index)
        self._expect("task", task, Task)
        self._index = index
        info = {"index": index, "data_source": task.data_source}
        if task.history:
            info["history"] = list(task.history)
        if task.templated:
            info["templated"] = True
        if self.answer_prefix:
            info["answer_prefix"] = self.answer_prefix
        return task.prompt, info

    def step(self, action: str):
        """Grade a completion and end the episode.

        Returns:
            ("", reward, True, False, info) with the info keys data_source, index, extracted, correct,
            grade_status and grade_seconds, and rewards if the grade has some. The wall-clock time is rounded to 1 ms,
            so that equal steps of a fast grader give equal infos, as Gymnasium's `check_env` demands.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, and at a second step of an episode.
            gymnasium.error.InvalidAction: when the action is not a string.
        """
        if self._index is None:
            raise ResetNeeded("a single-turn episode is one step long: call reset() before every step()")
        if not isinstance(action, str):
            raise InvalidAction(f"the action is the completion as a str, got {type(action).__name__}")
        task = self.task(self._index)
        start = perf_counter()
        grade = self.graded(task, action)
        self._expect("grade", grade, Grade)
        info = {
            "data_source": task.data_source,
            "index": self._index,
            "extracted": grade.extracted,
            "correct": grade.correct,
            "grade_status": grade.status,
            "grade_seconds": round(perf_counter() - start, 3),
        }
        if grade.rewards:
            info["rewards"] = dict(grade.rewards)
        self._index = None
        return "", float(grade.reward), True, False, info

    def get_state(self) -> dict[str, Any]:
        """Return the state: that of the generator, and the index of the task in progress."""
        return {"np_random": self.np_random.bit_generator.state, "index": self._index}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `get_state` returned, in this env or in another one with the same arguments."""
        self.np_random.bit_generator.state = state["np_random"]
        self._index = state["index"]

    def _chosen_index(self, options: dict[str, Any]) -> int:
        unknown = sorted(map(str, options.keys() - {"index"}))
        if unknown:
            raise ValueError(f"unknown reset option(s) {', '.join(unknown)}; the only option is index")
        if len(self) == 0:
            raise ValueError(f"{type(self).__name__} has no tasks")
        if "index" not in options:
            return int(self.np_random.integers(len(self)))
        index = options["index"]
        if not isinstance(index, int | np.integer) or not 0 <= index < len(self):
            raise ValueError(f"index={index!r} is not an integer in 0..{len(self) - 1}")
        return int(index)

    def _expect(self, method: str, value: Any, kind: type) -> None:
        """Raise TypeError, with the place of the method, if a subclass returns something else than it should."""
        if not isinstance(value, kind):
            code = getattr(getattr(type(self), method), "__code__", None)
            where = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
            raise TypeError(f"{type(self).__name__}.{method}{where} returned {value!r:.80}; expected a {kind.__name__}")
