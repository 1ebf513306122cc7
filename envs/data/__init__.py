"""Open task data: files, data sets of the Hugging Face hub, loaded data sets.

The data is converted once, row by row, into a store in the cache folder. When any process opens the same data with the
same options again, it maps that store into memory.
"""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock

from envs.data.convert import Selection, convert
from envs.data.filters import PassRates
from envs.data.report import LoadReport
from envs.data.sources import Source, file_source, find_sources
from envs.data.splits import SplitChoice
from envs.data.store import TaskTable
from envs.grading.answers import CodeTests, MathAnswer, NoAnswer

ANSWER_TYPES = (MathAnswer, CodeTests, NoAnswer)
_SHOWN_EXAMPLES = 5

_READING_CODE = (
    "data/*.py",
    "layouts/*.py",
    "grading/answers.py",
    "grading/code/formats.py",
    "grading/exact_json.py",
    "grading/math/*.py",
)


def open_tasks(
    data: Any,
    *,
    answer_type: type,
    split: str | None = None,
    held_out_frac: float | None = None,
    held_out_seed: int = 0,
    columns: Mapping[str, str | None] | None = None,
    max_bad_frac: float = 0.01,
    max_prompt_chars: int | None = None,
    pass_rates: str | os.PathLike | None = None,
    pass_rate_range: tuple[float, float] = (0.0, 1.0),
    limit: int | None = None,
    keep_columns: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> TaskTable:
    """Open task data as a table. An index always means the same task.

    These rows are left out and counted in `TaskTable.report`: bad rows; rows whose answer is of the other type; rows
    that the options below filter; rows that repeat an earlier question (prompt and history) and its answer; all rows
    of a question with different answers. The tasks have the order of the data. Integers of any size are kept, except
    from JSON on the hub, because `datasets` reads it and rounds integers beyond 64 bits.

    Args:
        data: a file (JSON, JSON Lines, CSV, TSV, Parquet, Arrow; compressed by gzip, bzip2, xz or zstd), a folder of
            such files or of `save_to_disk`, a pattern such as "data/*.parquet", a URL of fsspec ("s3://...", "gs://...",
            "hf://...", "file://..."), a list of these, {"train": ..., "test": ...}, a data set of the Hugging Face hub
            as "owner/name" or "owner/name:config", a `datasets.Dataset` or a `DatasetDict`. An entry may be
            {"path": ..., "columns": ..., "data_source": ...}. JSON Lines, CSV and Parquet are streamed; a `.json`
            document is read into memory once.
        answer_type: the type of tasks to take: `MathAnswer` or `CodeTests`; or `NoAnswer`, with which every row with a
            prompt is a task.
        split: the split to take, if the data has splits: by the keys of `data`, by the names of files or folders, by
            a column "split", or from the hub. None: "train", or the only split.
        held_out_frac: for data with no split but train, the share of the questions, in (0, 1), that split="test"
            takes and split="train" leaves out. The choice depends only on the text of a question and on
            `held_out_seed`, so it is the same in every process and does not change when rows are added. Without this
            argument, split="test" of such data is an error.
        held_out_seed: chooses the questions that are held out.
        columns: the columns of the data for our fields, as in `envs.layouts.to_task`.
        max_bad_frac: the largest share of bad rows that is accepted, 0..1. With the default, data of fewer than 100
            rows may have none.
        max_prompt_chars: the longest prompt to take, with its history, >= 1; None for any length.
        pass_rates: a file from an earlier run, with the columns `prompt`, `pass_rate` and optionally `num_samples`.
        pass_rate_range: (lowest, highest) pass rate of the tasks to take, 0..1, both included. Prompts that
            are not in `pass_rates` are taken.
        limit: the number of tasks to take from the beginning, >= 1; None for all. All rows are still read once.
        keep_columns: whether tasks have the columns of their row (`Task.columns`). Values that JSON does not know
            become texts.
        cache_dir: the folder for the store; by default $ASPO_CACHE, else $XDG_CACHE_HOME/aspo_rllib, else
            ~/.cache/aspo_rllib. When data changes, its old store is not deleted.

    Raises:
        ValueError: for an argument out of its range; for data that cannot be read, that has more bad rows than
            `max_bad_frac`, or of which no task is left; and for `pass_rates` with none of the prompts.
        FileNotFoundError: for a file that does not exist.
        ImportError: for a name of the hub without the package `datasets`.
    """
    _check_arguments(answer_type, max_bad_frac, max_prompt_chars, pass_rates, pass_rate_range, limit)
    if held_out_frac is not None and not 0 < held_out_frac < 1:
        raise ValueError(f"held_out_frac={held_out_frac!r} is not in (0, 1)")
    options = {
        "answer_type": answer_type.__name__,
        "columns": dict(columns or {}),
        "split": [split, held_out_frac, held_out_seed],
        "max_prompt_chars": max_prompt_chars,
        "pass_rates": None if pass_rates is None else file_source(pass_rates, "pass_rates").identity,
        "pass_rate_range": list(pass_rate_range),
        "keep_columns": keep_columns,
    }
    sources = find_sources(data, split)
    folder = _store_folder(sources, options, cache_folder(cache_dir))
    if not folder.exists():
        _make_folder(folder.parent)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                rates = None if pass_rates is None else PassRates(Path(pass_rates).expanduser(), *pass_rate_range)
                selection = Selection(answer_type, max_prompt_chars, rates, keep_columns)
                choice = SplitChoice(split, held_out_frac, held_out_seed)
                _convert(sources, folder, columns, selection, choice)
    table = TaskTable(folder, limit)
    _check_report(table.report, answer_type, max_bad_frac)
    if table.report.bad or table.report.conflicting or table.report.templated:
        warnings.warn(table.report.details(), stacklevel=2)
    return table


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS, "cannot be written to", str(folder))
    except OSError as error:
        raise _cache_error(folder, error) from error


def _convert(sources: list[Source], folder: Path, *rest: Any) -> None:
    try:
        convert(sources, folder, *rest)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise _cache_error(folder.parent, error) from error
        raise


def _cache_error(folder: Path, error: OSError) -> ValueError:
    return ValueError(f"the cache of converted data, {folder}: {error.strerror}; set ASPO_CACHE to another folder")


def _check_arguments(
    answer_type: type,
    max_bad_frac: float,
    max_prompt_chars: int | None,
    pass_rates: str | os.PathLike | None,
    pass_rate_range: tuple[float, float],
    limit: int | None,
) -> None:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"answer_type={answer_type!r} is not one of {', '.join(t.__name__ for t in ANSWER_TYPES)}")
    if not 0 <= max_bad_frac <= 1:
        raise ValueError(f"max_bad_frac={max_bad_frac!r} is not in 0..1")
    for name, value in (("max_prompt_chars", max_prompt_chars), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} is not an integer in 1..")
    lowest, highest = pass_rate_range
    if not 0 <= lowest <= highest <= 1:
        raise ValueError(f"pass_rate_range={pass_rate_range!r} is not (lowest, highest) with both in 0..1")
    if pass_rates is None and (lowest, highest) != (0, 1):
        raise ValueError(f"pass_rate_range={pass_rate_range!r} needs pass_rates, the file with the rates")


def _check_report(report: LoadReport, answer_type: type, max_bad_frac: float) -> None:
    if not report.rows:
        raise ValueError(f"{report.files[0]}: there are no rows")
    seen = report.rows - report.other_split
    if report.bad > max_bad_frac * seen or (report.bad and not report.kept):
        examples: dict[str, str] = {}
        for example in report.first_bad:  # one per reason
            examples.setdefault(example.partition(": ")[2], example)
        bad = "\n  ".join(list(examples.values())[:_SHOWN_EXAMPLES])
        raise ValueError(
            f"{report.bad} of {seen} rows are bad, with max_bad_frac={max_bad_frac}; "
            f"all are listed in {report.dropped_path}; the first:\n  {bad}"
        )
    if not report.kept:
        other = {MathAnswer: "aspo/Code-v0", CodeTests: "aspo/Math-v0"}
        hint = f"; these tasks are for {other[answer_type]}" if report.other_kind else ""
        hint += "; raise held_out_frac, or bring more rows" if report.held_out else ""
        raise ValueError(f"no task with answer_type={answer_type.__name__} is left of {report}{hint}")


def _store_folder(sources: list[Source], options: dict[str, Any], cache: Path) -> Path:
    """A folder whose name changes if the data, the options, or the code that reads rows change."""
    envs_folder = Path(__file__).parent.parent
    code = [path.read_bytes() for pattern in _READING_CODE for path in sorted(envs_folder.glob(pattern))]
    key = json.dumps([[source.identity for source in sources], options, [_digest(text) for text in code]])
    label = re.sub(r"[^\w.-]+", "_", sources[0].label, flags=re.ASCII)[:40]
    return cache / "tasks" / f"{label}-{_digest(key.encode())}"


def cache_folder(chosen: str | os.PathLike | None = None) -> Path:
    """The folder of the stores: the chosen one, or the one that ASPO_CACHE or XDG_CACHE_HOME name."""
    if chosen is not None:
        return Path(chosen).expanduser().resolve()
    if os.environ.get("ASPO_CACHE"):
        return Path(os.environ["ASPO_CACHE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "aspo_rllib"


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=8).hexdigest()
