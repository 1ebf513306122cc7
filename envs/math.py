"""Math problems from any data set, with answers that can be compared automatically."""

from typing import Any

from envs.grading.answers import MathAnswer
from envs.grading.math.grader import MathGrader
from envs.table_env import TableEnv
from envs.text_env import Grade, Task


class MathEnv(TableEnv):
    r"""Math problems: the last \boxed{...} of the completion is compared with the gold answer.

        MathEnv("problems.jsonl")
        MathEnv("openai/gsm8k:main", split="test", limit=200)
        MathEnv("mine.parquet", columns={"prompt": "Aufgabe", "answer": "Ergebnis"})

    Args:
        data: a file, a list of files, a data set of the Hugging Face hub or a `datasets.Dataset`, with rows in any
            layout that `envs.layouts` knows. Rows whose answer is a program's tests are left out.
        decimals: with "rounded", a decimal of at least four significant digits is right for an exact gold that rounds
            to it, as 1.414 for \sqrt{2}. With "exact", it must be equal.
        system_prompt: replaces the default, which asks for the box; "" means none.
        data_options: `split`, `columns`, `limit` and the other arguments of `envs.data.open_tasks`.

    Raises:
        ValueError: without `data`, for an argument outside its range, and for data that cannot be read.
    """

    system_prompt = r"Solve the problem step by step, and put the final answer, and nothing else, in \boxed{}."

    def __init__(
        self, data: Any = None, *, decimals: str = "rounded", system_prompt: str | None = None, **data_options: Any
    ):
        super().__init__(data, MathAnswer, MathGrader(decimals), system_prompt, data_options)

    def grade(self, task: Task, completion: str) -> Grade:
        """Compare the completion with the gold. If the question mentions percent, both 5 and 5% are right for 5."""
        return self._grader.grade(task.answer, self.answer_prefix + completion, task.prompt)
