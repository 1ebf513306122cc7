"""Convert rows into a store of tasks, once, and report what was done with each row."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from envs.data.filters import Deduplicator, PassRates
from envs.data.reading import LeftOut, ReadingRules, ReadTask, SourceRow, read_rows, source_rows
from envs.data.report import DROPPED_FILE, LoadReport
from envs.data.sources import Source
from envs.data.splits import Chosen, SplitChoice
from envs.data.store import StoreWriter, answers, keep_rows, origins
from envs.grading.answers import Answer, MathAnswer, answer_from_json
from envs.grading.math.grader import MathGrader

_EXAMPLES = 3  # bad rows shown for each reason
_MAX_REASONS = 100
_MAX_REASON_CHARS = 600
_LOOKED_AT = 50
_SILENT_S = 3.0


@dataclass(frozen=True)
class Selection:
    """The tasks to take, by arguments of `open_tasks`."""

    answer_type: type
    max_prompt_chars: int | None
    pass_rates: PassRates | None
    keep_columns: bool = False


def convert(
    sources: Sequence[Source],
    folder: Path,
    columns: Mapping[str, str | None] | None,
    selection: Selection,
    choice: SplitChoice,
    alone_s: float = 3.0,
) -> None:
    """Write the store `folder`. If this fails, no part of it remains. A few chunks of rows are in memory at a time.

    Args:
        sources: the data.
        folder: the store; it does not exist.
        columns: as in `open_tasks`.
        selection, choice: the tasks to take.
        alone_s: the seconds before other processes help to read the rows.

    Raises:
        ValueError: for a source that cannot be read, for a split that the data does not have, for data whose
            rows all have the same prompt, and for pass rates of none of the prompts.
    """
    chosen = choice.resolved(splits_of(sources), sources[0].name)
    sources = [source for source in sources if source.split is None or chosen.takes_split(source.split)]
    names = tuple(source.name for source in sources)
    tally, seen = _Tally(), Deduplicator()
    with _new_folder(folder) as partial, open(partial / DROPPED_FILE, "w") as dropped:
        rows = _of_split(_shown(source_rows(sources, columns), sources), chosen, tally)
        with StoreWriter(partial) as store:
            rules = ReadingRules(selection.answer_type, selection.max_prompt_chars, selection.keep_columns)
            for (file, row, *_), read in read_rows(rows, rules, alone_s):
                if isinstance(read, LeftOut):
                    tally.counts[read.count] += 1
                    if read.count == "bad":
                        tally.add_bad(f"{names[file]}, {row.unit} {row.number}", read.problem)
                        _log_dropped(dropped, names[file], row.number, read.problem)
                elif selection.pass_rates is not None and not selection.pass_rates.allow(read.prompt):
                    tally.counts["filtered_by_pass_rate"] += 1
                elif not chosen.takes_question(read.question):
                    tally.counts["held_out"] += 1
                else:
                    tally.add_task(read, row.valid_content())
                    if seen.is_new(read.history + read.prompt, read.answer):
                        store.add(read, file, row.number)
        if selection.pass_rates is not None and not selection.pass_rates.num_known:
            raise ValueError(f"pass_rates: {selection.pass_rates.path} has none of the prompts of {names[0]}")
        settle_equal_answers(partial, seen)
        kept, duplicates, conflicting = seen.counts()
        if not kept and len(seen.conflicts()) == 1:
            raise ValueError(tally.same_prompt_message(names[0]))
        _drop_conflicting(partial, seen.conflicts(), names, dropped)
        tally.counts.update(kept=kept, duplicates=duplicates, conflicting=conflicting)
        tally.report(names).write(partial)


def _of_split(rows: Iterable[SourceRow], chosen: Chosen, tally: _Tally) -> Iterator[SourceRow]:
    """Count the rows, and yield those of the chosen split."""
    for row in rows:
        tally.counts["rows"] += 1
        if chosen.takes_split(row.row.split):
            yield row
        else:
            tally.counts["other_split"] += 1


def settle_equal_answers(folder: Path, seen: Deduplicator) -> None:
    """Find the questions whose answers are spelled differently, but are equal for the grader."""
    if not seen.variants:
        return
    first = answers(folder, np.array(list(seen.variants)))
    grader = MathGrader()
    for (index, others), answer in zip(seen.variants.items(), map(answer_from_json, first), strict=True):
        if all(_same_answer(grader, answer, answer_from_json(other)) for other in others):
            seen.settle(index)


def _same_answer(grader: MathGrader, one: Answer, other: Answer) -> bool:
    if not isinstance(one, MathAnswer) or not isinstance(other, MathAnswer):
        return False
    if (one.require_all, one.tolerance) != (other.require_all, other.tolerance):
        return False
    if one.require_all:
        return grader.grade(one, f"\\boxed{{{', '.join(other.golds)}}}").correct
    return all(grader.grade(one, f"\\boxed{{{gold}}}").correct for gold in other.golds)


def splits_of(sources: Sequence[Source]) -> set[str | None]:
    """The splits of the data. Rows are only read for this if the first one has a split."""
    splits = {source.split for source in sources}
    for source in sources:
        if source.split is None and (first := next(source.rows(), None)) and first.split:
            splits |= {row.split for row in source.rows()} - {None}
    return splits


def _shown(rows: Iterable[SourceRow], sources: Sequence[Source]) -> Iterable[SourceRow]:
    """The rows, with a progress bar that appears if this takes long."""
    label = f"reading {sources[0].label}" if sources else "reading"
    return tqdm(rows, desc=label, unit=" rows", unit_scale=True, delay=_SILENT_S, mininterval=_SILENT_S)


class _Tally:
    """Counts of the rows so far, and the first rows with one prompt, for the case that all rows have this prompt."""

    def __init__(self):
        self.counts: Counter[str] = Counter(rows=0, bad=0, templated=0)
        self._reasons: Counter[str] = Counter()
        self._examples: list[str] = []
        self._first: list[tuple[str, Mapping[str, Any]]] = []

    def add_bad(self, where: str, reason: str) -> None:
        """Keep a bad row as an example if there are few with the same reason and column."""
        kind = re.sub(r"=.*?: (?=expected )", ": ", reason, count=1, flags=re.DOTALL)[:_MAX_REASON_CHARS]
        if kind in self._reasons or len(self._reasons) < _MAX_REASONS:
            self._reasons[kind] += 1
            if self._reasons[kind] <= _EXAMPLES:
                self._examples.append(f"{where}: {reason}"[:_MAX_REASON_CHARS])

    def add_task(self, task: ReadTask, content: Mapping[str, Any]) -> None:
        """Count a task that is taken; it may be a repeated one."""
        self.counts["templated"] += task.templated
        if len(self._first) < _LOOKED_AT:
            self._first.append((task.prompt, content))

    def same_prompt_message(self, name: str) -> str:
        """Raise an error for rows that all have the same prompt, with the columns in which they differ."""
        rows = [content for _, content in self._first]
        differing = [key for key in rows[0] if len({str(row.get(key)) for row in rows}) > 1]
        return (
            f"all {self.counts['rows']} rows of {name} have the same prompt, {self._first[0][0][:80]!r}, and different "
            f"answers: another column has the questions. Columns that differ: {', '.join(map(str, differing[:20]))}; "
            'say which one by columns={"prompt": "<column>"}'
        )

    def report(self, names: tuple[str, ...]) -> LoadReport:
        """The report on all rows."""
        reasons = dict(self._reasons.most_common())
        return LoadReport(files=names, first_bad=tuple(self._examples), reasons=reasons, **self.counts)


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
    """Yield a temporary sibling folder. It is renamed to `path` at the end, and removed after an error."""
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
