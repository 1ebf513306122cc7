"""Prints the stacks of a process when a stage takes too long, because a hang without any trace is hard to debug."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

ANSWER_GRACE_S = 5.0  # the hanging process prints its stacks before the caller's timeout ends the wait


@contextmanager
def watch(stage: str, limit_s: float | None) -> Iterator[None]:
    """Print `stage` and the stacks of all threads to stderr if the block takes longer than `limit_s`; None: never.

    This only prints. The process that waits for this one decides whether to restart it.
    """
    if limit_s is None:
        yield
        return
    timer = Timer(limit_s, _tell, (stage, limit_s))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(stage: str, limit_s: float) -> None:
    print(f"{stage}: longer than stage_timeout_s={limit_s:g}. The stacks of its threads:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(2)  # not sys.stderr, which has no file descriptor when it is captured


def patience_s(limit_s: float | None) -> float | None:
    """Seconds to wait for another process's answer: long enough for it to print its stacks first. None: no limit."""
    return None if limit_s is None else limit_s + ANSWER_GRACE_S
