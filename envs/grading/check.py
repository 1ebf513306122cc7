r"""Check the graders with the golds and programs of a data set, before training on it.

    for report in check(Path("gsm8k.jsonl")):
        print(report)

For a math row, a box with its gold must be right. The gold of the next row, its gold with another digit, and its gold
with words after it must be wrong. For a row with a program, its own solution must pass, and must fail without its
results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from envs.data.sources import find_sources
from envs.grading.answers import CodeTests, MathAnswer
from envs.grading.code.grader import CodeGrader
from envs.grading.exact_json import parse_json
from envs.grading.math.grader import MathGrader
from envs.layouts import to_task
from envs.text_env import Task

_SOLUTIONS = ("canonical_solution", "solution", "solutions", "code", "completion", "reference_solution")
_TAIL = r" \text{ is not the answer}"


@dataclass
class Check:
    """The result of one check over all rows.

    Attributes:
        what: a description of the check.
        total: the number of rows that were checked.
        disagreeing: (row, what the grader found) for the rows that fail the check.
    """

    what: str
    total: int = 0
    disagreeing: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: str, seen: str, agrees: bool) -> None:
        """Count one row."""
        self.total += 1
        if not agrees:
            self.disagreeing.append((row, seen))

    def __str__(self) -> str:
        return f"{self.what}: {self.total - len(self.disagreeing)}/{self.total}"


def check(data: Any, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> list[Check]:
    """Check the graders with every row of a data file, or with the first `limit` rows.

    Raises:
        ValueError: for data that cannot be read.
        FileNotFoundError: for a file that does not exist.
    """
    readable = Check("rows that are tasks")
    rows = list(islice(_rows(data, columns, readable), limit))
    golds = [(name, task) for name, task, _ in rows if isinstance(task.answer, MathAnswer)]
    programs = [(name, task.answer, row) for name, task, row in rows if isinstance(task.answer, CodeTests)]
    checks = [readable]
    if golds:
        checks += _check_golds(golds)
    if programs:
        checks += _check_programs(programs)
    return checks


def _rows(
    data: Any, columns: Mapping[str, str] | None, readable: Check
) -> Iterator[tuple[str, Task, Mapping[str, Any]]]:
    for source in find_sources(str(data) if isinstance(data, Path) else data, "train"):
        for row in source.rows():
            name = f"{row.unit} {row.number}"
            try:
                content = row.valid_content()
                task = to_task(content, columns, source.label)
            except ValueError as error:
                readable.add(name, str(error), agrees=False)
                continue
            readable.add(name, "", agrees=True)
            yield name, task, content


def _check_golds(golds: list[tuple[str, Task]]) -> list[Check]:
    own, other, digit, tail = (
        Check("golds that equal their own text"),
        Check("golds of other rows that are wrong"),
        Check("golds with another digit that are wrong"),
        Check("golds with words after them that are wrong"),
    )
    grader = MathGrader()
    for (name, task), (_, neighbour) in zip(golds, golds[1:] + golds[:1], strict=True):
        text, foreign = _text(task.answer), _text(neighbour.answer)

        def is_right(answer: str, task: Task = task) -> bool:
            return grader.grade(task.answer, f"\\boxed{{{answer}}}", task.prompt).correct

        own.add(name, text, is_right(text))
        if foreign != text and not MathGrader("exact").grade(neighbour.answer, f"\\boxed{{{text}}}").correct:
            other.add(name, f"{text} and {foreign}", not is_right(foreign))
        changed = re.sub(r"[1-9](?!.*[1-9])", lambda match: str(int(match[0]) % 9 + 1), text, count=1, flags=re.DOTALL)
        if changed != text:
            digit.add(name, f"{text} and {changed}", not is_right(changed))
        tail.add(name, text + _TAIL, not is_right(text + _TAIL))
    return [own, other, digit, tail]


def _text(answer: MathAnswer) -> str:
    return ", ".join(answer.golds) if answer.require_all else answer.golds[0]


def _check_programs(programs: Iterable[tuple[str, CodeTests, Mapping[str, Any]]]) -> list[Check]:
    whole, broken = Check("solutions that pass"), Check("broken solutions that fail")
    with CodeGrader() as grader:
        for name, tests, row in programs:
            program = _solution(row)
            if program is None:
                continue
            grade = grader.grade_program(tests, program)
            whole.add(name, grade.status, grade.correct)
            grade = grader.grade_program(tests, _broken(program))
            broken.add(name, grade.status, not grade.correct)
    return [whole, broken]


def _solution(row: Mapping[str, Any]) -> str | None:
    """Return the program that is the solution of a row; None for a row without one."""
    for column in _SOLUTIONS:
        value = row.get(column)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError:
                continue
        if isinstance(value, Mapping):
            value = value.get("solution")
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, str) and value.strip():
            fenced = re.search(r"```(?:python)?\n(.*?)```", value, re.DOTALL)
            program = fenced[1] if fenced else value
            # The prompt of HumanEval is the head of a function, and the solution continues it.
            return row["prompt"] + program if column == "canonical_solution" and "prompt" in row else program
    return None


def _broken(program: str) -> str:
    """Return a program without its results: it returns None and prints nothing."""
    program = re.sub(
        r"^(\s*)return\b(?=[^\n]*$)(?![^\n]*[([{]\s*$)[^\n]*", r"\1return None", program, flags=re.MULTILINE
    )
    return re.sub(r"(?<![\w.])print\(", "(lambda *args, **options: None)(", program)
