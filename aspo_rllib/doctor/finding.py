"""What a check says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check found; the remedy is for what is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
