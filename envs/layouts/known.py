"""The layouts of public data sets: the columns by which each is recognised, and the way to read its rows.

A new layout is one small function and one line of `LAYOUTS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from envs.grading.answers import MathAnswer
from envs.grading.code.formats import assertions, code_tests, decode_private_tests
from envs.grading.exact_json import parse_json
from envs.grading.math.text import boxed_answer
from envs.layouts.cells import Cell, Fields, Row, cell_at, has_path, naming
from envs.layouts.golds import comma_separated_golds, golds, worked_gold
from envs.layouts.surroundings import CHOICE_GOLD_COLUMNS

PROMPT_COLUMNS = ("problem", "question", "Problem", "Question", "prompt", "messages")
_SOLUTION_COLUMNS = ("solution", "Solution", "rationale", "explanation")
_GOLD_COLUMNS = ("answer", "Answer", "ground_truth", "expected_answer", "gold")


@dataclass(frozen=True)
class Layout:
    """The way to read one kind of row.

    Attributes:
        name: the usual name.
        columns: dotted paths that rows of this kind have.
        read: returns the fields of such a row; "answer" may already be an Answer.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], Fields]


def _rewarded(holder: str) -> Callable[[Row], Fields]:
    def read(row: Row) -> Fields:
        # A row with this ability has tests, in any form.
        truth = "tests" if row.get("ability") == "code" else "answer"
        return {"prompt": cell_at(row, "prompt"), truth: cell_at(row, f"{holder}.ground_truth")}

    return read


def _livecodebench(row: Row) -> Fields:
    cases = []
    for column in ("public_test_cases", "private_test_cases"):
        if row.get(column):
            cell = cell_at(row, column)
            with naming(cell):
                cases += parse_json(decode_private_tests(cell.text()))
    return {"prompt": cell_at(row, "question_content"), "tests": Cell("public_test_cases", cases)} | _function(row)


def _code_contests(row: Row) -> Fields:
    if row.get("input_file"):
        raise cell_at(row, "input_file").refused("nothing: programs read their standard input")
    tests: dict[str, list] = {"inputs": [], "outputs": []}
    for column in ("public_tests", "private_tests", "generated_tests"):
        part = row.get(column) or {"input": [], "output": []}
        if not isinstance(part, Mapping) or not all(isinstance(part.get(key), list) for key in ("input", "output")):
            raise cell_at(row, column).refused("a list input and a list output")
        tests["inputs"] += part["input"]
        tests["outputs"] += part["output"]
    return {"prompt": cell_at(row, "description"), "tests": Cell("public_tests", tests)} | _function(row)


def _apps(row: Row) -> Fields:
    return {"prompt": cell_at(row, "question"), "tests": cell_at(row, "input_output")} | _function(row)


def _deepcoder(row: Row) -> Fields:
    return {"prompt": cell_at(row, "problem"), "tests": cell_at(row, "tests")} | _function(row) | _solution(row)


def _solution(row: Row) -> Fields:
    """A right program, the first of several. It shows which classes in the tests belong to the program."""
    for column in ("solution", "solutions", "code", "completion"):
        value = row.get(column)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str):
            return {"solution": Cell(column, value)}
    return {}


def _function(row: Row) -> Fields:
    """The fields about the program that code data sets have besides the tests."""
    fields = {field: cell_at(row, field) for field in ("starter_code", "time_limit") if row.get(field) is not None}
    metadata = row.get("metadata")
    if isinstance(metadata, str) and metadata.strip():
        with naming(Cell("metadata", metadata)):
            metadata = parse_json(metadata)
    if isinstance(metadata, Mapping) and metadata.get("func_name"):
        fields["fn_name"] = Cell("metadata.func_name", metadata["func_name"])
    return fields


def _humaneval(row: Row) -> Fields:
    """The prompt is the beginning of the program. The tests need the part before the function, too."""
    test, name = cell_at(row, "test"), cell_at(row, "entry_point").text()
    before, is_head, _ = cell_at(row, "prompt").text().partition(f"def {name}(")
    with naming(test):
        tests = assertions(test.text(), name)
    return {"prompt": cell_at(row, "prompt"), "answer": Cell("test", replace(tests, prefix=before if is_head else ""))}


def _leetcode_dataset(row: Row) -> Fields:
    """Here `prompt` is the code that runs before the program: imports and the classes of nodes."""
    test, name = cell_at(row, "test"), cell_at(row, "entry_point").text()
    with naming(test):
        tests = assertions(test.text(), name)
    header = row.get("prompt")
    tests = replace(tests, prefix=f"{header}\n" if isinstance(header, str) else "")
    fields = {"prompt": cell_at(row, "problem_description"), "answer": Cell("test", tests)}
    return fields | {"starter_code": cell_at(row, "starter_code")} | _solution(row)


def _kodcode(row: Row) -> Fields:
    """Tests for pytest, which import the function from `solution`."""
    test, info = cell_at(row, "test"), row.get("test_info")
    declared = info[0] if isinstance(info, list) and info and isinstance(info[0], Mapping) else {}
    name = declared.get("function_name")
    with naming(test):
        tests = assertions(test.text(), name if isinstance(name, str) else None, cell_at(row, "solution").text())
    fields = {"prompt": cell_at(row, "question"), "answer": Cell("test", tests)} | _solution(row)
    declaration = declared.get("function_declaration")
    return fields | ({"starter_code": Cell("test_info", declaration)} if isinstance(declaration, str) else {})


def _mbpp(row: Row) -> Fields:
    """MBPP+ has a longer test program besides the list; the first test of the list has the name of the function."""
    cell, program = cell_at(row, "test_list"), row.get("test")
    solution = _solution(row)
    with naming(cell):
        tests = code_tests(cell.value, solution=solution["solution"].value if solution else "")
        if isinstance(program, str) and tests.fn_name and tests.fn_name in program:
            tests = assertions(program, tests.fn_name)
    prompt = cell_at(row, "prompt" if has_path(row, "prompt") else "text")
    asked = f"{prompt.text()}\n\nYour program must pass this test:\n\n{cell.value[0]}"
    # The setup code runs after the program, because it may use the program's definitions.
    setup = "".join(f"{line}\n" for line in _lines(row, "test_setup_code"))
    imports = "".join(f"{line}\n" for line in _lines(row, "test_imports"))
    tests = replace(tests, prefix=imports, check=setup + tests.check)
    return {"prompt": Cell(prompt.column, asked), "answer": Cell(cell.column, tests)} | solution


def _lines(row: Row, column: str) -> list[str]:
    if not row.get(column):
        return []
    cell = cell_at(row, column)
    return [item.text() for item in (cell.items() if isinstance(cell.value, list) else [cell])]


def _olympiadbench(row: Row) -> Fields:
    cell, question = cell_at(row, "final_answer"), cell_at(row, "question")
    require_all, texts = bool(row.get("is_multiple_answer")), golds(cell)
    if require_all and len(texts) == 1:
        texts = comma_separated_golds(Cell(cell.column, texts[0]))
    unit = f"Give the answer in the unit {row['unit']}." if row.get("unit") else None
    context = cell_at(row, "context").text() if row.get("context") else None
    asked = "\n\n".join(part for part in (context, question.text(), unit) if part)
    tolerance = None
    if row.get("error"):
        try:
            tolerance = float(row["error"])
        except (TypeError, ValueError, OverflowError):
            raise cell_at(row, "error").refused("a number") from None
    answer = MathAnswer(texts, require_all, tolerance)
    return {"prompt": Cell(question.column, asked), "answer": Cell(cell.column, answer)}


def _question_and_gold(question: str, gold: str) -> Layout:
    def read(row: Row) -> Fields:
        return {"prompt": cell_at(row, question), "answer": _gold_or_solution(row, gold)}

    return Layout(f"{question} and {gold}", (question, gold), read)


def _gold_or_solution(row: Row, gold: str) -> Cell:
    """The cell of the gold; if it is empty, the end of the worked solution in another cell."""
    cell = cell_at(row, gold)
    if cell.value is not None and not (isinstance(cell.value, str) and not cell.value.strip()):
        return cell
    solution = next((cell_at(row, name) for name in _SOLUTION_COLUMNS if isinstance(row.get(name), str)), None)
    if solution is None or not solution.value.strip():
        return cell
    return Cell(solution.column, MathAnswer(worked_gold(solution)))


def _worked_solution(question: str) -> Layout:
    def read(row: Row) -> Fields:
        cell = cell_at(row, "solution")
        return {"prompt": cell_at(row, question), "answer": Cell(cell.column, MathAnswer(worked_gold(cell)))}

    return Layout(f"{question} and a worked solution", (question, "solution"), read)


def _question_and_tests(question: str) -> Layout:
    def read(row: Row) -> Fields:
        return {"prompt": cell_at(row, question), "tests": cell_at(row, "tests")} | _function(row)

    return Layout(f"{question} and tests", (question, "tests"), read)


def _choice(question: str, gold: str) -> Layout:
    def read(row: Row) -> Fields:
        return {"prompt": cell_at(row, question), "answer": cell_at(row, gold)}

    return Layout(f"{question} and {gold} of a choice", (question, gold), read)


def _trl(row: Row) -> Fields:
    cell = cell_at(row, "solution")
    if isinstance(cell.value, str) and "\n" in cell.value.strip() and boxed_answer(cell.value) is None:
        raise cell.refused(r"an answer, or a solution that ends in \boxed{...}")
    return {"prompt": cell_at(row, "prompt"), "answer": cell}


# The first layout whose columns all exist is taken.
LAYOUTS: Sequence[Layout] = (
    Layout("verl", ("prompt", "reward_model.ground_truth"), _rewarded("reward_model")),
    Layout("SkyRL", ("prompt", "reward_spec.ground_truth"), _rewarded("reward_spec")),
    Layout("LiveCodeBench", ("question_content", "public_test_cases"), _livecodebench),
    Layout("CodeContests", ("description", "public_tests"), _code_contests),
    Layout("LeetCodeDataset", ("problem_description", "starter_code", "entry_point", "test"), _leetcode_dataset),
    Layout("KodCode", ("question", "solution", "test"), _kodcode),
    Layout("HumanEval", ("prompt", "entry_point", "test"), _humaneval),
    Layout("MBPP sanitized, MBPP+", ("prompt", "test_list"), _mbpp),
    Layout("MBPP", ("text", "test_list"), _mbpp),
    Layout("APPS, TACO", ("question", "input_output"), _apps),
    Layout("DeepCoder", ("problem", "tests"), _deepcoder),
    Layout("OlympiadBench", ("question", "final_answer"), _olympiadbench),
    *(_question_and_gold(question, gold) for question in PROMPT_COLUMNS for gold in _GOLD_COLUMNS),
    Layout("TRL", ("prompt", "solution"), _trl),
    *(_worked_solution(question) for question in PROMPT_COLUMNS if question != "prompt"),
    *(_question_and_tests(question) for question in PROMPT_COLUMNS),
)
# Only for rows with options: in other rows "label" and "correct" have other meanings.
CHOICE_LAYOUTS: Sequence[Layout] = tuple(
    _choice(question, gold)
    for gold in (*CHOICE_GOLD_COLUMNS, "Correct Answer")
    for question in (*PROMPT_COLUMNS, "query")
)
# Usual names of columns, as opposed to ids of rows.
COLUMN_NAMES = frozenset(
    column.partition(".")[0] for layout in (*LAYOUTS, *CHOICE_LAYOUTS) for column in layout.columns
)
