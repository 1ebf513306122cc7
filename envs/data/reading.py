"""Read rows into tasks: a few of them in this process, and in one more process per core if there are many."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from envs.data.files import Row
from envs.data.sources import Source
from envs.data.splits import question_hash
from envs.grading.answers import NoAnswer, answer_to_json
from envs.grading.child import Child
from envs.layouts import to_prompt, to_task

_CHUNK_ROWS = 256
_CHUNK_CHARS = 1 << 22  # one row with the tests of a program can have 10 MB
_CHUNK_LIMIT_S = 3600.0


class ReadTask(NamedTuple):
    """A task as it is stored, with answer, history and columns as JSON, and the hash of its question."""

    prompt: str
    answer: str
    data_source: str
    history: str
    templated: bool
    question: int
    columns: str | None


class ReadingRules(NamedTuple):
    """What is read of a row: arguments of `open_tasks`."""

    answer_type: type
    max_prompt_chars: int | None
    keep_columns: bool


class LeftOut(NamedTuple):
    """A row without a task: the field of `LoadReport` that counts it, and what is wrong with it if that is "bad"."""

    count: str
    problem: str = ""


class SourceRow(NamedTuple):
    """A row with the number of its source and with the arguments of `to_task`."""

    source: int
    row: Row
    columns: Mapping[str, str | None] | None
    label: str


Read = ReadTask | LeftOut


def source_rows(sources: Iterable[Source], columns: Mapping[str, str | None] | None) -> Iterator[SourceRow]:
    """Yield every row of the sources, in order."""
    for number, source in enumerate(sources):
        chosen = source.columns or columns
        for row in source.rows():
            yield SourceRow(number, row._replace(split=source.split or row.split), chosen, source.label)


def read_rows(rows: Iterable[SourceRow], rules: ReadingRules, alone_s: float) -> Iterator[tuple[SourceRow, Read]]:
    """Read rows, and yield each with its result, in order.

    Args:
        rows: the rows.
        rules: what is read of a row.
        alone_s: the seconds before other processes are started. They need one or two to import what they use.

    Raises:
        envs.grading.child.ChildDied: if the machine has too little memory for the processes.
    """
    read = reader(rules)
    chunks = _chunks(rows)
    start = time.monotonic()
    for chunk in chunks:
        yield from zip(chunk, read(chunk), strict=True)
        if time.monotonic() - start > alone_s:
            break
    children = [Child("envs.data.reading:reader", rules) for _ in range(len(os.sched_getaffinity(0)))]
    try:
        yield from _read_by(children, chunks, read)
    finally:
        for child in children:
            child.close()


def reader(rules: ReadingRules) -> Callable[[list[SourceRow]], list[Read]]:
    """Make the function that reads a chunk; it runs in this process or in a child."""

    def read(chunk: list[SourceRow]) -> list[Read]:
        return [_read(row, rules) for row in chunk]

    return read


def _read(row: SourceRow, rules: ReadingRules) -> Read:
    try:
        content = row.row.valid_content()
        read = to_prompt if rules.answer_type is NoAnswer else to_task
        task = read(content, row.columns, row.label)
        columns = json.dumps(content, default=str) if rules.keep_columns else None
    except (ValueError, RecursionError) as error:
        return LeftOut("bad", str(error))
    if not isinstance(task.answer, rules.answer_type):
        return LeftOut("other_kind")
    num_chars = len(task.prompt) + sum(len(message["content"]) for message in task.history)
    if rules.max_prompt_chars is not None and num_chars > rules.max_prompt_chars:
        return LeftOut("too_long")
    answer, history = answer_to_json(task.answer), json.dumps(task.history)
    return ReadTask(task.prompt, answer, task.data_source, history, task.templated, question_hash(task), columns)


def _read_by(
    children: list[Child], chunks: Iterator[list[SourceRow]], read: Callable[[list[SourceRow]], list[Read]]
) -> Iterator[tuple[SourceRow, Read]]:
    """Give the chunks to the children in turn. None has two at a time: it could not send the answer of the first."""
    first = next(chunks, None)
    if first is None:
        return
    for child in children:
        child.launch()
    yield from zip(first, read(first), strict=True)
    free, busy = deque(children), deque[tuple[Child, list[SourceRow]]]()
    for chunk in chunks:
        if not free:
            yield from _answer(busy, free)
        child = free.popleft()
        child.start()
        try:
            child.submit(chunk, _CHUNK_LIMIT_S)
        except RecursionError:  # a row that is nested so deeply that it can be parsed, but not pickled
            while busy:
                yield from _answer(busy, free)
            free.append(child)
            yield from zip(chunk, read(chunk), strict=True)
        else:
            busy.append((child, chunk))
    while busy:
        yield from _answer(busy, free)


def _answer(busy: deque[tuple[Child, list[SourceRow]]], free: deque[Child]) -> Iterator[tuple[SourceRow, Read]]:
    child, chunk = busy.popleft()
    answer = child.receive()
    free.append(child)
    return zip(chunk, answer, strict=True)


def _chunks(rows: Iterable[SourceRow]) -> Iterator[list[SourceRow]]:
    chunk: list[SourceRow] = []
    num_chars = 0
    for row in rows:
        chunk.append(row)
        num_chars += _num_chars(row.row.content)
        if len(chunk) == _CHUNK_ROWS or num_chars > _CHUNK_CHARS:
            yield chunk
            chunk, num_chars = [], 0
    if chunk:
        yield chunk


def _num_chars(content: Mapping[str, Any] | None) -> int:
    return sum(len(value) for value in (content or {}).values() if isinstance(value, str))
