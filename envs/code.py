"""Programming problems with tests, from any data set."""

from collections.abc import Sequence
from typing import Any

from envs.grading.answers import CodeTests
from envs.grading.code.grader import CodeGrader, Limits
from envs.table_env import TableEnv


class CodeEnv(TableEnv):
    """Tasks that ask for a Python program: the tests run the last fenced block of the completion in a sandbox.

        CodeEnv("problems.jsonl")
        CodeEnv("evalplus/humanevalplus", split="test", limits=Limits(memory_mb=512))

    Args:
        data: a file, a list of files, a data set of the Hugging Face hub or a `datasets.Dataset`, with rows in any
            layout that `envs.layouts` knows. Rows whose answer is a formula or a number are left out.
        limits: what a program may use.
        packages: importable packages that programs may use, besides the standard library.
        system_prompt: replaces the default, which asks for the fenced block; "" means none.
        data_options: `split`, `columns`, `limit` and the other arguments of `envs.data.open_tasks`.

    Raises:
        ValueError: without `data`, for an argument outside its range, and for data that cannot be read.
        RuntimeError: when no sandbox works on this machine. A program never runs without a sandbox.
    """

    system_prompt = (
        "Solve the problem with a Python program. Think first, then write the complete program in one block that "
        "starts with ```python and ends with ```. If the problem gives a function, write that whole function, its "
        "imports included. Otherwise read the standard input and print the answer."
    )

    def __init__(
        self,
        data: Any = None,
        *,
        limits: Limits | None = None,
        packages: Sequence[str] = ("numpy",),
        system_prompt: str | None = None,
        **data_options: Any,
    ):
        super().__init__(data, CodeTests, CodeGrader(limits or Limits(), packages), system_prompt, data_options)
