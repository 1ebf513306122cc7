"""The plan of an experiment: the comparisons that it was made for, written down before it runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FILE = "plan.toml"
VALUES = ("final", "area")
EXPECTATIONS = ("higher", "lower", "equal")


@dataclass(frozen=True)
class PlannedComparison:
    """One hypothesis about two methods.

    Attributes:
        method, baseline: labels of two methods of the report.
        metric: a metric of the results, "evaluation/accuracy".
        value: "final" for the mean of the last values, "area" for the mean over all of training, which is the area
            under the curve divided by its length.
        expect: the hypothesis about the method's value compared with the baseline's: "higher", "lower" or "equal".
        equivalence: the largest difference that does not matter, in units of the metric, > 0. None: every difference
            matters, so that the comparison cannot find that two methods are equal.
    """

    method: str
    baseline: str
    metric: str = "evaluation/accuracy"
    value: str = "final"
    expect: str = "higher"
    equivalence: float | None = None


@dataclass(frozen=True)
class Plan:
    """A plan.toml.

    Attributes:
        methods: labels by the settings that they stand for: {"grpo+clips": {"loss": "grpo", "clip_high": 0.4}}.
        comparisons: Holm's correction counts all of them together.
    """

    methods: Mapping[str, Mapping[str, Any]]
    comparisons: tuple[PlannedComparison, ...]


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises ValueError, with the file, the comparison and the field, if anything in it is not valid."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: expected a plan in TOML: {error}") from error
    if unknown := content.keys() - {"methods", "comparison"}:
        raise ValueError(f"{path}: unknown table {min(unknown)!r}; expected [methods] and [[comparison]].")
    methods, rows = content.get("methods", {}), content.get("comparison", [])
    for label, settings in methods.items():
        if not isinstance(settings, dict) or not settings:
            raise ValueError(f"{path}: methods.{label}={settings!r}: expected settings such as {{loss = 'grpo'}}.")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: expected at least one [[comparison]] with a method and a baseline.")
    comparisons = tuple(_comparison(row, f"{path}: comparison {number}") for number, row in enumerate(rows, start=1))
    return Plan(methods, comparisons)


def _comparison(row: Mapping[str, Any], where: str) -> PlannedComparison:
    known = {field.name for field in fields(PlannedComparison)}
    if unknown := row.keys() - known:
        raise ValueError(f"{where}: unknown field {min(unknown)!r}; expected one of {sorted(known)}.")
    for name in ("method", "baseline"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where}: {name}={row.get(name)!r}: expected the label of a method.")
    comparison = PlannedComparison(**row)
    for name, legal in (("value", VALUES), ("expect", EXPECTATIONS)):
        if getattr(comparison, name) not in legal:
            raise ValueError(f"{where}: {name}={getattr(comparison, name)!r}: expected one of {legal}.")
    bound = comparison.equivalence
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or bound <= 0):
        raise ValueError(f"{where}: equivalence={bound!r}: expected a number > 0.")
    if comparison.expect == "equal" and bound is None:
        raise ValueError(f"{where}: expect='equal' needs equivalence: the largest difference that does not matter.")
    return comparison
