"""An error of another process in one line."""

from __future__ import annotations

import re

from ray.exceptions import RayTaskError

_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")


def reason(error: BaseException | None) -> str:
    """The first cause of an error as one line, without tracebacks: `ZeroDivisionError: division by zero`.

    Errors of workers, and of workers' workers, have the traceback of the process in which they occurred in their text.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) and error.cause is not error:
        error = error.cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines[1:] if _EXCEPTION.match(line)]
    return named[-1] if named else f"{type(error).__name__}: {lines[0] if lines else ''}"
