"""Says what a process waits for, and prints its stacks when a stage takes too long: a silent hang is hard to debug."""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, Timer

TELL_EVERY_S = 30.0
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


@contextmanager
def tell_waiting(what: str) -> Iterator[None]:
    """Print `what` and the seconds that have passed to stderr, every 30 seconds until the block ends."""
    start, ended = time.monotonic(), Event()

    def tell() -> None:
        while not ended.wait(TELL_EVERY_S):
            print(f"{what} ({time.monotonic() - start:.0f} s so far)", file=sys.stderr, flush=True)

    Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _tell(stage: str, limit_s: float) -> None:
    print(f"{stage}: longer than stage_timeout_s={limit_s:g}. The stacks of its threads:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(2)  # not sys.stderr, which has no file descriptor when it is captured


def patience_s(limit_s: float | None) -> float | None:
    """Seconds to wait for another process's answer: long enough for it to print its stacks first. None: no limit."""
    return None if limit_s is None else limit_s + ANSWER_GRACE_S
