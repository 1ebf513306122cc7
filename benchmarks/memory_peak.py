"""The calling process's resident memory and its high-water mark."""

from __future__ import annotations


def resident_bytes() -> int:
    return _status("VmRSS:")


def peak_bytes() -> int:
    """Most bytes that were resident since `reset_peak`."""
    return _status("VmHWM:")


def reset_peak() -> None:
    """Forget the high-water mark."""
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
