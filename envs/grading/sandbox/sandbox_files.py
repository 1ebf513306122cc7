"""In the sandbox: measure the files of a program, also those that it has removed and holds open."""

import os
import stat

_MAX_SCRATCH_ENTRIES = 200  # a folder of this depth is still searched in a few milliseconds
_BLOCK_BYTES = 512
_REMOVED = " (deleted)"


def holds_too_much(folder: str, max_bytes: int, pid: int | None) -> bool:
    """Whether a program has too many or too large files; files that cannot be measured count as too large.

    Args:
        folder: the folder in which it can create files.
        max_bytes: the limit of all files.
        pid: the process; None if the file system enforces the limit.
    """
    held = _bytes_in(folder, max_bytes)
    if held is not None and pid is not None:
        removed = _removed_bytes(folder, pid)
        held = None if removed is None else held + removed
    return held is None or held > max_bytes


def _bytes_in(folder: str, max_bytes: int) -> int | None:
    num_bytes, num_entries, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    num_entries += 1
                    status = entry.stat(follow_symlinks=False)
                    num_bytes += status.st_blocks * _BLOCK_BYTES
                    if num_entries > _MAX_SCRATCH_ENTRIES or num_bytes > max_bytes:
                        return None
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # it was removed in the meantime
            continue
        except OSError:
            return None
    return num_bytes


def _removed_bytes(folder: str, pid: int) -> int | None:
    """Files without a name exist while they are open or mapped; the size of a file that is only mapped is unknown."""
    try:
        device = os.stat(folder).st_dev
        held: dict[int, int] = {}
        for fd in _open_files(pid):
            status = os.stat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev == device:
                held[status.st_ino] = status.st_blocks * _BLOCK_BYTES
        with open(f"/proc/{pid}/maps", errors="replace") as maps:
            for line in maps:
                if line.endswith(_REMOVED + "\n") and folder in line and int(line.split()[4]) not in held:
                    return None
    except (FileNotFoundError, ProcessLookupError):  # a file was closed, or the process ended, in the meantime
        return 0
    return sum(held.values())


def _open_files(pid: int) -> list[str]:
    """Find the open files by any thread: all threads share them, and the first one may have ended."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        folder = f"/proc/{pid}/task/{thread}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        if names:
            return [f"{folder}/{name}" for name in names]
    return []
