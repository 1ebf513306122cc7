"""From rows to a store of tasks, once: what becomes of each row, and the report on it."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from envs.data_filters import Deduplicator, PassRates
from envs.data_report import DROPPED_FILE, LoadReport
from envs.data_sources import Source
from envs.data_store import StoreWriter, keep_rows, origins
from envs.grading.answers import answer_to_json
from envs.layouts import to_task
from envs.text_env import Task

_FIRST_BAD = 5


@dataclass(frozen=True)
class Selection:
    """Which tasks to take; arguments of `open_tasks`."""

    answer_type: type
    max_prompt_chars: int | None
    pass_rates: PassRates | None

    def reason_against(self, task: Task) -> str | None:
        """Return the field of `LoadReport` that counts this task if it is left out, else None."""
        if not isinstance(task.answer, self.answer_type):
            return "other_kind"
        num_chars = len(task.prompt) + sum(len(message["content"]) for message in task.history)
        if self.max_prompt_chars is not None and num_chars > self.max_prompt_chars:
            return "too_long"
        if self.pass_rates is not None and not self.pass_rates.allow(task.prompt):
            return "filtered_by_pass_rate"
        return None


def convert(sources: Sequence[Source], folder: Path, columns: Mapping[str, str] | None, selection: Selection) -> None:
    """Write the store `folder`: a whole one, or none if this fails. Memory holds one batch of tasks at a time.

    Raises:
        ValueError: for a source that cannot be read, and for pass rates of none of the prompts.
    """
    names = tuple(source.name for source in sources)
    counts, first_bad, seen = Counter(rows=0), [], Deduplicator()
    with _new_folder(folder) as partial, open(partial / DROPPED_FILE, "w") as dropped:
        with StoreWriter(partial) as store:
            for file, source, row in ((i, each, row) for i, each in enumerate(sources) for row in each.rows()):
                counts["rows"] += 1
                try:
                    task = to_task(row.valid_content(), columns, source.label)
                except ValueError as error:
                    counts["bad"] += 1
                    _log_dropped(dropped, source.name, row.number, str(error))
                    if len(first_bad) < _FIRST_BAD:
                        first_bad.append(f"{source.name}, {row.unit} {row.number}: {error}")
                    continue
                answer, history = answer_to_json(task.answer), json.dumps(task.history)
                reason = selection.reason_against(task)
                if reason is not None:
                    counts[reason] += 1
                elif seen.is_new(history + task.prompt, answer):
                    store.add(task, answer, history, file, row.number)
        if selection.pass_rates is not None and not selection.pass_rates.num_known:
            raise ValueError(f"pass_rates: {selection.pass_rates.path} knows none of the prompts of {names[0]}")
        _drop_conflicting(partial, seen.conflicts(), names, dropped)
        counts["kept"], counts["duplicates"], counts["conflicting"] = seen.counts()
        LoadReport(files=names, first_bad=tuple(first_bad), **counts).write(partial)


def _drop_conflicting(folder: Path, conflicts: np.ndarray, names: Sequence[str], dropped: IO[str]) -> None:
    if not conflicts.any():
        return
    for file, row in origins(folder, np.flatnonzero(conflicts)):
        _log_dropped(dropped, names[file], row, "conflicting: later rows have this prompt and another answer")
    keep_rows(folder, ~conflicts)


def _log_dropped(dropped: IO[str], file: str, row: int, reason: str) -> None:
    dropped.write(json.dumps({"file": file, "row": row, "reason": reason}) + "\n")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a sibling to fill, which takes the name `path` at the end, and goes if filling it fails."""
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
