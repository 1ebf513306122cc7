"""Rows of public data sets, and of files like them, read into tasks.

A row becomes fields, by what `columns` says or by one of the known layouts, and fields become a task:

    prompt        a text, or chat messages of which the last is the user's
    answer        a gold, a list of acceptable golds, or the tests of a program
    tests         the tests of a program, in any format of `envs.grading.code.formats`
    data_source   where the problem comes from
    system        a system message
    fn_name       the function under test
    starter_code  the beginning of a program, shown with the problem
    time_limit    seconds per test
"""

import re
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields

from envs.grading.answers import Answer, CodeTests, MathAnswer
from envs.grading.code.formats import code_tests
from envs.grading.exact_json import parse_json
from envs.layouts.cells import Cell, Fields, Row, cell_at, conversation, has_path, naming, paths
from envs.layouts.golds import golds
from envs.layouts.known import LAYOUTS
from envs.text_env import Task

FIELDS = ("prompt", "answer", "tests", "data_source", "system", "fn_name", "starter_code", "time_limit")

# Prompts of DAPO and of GSM8K in verl's form ask for the answer in a place where the graders here do not look.
_FOREIGN_INSTRUCTIONS = re.compile(
    r"\ASolve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: \$Answer \(without quotes\) where \$Answer is the answer to the problem\.\s*"
    r'|\s*Remember to put your answer on its own line after "Answer:"\.\s*\Z'
    r'|\s*Let\'s think step by step and output the final answer after "####"\.\s*\Z'
)


def to_task(row: Row, columns: Mapping[str, str] | None = None, default_source: str = "data") -> Task:
    """Read one row of a data set.

    The prompt is the row's, with three additions and one omission: the starter code, the name of the function
    where the text does not say it, one test (MBPP) or the unit (OlympiadBench) are added; sentences that ask
    for the answer after "Answer:" or "####" go.

    Args:
        row: its cells by column.
        columns: where fields are in this row, as {field: dotted path}, for layouts that are not known:
            {"prompt": "Aufgabe", "answer": "meta.gold"}. The fields that it does not name are read by the
            layout that is recognised, unless it names the prompt and the answer (or the tests).
        default_source: `data_source` of rows that have no such column.

    Returns:
        A task whose answer is a MathAnswer or a CodeTests.

    Raises:
        ValueError: for a row that is no task, with the column, its value and what was expected; for a row in no
            known layout, with its columns; for `columns` with an unknown field or a path that is not there.
    """
    mapped = _mapped(row, columns or {})
    is_complete = "prompt" in mapped and not mapped.keys().isdisjoint(("answer", "tests"))
    fields = mapped if is_complete else _recognised(row, mapped) | mapped
    history, prompt = conversation(fields["prompt"])
    prompt = _FOREIGN_INSTRUCTIONS.sub("", prompt)
    if "system" in fields:
        history = ({"role": "system", "content": fields["system"].text()}, *history)
    answer = _tests(fields["tests"], fields, prompt) if "tests" in fields else _answer(fields["answer"], fields, prompt)
    if isinstance(answer, CodeTests):
        prompt = _with_starter_code(prompt, fields, answer)
    source = fields.get("data_source") or (cell_at(row, "data_source") if row.get("data_source") is not None else None)
    task = Task(prompt, answer, source.text() if source else default_source, history)
    _check_encodable(task)
    return task


def _mapped(row: Row, columns: Mapping[str, str]) -> Fields:
    unknown = sorted(columns.keys() - set(FIELDS))
    if unknown:
        raise ValueError(f"columns: unknown field(s) {', '.join(unknown)}; the fields are {', '.join(FIELDS)}")
    if {"answer", "tests"} <= columns.keys():
        raise ValueError("columns: map answer or tests, not both")
    missing = sorted(path for path in columns.values() if not has_path(row, path))
    if missing:
        raise ValueError(f"columns: the row has no {', '.join(missing)}; it has {', '.join(paths(row))}")
    return {field: cell_at(row, path) for field, path in columns.items()}


def _recognised(row: Row, mapped: Fields) -> Fields:
    """Find the layout as if the mapped columns had our names for them."""
    named = {**row, **{field: cell.value for field, cell in mapped.items()}}
    for layout in LAYOUTS:
        if all(has_path(named, column) for column in layout.columns):
            fields = layout.read(named)
            replaced = {"answer", "tests"} if mapped.keys() & {"answer", "tests"} else set()
            return {field: cell for field, cell in fields.items() if field not in replaced}
    raise ValueError(
        f"no known layout has the columns {', '.join(paths(row)) or '(none)'}; say which ones to read, for example "
        'columns={"prompt": "<column>", "answer": "<column>"}'
    )


def _answer(cell: Cell, fields: Fields, prompt: str) -> Answer:
    value = cell.value
    if isinstance(value, MathAnswer | CodeTests):
        return value
    if isinstance(value, str) and re.match(r'\s*(\{\s*"|\[\s*\{)', value):  # no formula begins like this
        with naming(cell):
            value = parse_json(value)
    if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        return _tests(cell, fields, prompt)
    return MathAnswer(golds(cell))


def _tests(cell: Cell, fields: Fields, prompt: str) -> CodeTests:
    starter = fields.get("starter_code")
    name = fields.get("fn_name")
    limit = fields.get("time_limit")
    with naming(cell):
        return code_tests(
            cell.value,
            fn_name=name.text() if name and name.value is not None else None,
            starter_code=starter.text() if starter and starter.value else prompt,
            time_limit=limit.value if limit else None,
        )


def _with_starter_code(prompt: str, fields: Fields, tests: CodeTests) -> str:
    """A program can only pass if the problem tells it what to define."""
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
                cause = "half a surrogate pair, which no tokenizer reads"
                raise ValueError(f"{name}: {cause}: {text[max(error.start - 20, 0) : error.end]!r}") from None
