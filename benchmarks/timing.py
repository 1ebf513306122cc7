"""What the benchmarks time with: a call's seconds, and ways that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def timed(func: Callable[[], T]) -> tuple[float, T]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = func()
    return time.perf_counter() - start, result


def seconds_of(func: Callable[[], object]) -> float:
    return timed(func)[0]


def take_turns(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """What each way returned at each repeat, after a round that does not count."""
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    return {name: [results[name] for results in rounds] for name in ways}
