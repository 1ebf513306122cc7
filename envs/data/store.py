"""Tasks on disk: one Arrow file that every process maps into memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from operator import index as as_index
from pathlib import Path

import numpy as np
import pyarrow as pa

from envs.data.reading import ReadTask
from envs.data.report import LoadReport
from envs.grading.answers import answer_from_json
from envs.text_env import Task

TASKS_FILE = "tasks.arrow"

_SCHEMA = pa.schema(
    {
        "prompt": pa.large_string(),
        "answer": pa.large_string(),  # answer_to_json
        "data_source": pa.string(),
        "history": pa.large_string(),  # JSON
        "file": pa.int32(),  # index into LoadReport.files
        "templated": pa.bool_(),
        "columns": pa.large_string(),  # JSON, or null
        "question": pa.int64(),  # splits.question_hash
        "row": pa.int64(),  # line, from 1, or index, from 0: Row.number
    }
)
_BATCH_ROWS = 4096
_BATCH_CHARS = 1 << 24


class TaskTable(Sequence[Task]):
    """The tasks of a store: `len(table)`, `table[3]`, iteration.

    Tasks are read from the disk at their first use, and all processes of a machine share the pages. A table is pickled
    as the path of its store, so the store must exist where it is unpickled.

    Args:
        folder: the store.
        limit: the number of tasks to show from the beginning; None for all.

    Attributes:
        report: the `LoadReport`.
    """

    def __init__(self, folder: str | Path, limit: int | None = None):
        self._arguments = (str(folder), limit)
        self.report = LoadReport.read(Path(folder))
        self._columns = pa.ipc.open_file(pa.memory_map(str(Path(folder, TASKS_FILE)))).read_all()
        self._len = min(self.report.kept, self.report.kept if limit is None else limit)

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: int) -> Task:
        """Return a task; negative indices count from the end, as in a list."""
        row = self._row(index)
        columns = self._value("columns", row)
        return Task(
            prompt=self._value("prompt", row),
            answer=answer_from_json(self._value("answer", row)),
            data_source=self._value("data_source", row),
            history=tuple(json.loads(self._value("history", row))),
            templated=self._value("templated", row),
            columns=None if columns is None else json.loads(columns),
        )

    def questions(self) -> np.ndarray:
        """The int64 hashes of the questions of all tasks. Equal hashes in two tables mean the same question."""
        return self._columns["question"].slice(0, len(self)).to_numpy()

    def origin(self, index: int) -> tuple[str, int]:
        """Return the origin of a task: a name in `report.files`, and the number of the line or row in that file."""
        row = self._row(index)
        return self.report.files[self._value("file", row)], self._value("row", row)

    def __reduce__(self):
        return TaskTable, self._arguments

    def __repr__(self) -> str:
        return f"TaskTable({', '.join(map(repr, self._arguments))})"

    def _row(self, index: int) -> int:
        row = as_index(index)
        if not -len(self) <= row < len(self):
            raise IndexError(f"index={row} is not in a table of {len(self)} tasks")
        return row % len(self)

    def _value(self, column: str, row: int) -> str | int | None:
        return self._columns[column][row].as_py()


class StoreWriter:
    """Writes the Arrow file of a store in batches. It is a context manager; the file is complete at its end."""

    def __init__(self, folder: Path):
        self._file = pa.OSFile(str(folder / TASKS_FILE), "wb")
        self._writer = pa.ipc.new_file(self._file, _SCHEMA)
        self._rows: list[tuple] = []
        self._chars = 0

    def add(self, task: ReadTask, file: int, row: int) -> None:
        """Append a task, with the index of its file and the number of its row."""
        values = task._asdict() | {"file": file, "row": row}
        self._rows.append(tuple(values[name] for name in _SCHEMA.names))
        self._chars += len(task.prompt) + len(task.answer) + len(task.history) + len(task.columns or "")
        if len(self._rows) == _BATCH_ROWS or self._chars > _BATCH_CHARS:
            self._flush()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *exception) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            arrays = [
                pa.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), _SCHEMA, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._rows, self._chars = [], 0


def origins(folder: Path, rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield `file` and `row` of some rows of a store."""
    with pa.memory_map(str(folder / TASKS_FILE)) as source:
        table = pa.ipc.open_file(source).read_all().select(["file", "row"]).take(rows)
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def answers(folder: Path, rows: np.ndarray) -> list[str]:
    """Return the answers of some rows of a store, as JSON."""
    with pa.memory_map(str(folder / TASKS_FILE)) as source:
        return pa.ipc.open_file(source).read_all()["answer"].take(pa.array(rows)).to_pylist()


def keep_rows(folder: Path, keep: np.ndarray) -> None:
    """Rewrite the Arrow file of a store with the rows where `keep` is true."""
    path = folder / TASKS_FILE
    shorter = path.with_suffix(".shorter")
    with pa.memory_map(str(path)) as source, pa.OSFile(str(shorter), "wb") as target:
        reader = pa.ipc.open_file(source)
        with pa.ipc.new_file(target, _SCHEMA) as writer:
            start = 0
            for batch in map(reader.get_batch, range(reader.num_record_batches)):
                stop = start + batch.num_rows
                writer.write_batch(batch.filter(pa.array(keep[start:stop])))
                start = stop
    os.replace(shorter, path)
