"""Read the rows of public data sets, and of similar files, into tasks.

`columns` or one of the known layouts reads a row into fields, and the fields become a task:

    prompt        a text, or chat messages that end with one of the user
    answer        a gold, a list of golds (of numbers all, of texts any one), or the tests of a program
    answer_all    a list of golds that must all be given
    answer_any    a list of golds, of which one must be given
    options       the options of a choice, shown with the prompt; the answer is a letter, an index from 0 or a text
    context       a text to which the question refers, shown before it
    tests         the tests of a program, in any format of `envs.grading.code.formats`
    data_source   where the problem comes from
    system        a system message
    fn_name       the function under test
    starter_code  the beginning of a program, shown with the problem
    solution      a right program, never shown; it shows which names in the tests belong to the program
    time_limit    seconds per test
"""

import re
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from functools import lru_cache

from envs.grading.answers import Answer, CodeTests, MathAnswer, NoAnswer
from envs.grading.code.formats import code_tests
from envs.grading.code.names import classes_in, with_own_classes
from envs.grading.exact_json import parse_json
from envs.layouts.cells import Cell, Fields, Row, cell_at, has_path, naming
from envs.layouts.chats import conversation, is_templated
from envs.layouts.golds import math_answer
from envs.layouts.known import CHOICE_LAYOUTS, LAYOUTS, PROMPT_COLUMNS, Layout
from envs.layouts.proposals import listed, unknown_columns
from envs.layouts.surroundings import Options, check_no_image, chosen, context_of, options_of, shows_options
from envs.text_env import Task

FIELDS = (
    "prompt",
    "answer",
    "answer_all",
    "answer_any",
    "tests",
    "options",
    "context",
    "data_source",
    "system",
    "fn_name",
    "starter_code",
    "solution",
    "time_limit",
)
_ANSWERS = ("answer", "answer_all", "answer_any", "tests")

# Prompts of DAPO, and of GSM8K in verl's form, ask for the answer in a form that the graders here do not read.
_FOREIGN_INSTRUCTIONS = re.compile(
    r"\ASolve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \$Answer \(without quotes\) where \$Answer is the answer to the problem\.\s*"
    r'|\s*Remember to put your answer on its own line after "Answer:"\.\s*\Z'
    r'|\s*Let\'s think step by step and output the final answer after "####"\.\s*\Z'
)


def to_task(row: Row, columns: Mapping[str, str | None] | None = None, default_source: str = "data") -> Task:
    """Read one row of a data set.

    The prompt is that of the row with a few changes. The starter code, the name of the function if the text does not
    have it, one test (MBPP) and the unit (OlympiadBench) are added. Sentences that ask for the answer after "Answer:"
    or "####" are removed.

    Args:
        row: the cells by column.
        columns: the places of fields in this row, as {field: dotted path}, for layouts that are not known:
            {"prompt": "Aufgabe", "answer": "meta.gold"}; None for a field that does not exist. Fields that it does not
            name are read by the recognised layout, unless it names the prompt and the answer (or the tests). Options,
            context and system message of a question are searched in any case.
        default_source: `data_source` of rows that have no such column.

    Returns:
        A task whose answer is a MathAnswer or a CodeTests.

    Raises:
        ValueError: for a row that is not a task, with the column, its value and what was expected; for a row in no
            known layout, with its columns; for `columns` with an unknown field or a path that does not exist.
    """
    mapped = _mapped(row, columns or {})
    is_complete = "prompt" in mapped and not mapped.keys().isdisjoint(_ANSWERS)
    fields = mapped if is_complete else _recognised(row, mapped) | mapped
    history, prompt = conversation(fields["prompt"])
    prompt = _FOREIGN_INSTRUCTIONS.sub("", prompt)
    history = _with_system(row, fields, history)
    if "tests" in fields:
        answer = _tests(fields["tests"], fields, prompt)
    else:
        options = options_of(row, fields)
        answer = _answer(fields, options, prompt)
        if not isinstance(answer, CodeTests):
            prompt = _with_surroundings(row, fields, prompt, options)
    check_no_image(row, prompt)
    if isinstance(answer, CodeTests):
        answer = _with_own_classes(answer, fields, prompt)
        prompt = _with_starter_code(prompt, fields, answer)
    return _task(row, fields, prompt, answer, history, default_source)


def to_prompt(row: Row, columns: Mapping[str, str | None] | None = None, default_source: str = "data") -> Task:
    """Read one row of which only the prompt counts: it is left as it is, and the task's answer is a NoAnswer.

    Without `columns` the prompt is in "prompt", or else in the first usual column for questions that the row has.

    Raises:
        ValueError: as `to_task`.
    """
    fields = _mapped(row, columns or {})
    if "prompt" not in fields:
        column = next((name for name in ("prompt", *PROMPT_COLUMNS) if has_path(row, name)), None)
        if column is None:
            raise ValueError(
                f'no column has the prompt: {listed(row)}; say which one by columns={{"prompt": "<column>"}}'
            )
        fields["prompt"] = cell_at(row, column)
    history, prompt = conversation(fields["prompt"])
    check_no_image(row, prompt)
    return _task(row, fields, prompt, NoAnswer(), _with_system(row, fields, history), default_source)


def _task(
    row: Row,
    fields: Fields,
    prompt: str,
    answer: Answer,
    history: tuple[dict[str, str], ...],
    default_source: str,
) -> Task:
    task = Task(prompt, answer, _source(row, fields) or default_source, history, templated=is_templated(prompt))
    if task.templated and history:
        raise fields["prompt"].refused("either messages, or one text with a chat template's tokens, not both")
    _check_encodable(task)
    return task


def _source(row: Row, fields: Fields) -> str | None:
    """A label of any type; an empty one does not count."""
    value = fields["data_source"].value if "data_source" in fields else row.get("data_source")
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    if value is None or isinstance(value, Mapping) or not str(value).strip():
        return None
    return str(value)


def _with_system(row: Row, fields: Fields, history: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
    cell = fields.get("system")
    if cell is None and isinstance(row.get("system"), str):
        cell = cell_at(row, "system")
    if cell is None or cell.value is None or cell.value == "":
        return history
    return ({"role": "system", "content": cell.text()}, *(m for m in history if m["role"] != "system"))


def _with_surroundings(row: Row, fields: Fields, prompt: str, options: Options | None) -> str:
    """The prompt, with the context before it and the options after it."""
    context = context_of(row, fields, prompt)
    if context:
        prompt = f"{context}\n\n{prompt}"
    if options is not None and not shows_options(options, prompt):
        prompt = f"{prompt}\n\n{options.shown}"
    return prompt


def _mapped(row: Row, columns: Mapping[str, str | None]) -> Fields:
    unknown = sorted(columns.keys() - set(FIELDS))
    if unknown:
        raise ValueError(f"columns: unknown field(s) {', '.join(unknown)}; the fields are {', '.join(FIELDS)}")
    if len(columns.keys() & set(_ANSWERS)) > 1:
        raise ValueError(f"columns: map answer or tests, not both ({', '.join(_ANSWERS)} are one choice)")
    missing = sorted(path for path in columns.values() if path is not None and not has_path(row, path))
    if missing:
        raise ValueError(f"columns: the row has no {', '.join(missing)}; it has {listed(row)}")
    return {field: Cell(field, None) if path is None else cell_at(row, path) for field, path in columns.items()}


def _recognised(row: Row, mapped: Fields) -> Fields:
    """The fields of a row in a known layout, without those that were mapped."""
    answers = mapped.keys() & set(_ANSWERS)
    fields = _layout_of(row, mapped).read(_named(row, mapped))
    return {name: cell for name, cell in fields.items() if not answers or name not in _ANSWERS}


def _named(row: Row, mapped: Fields) -> Row:
    """The row, with the mapped columns renamed to our names."""
    as_named = {"answer_all": "answer", "answer_any": "answer"}
    return {**row, **{as_named.get(field, field): cell.value for field, cell in mapped.items()}}


def _layout_of(row: Row, mapped: Fields) -> Layout:
    """The first layout whose columns all have a value; if there is none, the first whose columns exist."""
    named = _named(row, mapped)
    is_choice = mapped.keys().isdisjoint(_ANSWERS) and options_of(row, mapped)
    layouts = _candidates(frozenset(named), bool(is_choice))
    there = [layout for layout in layouts if all(has_path(named, column) for column in layout.columns)]
    filled = (layout for layout in there if all(named.get(column, "") is not None for column in layout.columns))
    layout = next(filled, there[0] if there else None)
    if layout is None:
        raise ValueError(unknown_columns(row, mapped))
    return layout


@lru_cache(maxsize=1024)  # the rows of one file mostly have the same columns
def _candidates(names: frozenset[str], is_choice: bool) -> tuple[Layout, ...]:
    """The layouts that need no column beyond these names."""
    layouts = (*CHOICE_LAYOUTS, *LAYOUTS) if is_choice else LAYOUTS
    return tuple(
        layout
        for layout in layouts
        if all(column in names or column.partition(".")[0] in names for column in layout.columns)
    )


def layout_name(row: Row, columns: Mapping[str, str | None] | None = None) -> str:
    """The name of the layout of a row, or the columns that were named instead; "unknown" without either."""
    try:
        mapped = _mapped(row, columns or {})
        if "prompt" in mapped and not mapped.keys().isdisjoint(_ANSWERS):
            return "the columns that were named"
        return _layout_of(row, mapped).name
    except ValueError as error:
        return f"unknown: {error}"


def _answer(fields: Fields, options: Options | None, prompt: str) -> Answer:
    name = next(name for name in _ANSWERS if name in fields)
    cell, value = fields[name], fields[name].value
    if isinstance(value, MathAnswer | CodeTests):
        return value
    if options is not None:
        return chosen(options, cell)
    if isinstance(value, str) and re.match(r'\s*(\{\s*"|\[\s*\{)', value):  # a formula does not begin like this
        with naming(cell):
            value = parse_json(value)
    if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        return _tests(cell, fields, prompt)
    return math_answer(cell, {"answer_all": True, "answer_any": False}.get(name))


def _tests(cell: Cell, fields: Fields, prompt: str) -> CodeTests:
    starter = fields.get("starter_code")
    name = fields.get("fn_name")
    limit = fields.get("time_limit")
    with naming(cell):
        return code_tests(
            cell.value,
            fn_name=name.text() if name and name.value is not None else None,
            starter_code=starter.text() if starter and starter.value else prompt,
            solution=_text_of(fields, "solution"),
            time_limit=limit.value if limit else None,
        )


def _with_own_classes(tests: CodeTests, fields: Fields, prompt: str) -> CodeTests:
    if tests.kind != "assert":
        return tests
    shown = (prompt, _text_of(fields, "starter_code"), _text_of(fields, "solution"))
    own = {"Solution"}.union(*map(classes_in, shown))
    with naming(fields.get("tests") or fields["answer"]):
        return with_own_classes(tests, own)


def _text_of(fields: Fields, name: str) -> str:
    value = fields[name].value if name in fields else None
    return value if isinstance(value, str) else ""


def _with_starter_code(prompt: str, fields: Fields, tests: CodeTests) -> str:
    """Add what a program must define to pass: the starter code, or the name of the function."""
    starter = fields.get("starter_code")
    if starter and starter.value and starter.text().strip() not in prompt:
        prompt = f"{prompt}\n\nStart from this code:\n\n```python\n{starter.value.rstrip()}\n```"
    if tests.fn_name and not re.search(rf"\b{re.escape(tests.fn_name.rpartition('.')[2])}\(", prompt):
        class_name, _, name = tests.fn_name.rpartition(".")
        kind = f"method `{name}` of a class `{class_name}`" if class_name else f"function `{name}`"
        prompt = f"{prompt}\n\nWrite it as the {kind}."
    return prompt


def _check_encodable(task: Task) -> None:
    texts = {"prompt": (task.prompt,), "data_source": (task.data_source,)}
    texts["history"] = tuple(message["content"] for message in task.history)
    for field in dataclass_fields(task.answer):
        value = getattr(task.answer, field.name)
        texts[field.name] = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
    for name, parts in texts.items():
        for text in parts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                cause = "half a surrogate pair, which tokenizers cannot read"
                raise ValueError(f"{name}: {cause}: {text[max(error.start - 20, 0) : error.end]!r}") from None
