"""CPU seconds and memory of a process and all its descendants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

MEMORY_POLL_S = 0.5  # one measurement takes 50 ms and more, because the kernel walks all page tables


def processes(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time, including that of descendants which have ended."""
    total = 0.0
    for process in processes(pid):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # its own time, and the time of its children that have ended
    return total


def own_bytes(pid: int) -> int:
    """Memory without files. Memory that several processes share, such as Ray's object store, counts once."""
    total = 0
    for process in processes(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def file_bytes(pid: int) -> int:
    """Memory of mapped files, mostly libraries. Memory that several processes share counts once.

    Proportional shares are not used, because they would depend on the other programs that run.
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
    """Measure `own_bytes` repeatedly inside the context; the list gets the values."""
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
