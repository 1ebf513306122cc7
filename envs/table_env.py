"""An env over a table of tasks: the common base of the envs that read their tasks from data."""

from dataclasses import replace
from typing import Any

import numpy as np

from envs.data import open_tasks
from envs.data.report import LoadReport
from envs.grading.answers import Answer
from envs.prompt_style import PromptStyle
from envs.reward_functions import RewardFunctions, summed
from envs.text_env import Grade, SingleTurnTextEnv, Task, check_reward_names

OF_GRADER = "correct"
"""The name of the grader's own reward beside those of functions."""


class TableEnv(SingleTurnTextEnv):
    """The tasks of a data set, and a grader for the completions.

    Args:
        data: what to open, as `envs.data.open_tasks` takes it.
        answer_type: `MathAnswer`, `CodeTests` or `NoAnswer`.
        grader: has `grade(answer, completion)` and `close()`, and can be pickled.
        system_prompt: replaces the default and the system messages of the rows; "" means none. With None, rows without
            a system message get the default.
        data_options: `rewards` (functions that add rewards of their own, as `RewardFunctions` takes them), the fields
            of `PromptStyle`, and the other arguments of `open_tasks`.

    Raises:
        ValueError: without `data`, and for data that `open_tasks` refuses.
    """

    def __init__(
        self, data: Any, answer_type: type[Answer], grader: Any, system_prompt: str | None, data_options: dict[str, Any]
    ):
        super().__init__()
        if data is None:
            raise ValueError(
                f"data is missing: give {type(self).__name__} a .jsonl, .json or .parquet file, the name of a data "
                'set on the Hugging Face hub such as "owner/name", or a datasets.Dataset'
            )
        if system_prompt is not None:
            self.system_prompt = system_prompt or None
        self._keeps_system = system_prompt is None
        data_options = dict(data_options)
        self.style = PromptStyle.taken_from(data_options)
        self.answer_prefix = self.style.answer_prefix
        functions = data_options.pop("rewards", ())
        self._functions = RewardFunctions(functions) if functions else None
        if self._functions is not None:
            self.reward_names = (OF_GRADER, *self._functions.names)
            check_reward_names(self.reward_names, "rewards")
        keep_columns = self._functions is not None
        self.tasks = open_tasks(data, answer_type=answer_type, keep_columns=keep_columns, **data_options)
        self._grader = grader

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, index: int) -> Task:
        """Return the task in this row of the table, in the prompt style of the env."""
        task = self.tasks[index]
        if not self._keeps_system:
            task = replace(task, history=tuple(m for m in task.history if m["role"] not in ("system", "developer")))
        return self.style.applied(task)

    def load_reports(self) -> dict[str, LoadReport]:
        """The load reports by the name of the set; the name is "" if there is only one set."""
        return {"": self.tasks.report}

    def questions(self) -> np.ndarray:
        """The int64 hashes of the questions of all tasks. They show which questions two envs share."""
        return self.tasks.questions()

    def grade(self, task: Task, completion: str) -> Grade:
        """Compare the completion with the task's answer."""
        return self._grader.grade(task.answer, self.answer_prefix + completion)

    def graded(self, task: Task, completion: str) -> Grade:
        """The grade, with the rewards of the functions; they get the completion after `answer_prefix`."""
        grade = self.grade(task, completion)
        if self._functions is None:
            return grade
        rewards = {OF_GRADER: grade.reward} | self._functions.rewards(task, completion)
        return replace(grade, reward=summed(rewards), rewards=rewards)

    def close(self) -> None:
        """End the grader's processes."""
        self._grader.close()
