"""The resident memory of the calling process and its peak."""

from __future__ import annotations


def resident_bytes() -> int:
    return _status("VmRSS:")


def peak_bytes() -> int:
    """The largest number of resident bytes since `reset_peak`."""
    return _status("VmHWM:")


def reset_peak() -> None:
    """Reset the peak."""
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def _status(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
