"""Read rows of JSON, JSON Lines, CSV, Parquet and Arrow data one by one, each with its number and its problem, if any.

JSON is read only by the json module. The readers of pyarrow and `datasets` turn the integer 2**70 into 1.18e21, and
a file with columns, or with rows under a key, into a single row.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from envs.data.documents import document_rows, kind
from envs.data.places import COMPRESSIONS, Place
from envs.data.splits import split_of_row

JSON_LINES_ENDINGS = (".jsonl", ".ndjson")
JSON_ENDINGS = (".json",)
PARQUET_ENDINGS = (".parquet",)
ARROW_ENDINGS = (".arrow", ".feather")
CSV_ENDINGS = (".csv", ".tsv")
ENDINGS = JSON_LINES_ENDINGS + JSON_ENDINGS + PARQUET_ENDINGS + ARROW_ENDINGS + CSV_ENDINGS
KNOWN_NAMES = f"{', '.join(ENDINGS)}, these also with {', '.join(COMPRESSIONS)}"

ARROW_BATCH_ROWS = 64  # one row with the tests of a program can have 10 MB
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """One row that was read.

    Attributes:
        number: the line of a JSON Lines file, counted from 1; in any other data the index, counted from 0.
        content: the row; None if it has a problem.
        problem: what is wrong with the row; empty if nothing is.
        unit: "line" or "row": what `number` counts.
        split: the split of the row by the data; None if the data has none.
    """

    number: int
    content: dict[str, Any] | None
    problem: str = ""
    unit: str = "row"
    split: str | None = None

    def valid_content(self) -> dict[str, Any]:
        """Return the content, or raise ValueError with the problem."""
        if self.content is None:
            raise ValueError(self.problem)
        return self.content


def file_rows(place: Place) -> Iterator[Row]:
    """Yield the rows of a file. Its name ends with one of `ENDINGS`, optionally followed by one of `COMPRESSIONS`.

    JSON Lines, CSV and Parquet are streamed. A JSON document is read as a whole.

    Raises:
        ValueError: with the name of the file, if it cannot be read to its end. The problem of a single row is in that
            row.
    """
    read = next(reader for endings, reader in _READERS.items() if place.plain_name.endswith(endings))
    try:
        for row in read(place):
            yield row if row.split or row.content is None else row._replace(split=split_of_row(row.content))
    except (pa.ArrowException, EOFError, OSError, zlib.error, lzma.LZMAError, csv.Error) as error:
        raise ValueError(f"{place.name} cannot be read: {error}") from error


def arrow_rows(batches: Iterable[pa.RecordBatch | pa.Table]) -> Iterator[Row]:
    """Yield the rows of Arrow data; the numbers go on over all batches."""
    number = 0
    for batch in batches:
        for content in _python_rows(batch):
            yield Row(number, None, str(content)) if isinstance(content, ValueError) else Row(number, content)
            number += 1


def _python_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any] | ValueError]:
    """Convert a batch; only if this fails, because one value is out of range or not UTF-8, convert row by row."""
    try:
        yield from batch.to_pylist()
    except ValueError as error:
        if batch.num_rows == 1:
            yield error
            return
        for start in range(batch.num_rows):
            yield from _python_rows(batch.slice(start, 1))


def _parquet_rows(place: Place) -> Iterator[Row]:
    with place.open() as source, pq.ParquetFile(_seekable(source)) as file:
        yield from arrow_rows(file.iter_batches(batch_size=ARROW_BATCH_ROWS))


def _arrow_rows(place: Place) -> Iterator[Row]:
    """Open an Arrow file or stream; `datasets` stores streams."""
    with place.open() as source:
        source = _seekable(source)
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        pieces = (batch.slice(i, ARROW_BATCH_ROWS) for batch in batches for i in range(0, len(batch), ARROW_BATCH_ROWS))
        yield from arrow_rows(pieces)


def _seekable(source: IO[bytes]) -> IO[bytes]:
    return source if source.seekable() else io.BytesIO(source.read())


def _csv_rows(place: Place) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with place.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if place.plain_name.endswith(".tsv") else ",", strict=True)
        try:
            for number, content in enumerate(reader):
                if None in content or None in content.values():
                    yield Row(
                        number, None, f"the row has more or fewer fields than the {len(reader.fieldnames)} columns"
                    )
                else:
                    yield Row(number, content)
        except UnicodeDecodeError as error:
            raise ValueError(f"{place.name} is not UTF-8: byte 0x{error.object[error.start]:02x}") from error


def _json_lines_rows(place: Place) -> Iterator[Row]:
    with place.open() as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(_BOM)
            if line.isspace() or not line:
                continue
            try:
                yield Row(number, _as_object(_parse(line.rstrip())), unit="line")
            except ValueError as error:
                yield Row(number, None, str(error), unit="line")


def _json_rows(place: Place) -> Iterator[Row]:
    if _holds_lines(place):
        yield from _json_lines_rows(place)
        return
    with place.open() as file:
        text = file.read()
    if not text.removeprefix(_BOM).strip():
        return
    try:
        rows = document_rows(_parse(text.removeprefix(_BOM)))
    except ValueError as error:
        raise ValueError(f"{place.name}: {error}") from error
    for number, (split, content) in enumerate(rows):
        try:
            yield Row(number, _as_object(content), split=split)
        except ValueError as error:
            yield Row(number, None, str(error))


def _holds_lines(place: Place) -> bool:
    """Tell whether a `.json` file is JSON Lines: an object on the first line, and more lines after it."""
    with place.open() as file:
        lines = list(islice((line for line in file if not line.isspace()), 2))
    try:
        return len(lines) == 2 and isinstance(_parse(lines[0].removeprefix(_BOM)), dict)
    except ValueError:
        return False


def _as_object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"the row is {kind(content)}, not an object")
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


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_READERS = {
    JSON_LINES_ENDINGS: _json_lines_rows,
    JSON_ENDINGS: _json_rows,
    PARQUET_ENDINGS: _parquet_rows,
    ARROW_ENDINGS: _arrow_rows,
    CSV_ENDINGS: _csv_rows,
}
