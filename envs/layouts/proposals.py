"""The error message for a row in no known layout: its columns, and the mapping that is probably right."""

from collections.abc import Iterable, Mapping
from itertools import islice

from envs.layouts.cells import Fields, Row, paths

_PROMPTS = ("question", "problem", "query", "prompt", "input", "instruction", "content", "text", "messages",
            "conversations", "question_text", "description", "task")  # fmt: skip
_ANSWERS = ("answer", "golden", "gold", "target", "final_answer", "ground_truth", "label", "expected_answer",
            "golden_answer", "reference_answer", "answers", "solution", "output", "response", "result",
            "completion")  # fmt: skip
_TESTS = ("tests", "test_cases", "unit_tests", "test_list", "testcases", "input_output", "test", "public_tests",
          "asserts", "test_case", "private_tests", "public_test_cases")  # fmt: skip
_MAX_LISTED = 20
_MAX_NAME_CHARS = 60


def listed(row: Row) -> str:
    """The columns of a row; a long list is cut off."""
    names = list(islice(paths(row), 10_000))
    shown = ", ".join(name[:_MAX_NAME_CHARS] for name in names[:_MAX_LISTED]) or "(none)"
    return shown if len(names) <= _MAX_LISTED else f"{shown} and {len(names) - _MAX_LISTED} more"


def unknown_columns(row: Row, mapped: Fields) -> str:
    """The error message for a row in no known layout."""
    by_name = {name.rpartition(".")[2].lower(): name for name in reversed(list(islice(paths(row), 1000)))}
    proposal = {field: cell.column for field, cell in mapped.items() if cell.value is not None}
    tests = _first(by_name, _TESTS, proposal.values())
    answer = _first(by_name, _ANSWERS, proposal.values())
    proposal.setdefault("prompt", _first(by_name, _PROMPTS, [*proposal.values(), answer]) or "<column>")
    if not proposal.keys() & {"answer", "answer_all", "answer_any", "tests"}:
        # Data with tests often has a worked program or solution, too. The tests are the answer then.
        proposal |= {"tests": tests} if tests else {"answer": answer or "<column>"}
    line = ", ".join(f'"{field}": "{column}"' for field, column in proposal.items())
    env = "; the tests of programs are for aspo/Code-v0" if "tests" in proposal else ""
    if "<column>" in (proposal.get("answer"), proposal["prompt"]):
        env = "; rows without an answer, for reward functions alone, are for aspo/Prompts-v0"
    return f"no known layout has the columns {listed(row)}; say which ones to read, for example columns={{{line}}}{env}"


def _first(by_name: Mapping[str, str], candidates: Iterable[str], taken: Iterable[str | None]) -> str | None:
    taken = set(taken)
    return next((by_name[name] for name in candidates if name in by_name and by_name[name] not in taken), None)
