"""How gpu_check.py's stages measure: seconds, memory and speed of a device, which works asynchronously."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from gpu_models import Sizes
from torch import Tensor

GIB = 1 << 30
Note = Callable[..., None]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(func: Callable[[], object]) -> float:
    """Seconds until the device has finished the work of a call."""
    synchronize()
    start = time.perf_counter()
    func()
    synchronize()
    return time.perf_counter() - start


def median_seconds(func: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls, after a warm-up call."""
    func()
    return statistics.median(seconds_of(func) for _ in range(repeats))


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@contextmanager
def peak_gib(sizes: Sizes) -> Iterator[dict[str, float]]:
    """{"peak": ..., "kept": ...}: the largest and the last number of GiB allocated inside; empty on CPUs."""
    found: dict[str, float] = {}
    if sizes.device == "cpu":
        yield found
        return
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield found
    synchronize()
    found |= {"peak": torch.cuda.max_memory_allocated() / GIB, "kept": torch.cuda.memory_allocated() / GIB}


def empty() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def matrix_flops(sizes: Sizes, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=sizes.device).to(dtype) for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: a @ b, 10)
