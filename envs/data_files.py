"""Rows out of JSON, JSON Lines, Parquet and Arrow data, one after the other, each with its place and what is wrong.

JSON is read by the json module alone. The readers of pyarrow and `datasets` turn the integer 2**70 into 1.18e21, and
a file that holds columns, or rows under a key, into a single row.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

JSON_LINES_ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
JSON_ENDINGS = (".json", ".json.gz")
PARQUET_ENDINGS = (".parquet",)
ENDINGS = JSON_LINES_ENDINGS + JSON_ENDINGS + PARQUET_ENDINGS

ARROW_BATCH_ROWS = 64  # tests of programs reach 10 MB in a row
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row as it was read.

    Attributes:
        number: the line of a JSON Lines file, counted from 1; in any other data the index, counted from 0.
        content: the row; None when there is something wrong with it.
        problem: what is wrong; empty when nothing is.
        unit: "line" or "row", whichever `number` counts.
    """

    number: int
    content: dict[str, Any] | None
    problem: str = ""
    unit: str = "row"

    def valid_content(self) -> dict[str, Any]:
        """Return the content, or raise ValueError with the problem."""
        if self.content is None:
            raise ValueError(self.problem)
        return self.content


def file_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file whose name ends in one of `ENDINGS`.

    JSON Lines and Parquet are streamed; a JSON document is read whole.

    Raises:
        ValueError: for a file that cannot be read beyond some point, naming it. What is wrong with a single row is
            in the row.
    """
    read = next(reader for endings, reader in _READERS.items() if path.name.lower().endswith(endings))
    try:
        yield from read(path)
    except (pa.ArrowException, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def arrow_rows(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Row]:
    """Yield the rows of Arrow data, numbered over all batches."""
    number = 0
    for batch in batches:
        for content in _python_rows(batch):
            yield Row(number, None, str(content)) if isinstance(content, ValueError) else Row(number, content)
            number += 1


def _python_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any] | ValueError]:
    """One value out of range, or text that is not UTF-8, fails a whole batch: only then go row by row."""
    try:
        yield from batch.to_pylist()
    except ValueError as error:
        if batch.num_rows == 1:
            yield error
            return
        for start in range(batch.num_rows):
            yield from _python_rows(batch.slice(start, 1))


def _parquet_rows(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        yield from arrow_rows(file.iter_batches(batch_size=ARROW_BATCH_ROWS))


def _json_lines_rows(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.isspace() or not line:
                continue
            try:
                yield Row(number, _as_object(_parse(line.rstrip())), unit="line")
            except ValueError as error:
                yield Row(number, None, str(error), unit="line")


def _json_rows(path: Path) -> Iterator[Row]:
    if _holds_lines(path):
        yield from _json_lines_rows(path)
        return
    with _open(path) as file:
        text = file.read()
    if not text.removeprefix(_BOM).strip():
        return
    try:
        rows = _document_rows(_parse(text.removeprefix(_BOM)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for number, content in enumerate(rows):
        try:
            yield Row(number, _as_object(content))
        except ValueError as error:
            yield Row(number, None, str(error))


def _holds_lines(path: Path) -> bool:
    """Tell whether a `.json` file is JSON Lines under another name: an object on the first line, and more lines."""
    with _open(path) as file:
        lines = list(islice((line for line in file if not line.isspace()), 2))
    try:
        return len(lines) == 2 and isinstance(_parse(lines[0].removeprefix(_BOM)), dict)
    except ValueError:
        return False


def _document_rows(document: Any) -> list[Any]:
    """The rows of a JSON document: an array, an array under "data" or under the only key, columns, or one row."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise ValueError(f"the document is {_kind(document)}, not an array of rows")
    columns = list(document.values())
    wrapped = document.get("data", columns[0] if len(columns) == 1 else None)
    if _all_are(dict, wrapped):
        return wrapped
    if _all_are(dict, columns) and all(column.keys() == columns[0].keys() for column in columns):
        return [{name: column[key] for name, column in document.items()} for key in columns[0]]
    if _all_are(list, columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]
    return [document]


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, kind) for value in values)


def _as_object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"the row is {_kind(content)}, not an object")
    return content


def _parse(raw: bytes) -> Any:
    try:
        return _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} at {line}column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice in one object")
    return made


def _kind(value: Any) -> str:
    return "null" if value is None else f"a JSON {type(value).__name__}"


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb")


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_READERS = {
    JSON_LINES_ENDINGS: _json_lines_rows,
    JSON_ENDINGS: _json_rows,
    PARQUET_ENDINGS: _parquet_rows,
}
