"""What a completion is compared with: the gold answers of a math problem, or the tests of a program.

Both are plain data that go through JSON unchanged, so that a table of tasks can hold them.
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
        require_all: every gold must be given (a problem with several answers), not just one of them.
        tolerance: absolute error that still counts as right; None compares exactly.

    Raises:
        ValueError: for no gold, an empty gold, or a tolerance below zero.
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
    """The tests of a program; it is right when it passes all of them.

    Attributes:
        kind: "stdin" (a program reads one text and writes another), "call" (a function is called with arguments)
            or "assert" (a test program asserts things about a function).
        inputs: stdin: the texts to read. call: the positional arguments of each call, as a JSON list.
        outputs: stdin: the texts to write. call: the value to return, as JSON.
        fn_name: call and assert: the function under test, "solve", or "Solution.solve" for a method that is called
            on a fresh object.
        check: assert: Python source. Either it defines `check(candidate)`, or it is plain `assert` statements that
            use the function by name.
        prefix: Python source that comes before the program, such as imports that the problem promises.
        time_limit_s: seconds per test; None leaves it to the grader.

    Raises:
        ValueError: when these do not fit together.
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


Answer = MathAnswer | CodeTests


def answer_to_json(answer: Answer) -> str:
    """Write an answer so that `answer_from_json` gives it back, integers of any size included."""
    return json.dumps(asdict(answer), ensure_ascii=True)


def answer_from_json(text: str) -> Answer:
    """Read what `answer_to_json` wrote."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
    return MathAnswer(**fields) if "golds" in fields else CodeTests(**fields)
