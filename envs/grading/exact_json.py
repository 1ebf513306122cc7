"""JSON with integers of any length.

Python's int(), str() and json refuse more than 4300 digits, but some programs that are graded return more. Decimal has
no such limit, is faster, and needs no setting for the whole process.
"""

import json
from decimal import Decimal
from typing import Any

_MAX_DIGITS = 4300


def parse_json(text: str) -> Any:
    """json.loads for integers of any length; it raises only ValueError."""
    try:
        return json.loads(text, parse_int=integer_from)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def to_json(value: Any) -> str:
    """json.dumps for integers of any length."""
    try:
        return json.dumps(value)
    except ValueError:  # an integer of more than 4300 digits
        return _to_json_slowly(value)


def _to_json_slowly(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_to_json_slowly, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_to_json_slowly(item)}" for key, item in value.items()) + "}"
    return integer_text(value) if isinstance(value, int) and not isinstance(value, bool) else json.dumps(value)


def integer_text(value: int) -> str:
    """str() for integers of any length."""
    return format(Decimal(value), "f")


def integer_from(digits: str) -> int:
    """int() for texts of any length."""
    return int(digits) if len(digits) <= _MAX_DIGITS else int(Decimal(digits))
