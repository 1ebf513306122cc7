"""What a process and all below it take: CPU seconds and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

MEMORY_POLL_S = 0.5  # a look costs 50 ms and more: the kernel walks all page tables


def processes(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time, that of processes below it which have ended included."""
    total = 0.0
    for process in processes(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # its own, and that of its children that have ended
    return total


def own_bytes(pid: int) -> int:
    """Memory that belongs to no file; what several processes share, like Ray's object store, counts once."""
    total = 0
    for process in processes(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def file_bytes(pid: int) -> int:
    """Memory that holds files, libraries above all; what several processes share counts once.

    Not their proportional shares, which would depend on what other programs happen to run.
    """
    largest: Counter[str] = Counter()
    for process in processes(pid):
        with suppress(psutil.NoSuchProcess):
            for mapped in process.memory_maps():
                if mapped.path.startswith("/") and not mapped.path.startswith("/dev/shm"):
                    largest[mapped.path] = max(largest[mapped.path], mapped.rss - mapped.anonymous)
    return sum(largest.values())


@contextmanager
def watch_own_bytes(pid: int) -> Iterator[list[int]]:
    """Looks at `own_bytes` again and again; the list has what was found."""
    found, ended = [own_bytes(pid)], Event()

    def poll() -> None:
        while not ended.wait(MEMORY_POLL_S):
            found.append(own_bytes(pid))

    thread = Thread(target=poll)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
