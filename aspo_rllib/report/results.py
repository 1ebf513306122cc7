"""Reads the trial folders of a Ray Tune experiment. No pickled files are loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Tune writes objects that JSON cannot represent as their repr, with an address that differs between trials.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_TERMINAL_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial folder.

    Attributes:
        name: the folder, relative to the experiment's folder.
        config: the content of params.json; nested names are joined by "/".
        rows: the result of each training iteration without its config; nested names are joined by "/".
        error: the exception in error.txt, in one line; None without an error.txt.
    """

    name: str
    config: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    error: str | None

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @property
    def iterations(self) -> int:
        """The last training iteration, 0 for a trial without results."""
        return max(self.rows, default=0)

    @property
    def finished(self) -> bool:
        """Whether Tune ended the trial as planned: its last result has `done`."""
        return bool(self.rows) and self.rows[self.iterations].get("done") is True

    @property
    def status(self) -> str:
        """The status as text: finished, crashed, ..., with the error."""
        if self.finished:
            return "finished" + (f", after an error: {self.error}" if self.error else "")
        if self.error:
            return f"crashed at iteration {self.iterations}: {self.error}"
        return f"stopped or still running at iteration {self.iterations}" if self.rows else "no results"

    def series(self, metric: str) -> dict[int, float]:
        """The finite values of a metric by iteration (see `values`)."""
        return {iteration: value for iteration, value in self.values(metric).items() if math.isfinite(value)}

    def values(self, metric: str) -> dict[int, float]:
        """All values of a metric by iteration.

        Every result repeats the latest evaluation. An evaluation counts only at its own iteration; the one before
        training counts at iteration 0.
        """
        values = {}
        group, _, rest = metric.partition("/")
        for iteration, row in self.rows.items():
            if row.get(f"{group}/iteration", iteration) == iteration:
                values[iteration] = row.get(metric)
            if (at_start := row.get(f"{group}_at_start/{rest}")) is not None:
                values[0] = at_start
        return {i: float(value) for i, value in sorted(values.items()) if isinstance(value, int | float)}

    def final(self, metric: str, last: int) -> float | None:
        """Mean of the last `last` values after iteration 0.

        None if there is no value, if one of them is not finite, or if the trial did not finish.
        """
        values = [value for iteration, value in self.values(metric).items() if iteration > 0]
        mean = float(np.mean(values[-last:])) if values and self.finished else math.nan
        return mean if math.isfinite(mean) else None

    def area(self, metric: str) -> float | None:
        """The metric's mean over training: the area under its curve divided by the number of iterations.

        None if there are fewer than two values, if one of them is not finite, or if the trial did not finish.
        """
        values = self.values(metric)
        if len(values) < 2 or not self.finished:
            return None
        iterations = list(values)
        mean = float(np.trapezoid(list(values.values()), iterations)) / (iterations[-1] - iterations[0])
        return mean if math.isfinite(mean) else None


def read_trials(results_dir: Path) -> list[Trial]:
    """Every trial below the folder of one Tune experiment, or of several.

    Raises ValueError if no trial has a result, or if a result cannot be read.
    """
    if not results_dir.is_dir():
        raise ValueError(f"results_dir={str(results_dir)!r}: no such folder; expected that of a Ray Tune experiment.")
    folders = sorted(path.parent for path in results_dir.rglob("params.json"))
    trials = [_read_trial(folder, results_dir) for folder in folders]
    if not any(trial.rows for trial in trials):
        raise ValueError(
            f"results_dir={str(results_dir)!r}: {len(trials)} trial folders, none with a result; expected the folder of"
            " a Ray Tune experiment, whose trial folders hold params.json and a result.json with a line per iteration."
        )
    return trials


def _read_trial(folder: Path, results_dir: Path) -> Trial:
    config = json.loads(_ADDRESS.sub("", (folder / "params.json").read_text()))
    # Names that begin with two underscores are Tune's own.
    config = {name: value for name, value in _flat(config) if not name.startswith("__")}
    name = folder.name if folder == results_dir else folder.relative_to(results_dir).as_posix()
    rows = _read_rows(folder / "result.json") if (folder / "result.json").exists() else {}
    error = folder / "error.txt"
    return Trial(name, config, rows, _exception(error.read_text()) if error.exists() else None)


def _read_rows(path: Path) -> dict[int, dict[str, Any]]:
    """The results by iteration. A trial restored from a checkpoint repeats iterations; the last result counts."""
    rows = {}
    for number, line in enumerate(path.read_text().splitlines(keepends=True), start=1):
        if not line.endswith("\n"):  # the line is incomplete: the trial is running, or was killed
            continue
        try:
            result = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:60]!r}.") from error
        result.pop("config", None)
        rows[result["training_iteration"]] = dict(_flat(result))
    return rows


def _flat(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _exception(text: str) -> str:
    """The last line that starts with an exception's name. Ray may add further lines after it."""
    lines = [line for line in _TERMINAL_COLOR.sub("", text).splitlines() if line.strip()]
    named = [line for line in lines if _EXCEPTION.match(line)]
    return (named or lines or ["error.txt is empty"])[-1].strip()
