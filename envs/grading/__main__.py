"""Grade a file of cases whose verdicts are known: `python -m envs.grading math FILE.jsonl`, `... code FOLDER`.

A math case is a line {"gold": "1/2", "answer": "\\\\boxed{0.5}", "expected": true}; gold may be a list of acceptable
answers. Rows with "policy": true depend on a convention: they are shown if they disagree, but they do not count.

A folder of programs has a file `expected.json` with the task of each program, and whether the program is right:

    {"task": {"stdin": {"tests": [{"input": "1\\n", "output": "1\\n"}]},
              "call": {"fn_name": "solve", "inputs": ["[1, 2]"], "outputs": ["3"]},
              "assert": {"entry_point": "add", "test": "def check(candidate): ..."}},
     "limits": {"wall_s": 4, "cpu_s": 3, "memory_mb": 512, "output_bytes": 1048576},
     "files": {"a.py": {"mode": "stdin", "expect": "pass"}, "b.py": {"mode": "call", "expect": "fail"}}}

The inputs and outputs of calls are the single argument and the result, as JSON.

`python -m envs.grading check FILE` checks the graders with the golds and solutions of a data file; see `check.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from envs.grading.answers import CodeTests, MathAnswer
from envs.grading.check import check
from envs.grading.code.grader import CodeGrader, Limits
from envs.grading.math.grader import MathGrader
from envs.text_env import Grade

_SHOWN_CHARS = 100
_SHOWN_ROWS = 20


@dataclass(frozen=True)
class Case:
    """One case and its grade: `what` describes it in a line, and `counts` is false for cases of policy."""

    name: str
    what: str
    expected: bool
    grade: Grade
    counts: bool = True

    @property
    def agrees(self) -> bool:
        """Whether the grade is the expected one; it is not if the sandbox failed."""
        return self.grade.correct == self.expected and self.grade.status != "sandbox_error"


def math_cases(path: Path) -> Iterator[Case]:
    """Grade the pairs of a JSONL file.

    Raises:
        ValueError: for a line that is not a case, with its number.
    """
    with MathGrader() as grader, path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                golds, answer, expected = row["gold"], row["answer"], row["expected"]
                gold = MathAnswer(tuple(golds) if isinstance(golds, list) else (golds,))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error!r}; a case has gold, answer and expected") from None
            name = row.get("id") or row.get("name") or f"line {number}"
            what = f"gold {_short(golds)}, answer {_short(answer)}"
            yield Case(name, what, bool(expected), grader.grade_text(gold, answer), not row.get("policy"))


def code_cases(folder: Path) -> Iterator[Case]:
    """Run the programs of a folder by its `expected.json`.

    Raises:
        ValueError: for a program that does not exist, or a mode without a task.
    """
    spec = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    known = {field.name for field in fields(Limits)}
    limits = Limits(**{name: value for name, value in spec.get("limits", {}).items() if name in known})
    tests = {mode: _tests(mode, task) for mode, task in spec["task"].items()}
    with CodeGrader(limits) as grader:
        for name, case in spec["files"].items():
            if case["mode"] not in tests:
                raise ValueError(f"{name}: mode={case['mode']!r} is not one of {', '.join(tests)}")
            if not (folder / name).is_file():
                raise ValueError(f"{name}: there is no such program in {folder}")
            # Programs are read unchanged, also if they have bytes that are not UTF-8.
            program = (folder / name).read_bytes().decode("utf-8", errors="surrogateescape")
            grade = grader.grade_program(tests[case["mode"]], program)
            yield Case(name, case["mode"], case["expect"] == "pass", grade)


def _tests(mode: str, task: dict[str, Any]) -> CodeTests:
    if mode == "stdin":
        cases = task["tests"]
        return CodeTests("stdin", tuple(c["input"] for c in cases), tuple(c["output"] for c in cases))
    if mode == "call":
        inputs = tuple(json.dumps([json.loads(argument)]) for argument in task["inputs"])
        return CodeTests("call", inputs, tuple(task["outputs"]), fn_name=task["fn_name"])
    if mode == "assert":
        return CodeTests("assert", fn_name=task["entry_point"], check=task["test"])
    raise ValueError(f"task {mode!r} is not one of stdin, call, assert")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS // 2]} ... {text[-_SHOWN_CHARS // 2 :]}"


def print_checks(path: Path, columns: dict[str, str] | None, limit: int | None) -> int:
    """Print the results of `check` and the rows that disagree; return 1 if there is one, else 0."""
    checks = check(path, columns=columns, limit=limit)
    for each in checks:
        print(each)
        for row, seen in each.disagreeing[:_SHOWN_ROWS]:
            print(f"  {row}: {_short(seen)}")
        if len(each.disagreeing) > _SHOWN_ROWS:
            print(f"  and {len(each.disagreeing) - _SHOWN_ROWS} more")
    return int(any(each.disagreeing for each in checks))


def main(arguments: list[str] | None = None) -> int:
    """Print every disagreement, and `right/total` at the end; return 1 if a disagreement counts, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.grading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="math FILE.jsonl | code FOLDER | check FILE")
    kinds.add_parser("math", help="pairs of gold and answer").add_argument("path", type=Path, metavar="FILE.jsonl")
    kinds.add_parser("code", help="programs").add_argument("path", type=Path, metavar="FOLDER")
    data = kinds.add_parser("check", help="golds and solutions of a data file")
    data.add_argument("path", type=Path, metavar="FILE")
    data.add_argument("--columns", type=json.loads, help='which columns to read, {"prompt": ..., "answer": ...}')
    data.add_argument("--limit", type=int, help="how many rows")
    args = parser.parse_args(arguments)
    if not args.path.exists():
        parser.error(f"{args.path} does not exist")
    if args.kind == "check":
        return print_checks(args.path, args.columns, args.limit)
    right = total = 0
    for case in (math_cases if args.kind == "math" else code_cases)(args.path):
        if not case.agrees:
            kind = "" if case.counts else " (policy)"
            failed = case.grade.status == "sandbox_error"
            verdict = f"expected {case.expected}, got {case.grade.correct} ({case.grade.status})"
            verdict = f"expected {case.expected}, and the sandbox failed" if failed else verdict
            print(f"{case.name}{kind}: {verdict}: {case.what}", flush=True)
        right += case.agrees and case.counts
        total += case.counts
    print(f"{right}/{total}")
    return int(right < total)


if __name__ == "__main__":
    sys.exit(main())
