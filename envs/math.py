"""Math problems of any data set, with answers that a computer can compare."""

from typing import Any

from envs.grading.answers import MathAnswer
from envs.grading.math.grader import MathGrader
from envs.table_env import TableEnv


class MathEnv(TableEnv):
    r"""Asks math problems; the last \boxed{...} of the completion is compared with the gold answer.

        MathEnv("problems.jsonl")
        MathEnv("openai/gsm8k:main", split="test", limit=200)
        MathEnv("mine.parquet", columns={"prompt": "Aufgabe", "answer": "Ergebnis"})

    Args:
        data: a file, a list of files, a data set of the Hugging Face hub or a `datasets.Dataset`, with rows in any
            layout that `envs.layouts` knows. Rows whose answer is a program's tests are left out.
        timeout_s: seconds for one comparison, above 0.
        system_prompt: replaces the class's, which asks for the box; "" for none.
        data_options: `split`, `columns`, `limit` and the other arguments of `envs.data.open_tasks`.

    Raises:
        ValueError: without `data`, for an argument outside its range, and for data that cannot be read.
    """

    system_prompt = r"Solve the problem step by step, and put the final answer, and nothing else, in \boxed{}."

    def __init__(
        self, data: Any = None, *, timeout_s: float = 5.0, system_prompt: str | None = None, **data_options: Any
    ):
        super().__init__(data, MathAnswer, MathGrader(timeout_s), system_prompt, data_options)
