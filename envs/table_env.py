"""An env over a table of tasks: what the math and the code family have in common."""

from typing import Any

from envs.data import open_tasks
from envs.grading.answers import Answer
from envs.text_env import Grade, SingleTurnTextEnv, Task


class TableEnv(SingleTurnTextEnv):
    """Asks the tasks of a data set; a grader of the family judges the completions.

    Args:
        data: what to open, as `envs.data.open_tasks` takes it.
        answer_type: `MathAnswer` or `CodeTests`.
        grader: has `grade(answer, completion)` and `close()`, and can be pickled.
        system_prompt: replaces the class's; "" for none.
        data_options: the other arguments of `open_tasks`.

    Raises:
        ValueError: without `data`, and for what `open_tasks` refuses.
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
        self.tasks = open_tasks(data, answer_type=answer_type, **data_options)
        self._grader = grader

    def __len__(self) -> int:
        return len(self.tasks)

    def task(self, index: int) -> Task:
        """Return the task in this row of the table."""
        return self.tasks[index]

    def grade(self, task: Task, completion: str) -> Grade:
        """Let the grader compare the completion with the task's answer."""
        return self._grader.grade(task.answer, completion)

    def close(self) -> None:
        """End the grader's processes."""
        self._grader.close()
