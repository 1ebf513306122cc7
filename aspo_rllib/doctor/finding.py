"""The result of a check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check. The remedy applies if it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
