"""Single-turn text environments: the observation is a prompt, the action a completion, then it is over."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded

GRADE_STATUSES = ("ok", "wrong", "no_answer", "timeout", "guarded", "sandbox_error")

_PRINTABLE_ASCII = "".join(map(chr, range(32, 127)))
_MAX_SAMPLE_LENGTH = 32


class TextSpace(gym.spaces.Text):
    """Every `str`, of any length and alphabet.

    `gymnasium.spaces.Text` demands a finite alphabet, and prompts or completions hold LaTeX, newlines and any
    other unicode. `sample()` draws at most 32 printable ASCII characters, so random actions stay readable.
    """

    def __init__(self, seed: int | np.random.Generator | None = None):
        super().__init__(max_length=sys.maxsize, min_length=0, charset=_PRINTABLE_ASCII, seed=seed)

    def sample(self, mask: tuple | None = None, probability: tuple | None = None) -> str:
        """Draw a short printable string; `mask` and `probability` mean what they do in the parent class."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(_MAX_SAMPLE_LENGTH + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Tell whether `x` is a `str`."""
        return isinstance(x, str)

    @property
    def is_np_flattenable(self) -> bool:
        """False: there is no fixed-size array that holds every string."""
        return False

    def __repr__(self) -> str:
        return "TextSpace()"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, TextSpace)


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        prompt: what the model is asked, without any chat template.
        answer: what `grade` compares with: the gold text, a list of test cases, ...; it never leaves the env.
        data_source: where the problem comes from; metrics and evaluation are grouped by it.
        history: chat messages that come before the prompt, {"role": ..., "content": ...} each: a system message of
            its own (which then replaces the env's), worked examples.
    """

    prompt: str
    answer: Any
    data_source: str
    history: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Attributes:
        reward: what training sees, before any shaping.
        correct: what accuracy counts.
        extracted: the answer found in the completion; None when there was none.
        status: "ok" (correct), "wrong", "no_answer" (nothing to compare), "timeout" (of the grader),
            "guarded" (refused before grading, as unsafe or too large) or "sandbox_error" (the grader failed:
            the rollout says nothing about the model and must be dropped).

    Raises:
        ValueError: for a status that is not in `GRADE_STATUSES`.
    """

    reward: float
    correct: bool
    extracted: str | None
    status: str

    def __post_init__(self):
        if self.status not in GRADE_STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(GRADE_STATUSES)}")


class SingleTurnTextEnv(gym.Env[str, str], ABC):
    """A numbered list of problems, each asked once and answered once.

    A task family says how many problems there are, which one has a given index (always the same one, in every
    process: the G samples of a group are graded on envs that were reset to one index) and how to grade:

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

    A subclass with its own `__init__` calls `super().__init__()`. Whoever samples the completion puts
    `system_prompt` (None: there is none) into the chat template; it is no part of the observation.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium reads a plain class attribute)
    system_prompt: str | None = None

    def __init__(self):
        self.observation_space = TextSpace()
        self.action_space = TextSpace()
        self._index: int | None = None  # None: reset comes next

    @abstractmethod
    def __len__(self) -> int:
        """Number of tasks; `task` is defined on range(len(self))."""

    @abstractmethod
    def task(self, index: int) -> Task:
        """Return the task with this index: a pure function of the index and the constructor's arguments."""

    @abstractmethod
    def grade(self, task: Task, completion: str) -> Grade:
        """Judge any string, hostile ones included, without raising on account of what it says."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Ask a problem.

        Args:
            seed: reseeds the generator that draws tasks.
            options: {"index": i} asks task i; without an index one is drawn from `np_random`.

        Returns:
            (prompt, info) with info["index"], info["data_source"] and, for a task that has one, info["history"].

        Raises:
            ValueError: for an unknown option, and for an index that is no integer in range(len(self)).
        """
        super().reset(seed=seed)
        index = self._chosen_index(options or {})
        task = self.task(index)
        self._index = index
        info = {"index": index, "data_source": task.data_source}
        return task.prompt, info | ({"history": list(task.history)} if task.history else {})

    def step(self, action: str):
        """Grade a completion and end the episode.

        Returns:
            ("", reward, True, False, info) with the info keys data_source, index, extracted, correct,
            grade_status and grade_seconds. The time is wall-clock and rounded to 1 ms, so that equal steps
            of an instant grader give equal infos, which Gymnasium's `check_env` demands.

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
        grade = self.grade(task, action)
        info = {
            "data_source": task.data_source,
            "index": self._index,
            "extracted": grade.extracted,
            "correct": grade.correct,
            "grade_status": grade.status,
            "grade_seconds": round(perf_counter() - start, 3),
        }
        self._index = None
        return "", float(grade.reward), True, False, info

    def get_state(self) -> dict[str, Any]:
        """Return what decides the future: the generator's state and the task that waits for its step."""
        return {"np_random": self.np_random.bit_generator.state, "index": self._index}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where `get_state` was called, in this or in another env of the same arguments."""
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
