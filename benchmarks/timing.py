"""Timing functions of the benchmarks: the seconds of a call, and interleaved repeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def timed(func: Callable[[], T]) -> tuple[float, T]:
    """The seconds of a call, and its result."""
    start = time.perf_counter()
    result = func()
    return time.perf_counter() - start, result


def seconds_of(func: Callable[[], object]) -> float:
    return timed(func)[0]


def take_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """The results of each way in all repeats, which are interleaved. A warm-up round comes first."""
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    return {name: [results[name] for results in rounds] for name in ways}
