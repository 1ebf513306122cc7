"""Opening task data as people have it: files, data sets of the Hugging Face hub, loaded data sets.

The data is converted once, row by row, into a store in the cache folder; whoever opens the same data with the same
options again, in any process, maps that store into memory.
"""

from __future__ import annotations

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
from envs.data.store import TaskTable
from envs.grading.answers import CodeTests, MathAnswer

ANSWER_TYPES = (MathAnswer, CodeTests)

_READING_CODE = (
    "data/*.py",
    "layouts/*.py",
    "grading/answers.py",
    "grading/code/formats.py",
    "grading/exact_json.py",
    "grading/math/text.py",
)


def open_tasks(
    data: Any,
    *,
    answer_type: type,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    max_bad_frac: float = 0.01,
    max_prompt_chars: int | None = None,
    pass_rates: str | os.PathLike | None = None,
    pass_rate_range: tuple[float, float] = (0.0, 1.0),
    limit: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> TaskTable:
    """Open task data as a table in which an index always means the same task.

    Left out, and counted in `TaskTable.report`: bad rows; rows whose answer is of the other type; what the options
    below filter; rows that repeat an earlier question (prompt and history) and its answer; all rows of a question
    that comes with different answers. The tasks keep the order of the data. Integers of any size come through,
    except from JSON on the hub: that is read by `datasets`, which rounds the ones beyond 64 bits.

    Args:
        data: the path of a `.json`, `.jsonl`, `.ndjson` (these also with `.gz`) or `.parquet` file, a list of paths,
            a data set of the Hugging Face hub as "owner/name" or "owner/name:config", or a `datasets.Dataset`.
            JSON Lines and Parquet are streamed; a `.json` document is read into memory once.
        answer_type: `MathAnswer` or `CodeTests`: which tasks to take.
        split: the split of a data set of the hub; files and loaded data sets are taken as they are.
        columns: which of the data's columns stand for which ones of ours, as `envs.layouts.to_task` takes it.
        max_bad_frac: the largest share of bad rows that is put up with, 0..1. With the default, data of fewer than
            100 rows may have none.
        max_prompt_chars: the longest prompt to take, with its history, >= 1; None for any length.
        pass_rates: a file with the columns `prompt` and `pass_rate`, perhaps `num_samples`, from an earlier run.
        pass_rate_range: (lowest, highest) pass rate of the tasks to take, 0..1, both included. Prompts that
            `pass_rates` does not know are taken.
        limit: how many tasks to take, the first ones, >= 1; None for all. All rows are still read once.
        cache_dir: where the store goes; by default $ASPO_CACHE, else $XDG_CACHE_HOME/aspo_rllib, else
            ~/.cache/aspo_rllib. Stores of data that has changed stay there until somebody deletes them.

    Raises:
        ValueError: for an argument out of its range, for data that cannot be read, with more bad rows than
            `max_bad_frac` or without any task left, and for `pass_rates` that know none of the prompts.
        FileNotFoundError: for a file that is not there.
        ImportError: for a name of the hub without the package `datasets`.
    """
    _check_arguments(answer_type, max_bad_frac, max_prompt_chars, pass_rates, pass_rate_range, limit)
    options = {
        "answer_type": answer_type.__name__,
        "columns": dict(columns or {}),
        "max_prompt_chars": max_prompt_chars,
        "pass_rates": None if pass_rates is None else file_source(pass_rates, "pass_rates").identity,
        "pass_rate_range": list(pass_rate_range),
    }
    sources = find_sources(data, split)
    folder = _store_folder(sources, options, _cache_folder(cache_dir))
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                rates = None if pass_rates is None else PassRates(Path(pass_rates).expanduser(), *pass_rate_range)
                convert(sources, folder, columns, Selection(answer_type, max_prompt_chars, rates))
    table = TaskTable(folder, limit)
    _check_report(table.report, answer_type, max_bad_frac)
    if table.report.bad:
        warnings.warn(str(table.report), stacklevel=2)
    return table


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
        raise ValueError(f"pass_rate_range={pass_rate_range!r} needs pass_rates, the file that it is about")


def _check_report(report: LoadReport, answer_type: type, max_bad_frac: float) -> None:
    if not report.rows:
        raise ValueError(f"{report.files[0]}: there are no rows")
    if report.bad > max_bad_frac * report.rows:
        bad = "\n  ".join(report.first_bad)
        raise ValueError(
            f"{report.bad} of {report.rows} rows are bad, more than max_bad_frac={max_bad_frac} allows; "
            f"all are listed in {report.dropped_path}; the first:\n  {bad}"
        )
    if not report.kept:
        raise ValueError(f"no task with answer_type={answer_type.__name__} is left of {report}")


def _store_folder(sources: list[Source], options: dict[str, Any], cache: Path) -> Path:
    """A folder whose name changes whenever the data, the options or the code that reads rows do."""
    envs_folder = Path(__file__).parent.parent
    code = [path.read_bytes() for pattern in _READING_CODE for path in sorted(envs_folder.glob(pattern))]
    key = json.dumps([[source.identity for source in sources], options, [_digest(text) for text in code]])
    label = re.sub(r"[^\w.-]+", "_", sources[0].label, flags=re.ASCII)[:40]
    return cache / "tasks" / f"{label}-{_digest(key.encode())}"


def _cache_folder(chosen: str | os.PathLike | None) -> Path:
    if chosen is not None:
        return Path(chosen).expanduser().resolve()
    if os.environ.get("ASPO_CACHE"):
        return Path(os.environ["ASPO_CACHE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "aspo_rllib"


def _digest(text: bytes) -> str:
    return blake2b(text, digest_size=8).hexdigest()
