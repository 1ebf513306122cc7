"""Writes the values of a report as a CSV file, for further analysis."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from aspo_rllib.report.methods import Method

COLUMNS = ("method", "seed", "trial", "status", "iterations", "metric", "final", "area")


def write_csv(path: Path, methods: Sequence[Method], metrics: Sequence[str], last: int) -> None:
    """Write a row per metric and trial. `area` is the mean over training; values that a trial lacks are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for metric, method in product(metrics, methods):
            for t in method.trials:
                values = (t.final(metric, last), t.area(metric))
                writer.writerow([method.label, t.seed, t.name, t.status, t.iterations, metric, *values])
