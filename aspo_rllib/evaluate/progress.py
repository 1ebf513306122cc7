"""How far an evaluation is: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from tqdm import tqdm

LINE_S = 5.0  # seconds between two lines, and between two looks at the runners


class Progress(Protocol):
    """What counts the prompts that are done."""

    def update(self, n: int) -> object:
        """Count n more prompts; n may be 0."""

    def close(self) -> None:
        """Show the last state."""


class Lines:
    """Prints a line every LINE_S seconds on stderr: for files, pipes and the logs of jobs."""

    def __init__(self, total: int, done: int):
        self._total, self._first, self._done = total, done, done
        self._start = self._shown = time.monotonic()

    def update(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._shown >= LINE_S:
            self.close()

    def close(self) -> None:
        self._shown = time.monotonic()
        seconds, new = self._shown - self._start, self._done - self._first
        left = f", {tqdm.format_interval(seconds / new * (self._total - self._done))} left" if new else ""
        took = tqdm.format_interval(seconds)
        print(f"evaluate: {self._done} of {self._total} prompts after {took}{left}", file=sys.stderr, flush=True)


def show_progress(total: int, done: int) -> Progress:
    """A bar if stderr is a terminal, else lines.

    total, done: numbers of prompts.
    """
    return tqdm(total=total, initial=done, unit="prompt") if sys.stderr.isatty() else Lines(total, done)
