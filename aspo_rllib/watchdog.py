"""Says where a process is when something takes too long: hangs that leave no trace are the ones that cost days."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

ANSWER_GRACE_S = 5.0  # a process tells of its hang before whoever waits for it gives up on it


@contextmanager
def watch(stage: str, limit_s: float | None) -> Iterator[None]:
    """Print `stage` and the stacks of all threads to stderr if the block takes longer than `limit_s`; None: never.

    It only tells: who waits for this process decides what becomes of it.
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
    faulthandler.dump_traceback(2)  # not sys.stderr, which has no file behind it where it is captured


def patience_s(limit_s: float | None) -> float | None:
    """How long to wait for another process's answer: until it has told where it hangs."""
    return None if limit_s is None else limit_s + ANSWER_GRACE_S
