"""The answers that completions are compared with: golds of a math problem, tests of a program, or none.

All can be written as JSON and read back unchanged, so a table of tasks can store them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

CODE_KINDS = ("stdin", "call", "assert")


@dataclass(frozen=True)
class MathAnswer:
    """The gold of a math problem.

    Attributes:
        golds: acceptable answers as LaTeX or plain text, without `\\boxed` or `$`; at least one.
        require_all: the completion must give every gold (a problem with several answers), not only one of them.
        tolerance: the absolute error that is accepted; None compares exactly.

    Raises:
        ValueError: without a gold, for an empty gold, and for a tolerance below zero.
    """

    golds: tuple[str, ...]
    require_all: bool = False
    tolerance: float | None = None

    def __post_init__(self):
        if not self.golds or not all(isinstance(gold, str) and gold.strip() for gold in self.golds):
            raise ValueError(f"golds={self.golds!r} must be at least one text, none of them empty")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance!r} must be at least 0")


@dataclass(frozen=True)
class CodeTests:
    """The tests of a program. A program is right if it passes all of them.

    Attributes:
        kind: "stdin" (a program reads one text and writes another), "call" (a function is called with arguments)
            or "assert" (a test program has assertions about a function).
        inputs: for stdin, the texts to read; for call, the positional arguments of each call, as a JSON list.
        outputs: for stdin, the texts to write; for call, the values to return, as JSON.
        fn_name: for call and assert, the function under test: "solve", or "Solution.solve" for a method, which is
            called on a new object.
        check: for assert, Python source. Either it defines `check(candidate)`, or it has plain `assert` statements
            that use the function by name.
        prefix: Python source that runs before the program, such as imports that the problem promises.
        time_limit_s: seconds per test; None means the limit of the grader.

    Raises:
        ValueError: for a combination that is not valid.
    """

    kind: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    fn_name: str | None = None
    check: str = ""
    prefix: str = ""
    time_limit_s: float | None = None

    def __post_init__(self):
        if self.kind not in CODE_KINDS:
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(CODE_KINDS)}")
        if self.kind == "assert":
            if not self.check.strip():
                raise ValueError("check is empty: there is nothing to assert")
            return
        if not self.inputs or len(self.inputs) != len(self.outputs):
            raise ValueError(
                f"{len(self.inputs)} inputs and {len(self.outputs)} outputs: one each per test, at least one"
            )
        if self.kind == "call" and not self.fn_name:
            raise ValueError("fn_name is missing: a call needs the name of a function")


@dataclass(frozen=True)
class NoAnswer:
    """The answer of a task that reward functions alone judge."""


Answer = MathAnswer | CodeTests | NoAnswer


def answer_to_json(answer: Answer) -> str:
    """Write an answer as JSON for `answer_from_json`; integers may have any size."""
    return json.dumps(asdict(answer), ensure_ascii=True)


def answer_from_json(text: str) -> Answer:
    """Read an answer that `answer_to_json` wrote."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
    if not fields:
        return NoAnswer()
    return MathAnswer(**fields) if "golds" in fields else CodeTests(**fields)
