"""Is the output of a program the expected one? Only data is looked at: what a program returns is never called."""

import math
import re
from typing import Any

from envs.grading.exact_json import parse_json
from envs.grading.sandbox.code_values import from_tree, refuse

REL_TOLERANCE = ABS_TOLERANCE = 1e-6

_DECIMAL = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_INTEGER = re.compile(rb"[+-]?\d+", re.ASCII)
# An equal value has about as many characters; the factor leaves room for tuples, and for floats with all digits.
_MAX_GROWTH = 20
_MAX_EXTRA = 1000


def same_text(got: bytes, want: str) -> bool:
    """Compare what a program printed, line by line and word by word, as the judges of programming contests do.

    Blanks at both ends of a line or between words do not count, nor do empty lines at both ends of the text. Words
    are equal byte by byte; but where the expected word is a number with a point or an exponent, any finite decimal
    number within a relative or absolute error of 1e-6 is equal too. An integer must be printed as it is expected.
    """
    got_lines, want_lines = got.strip().split(b"\n"), want.encode("utf-8", "surrogatepass").strip().split(b"\n")
    return len(got_lines) == len(want_lines) and all(map(_same_line, got_lines, want_lines))


def same_value(got: bytes, want: str) -> bool:
    """Compare what a function returned, as `to_tree` and JSON write it, with the expected JSON.

    Tuples count as lists, and integers as keys count as the text that JSON makes of them. A bool is no number. An
    integer equals a float only exactly; where a float is expected, a relative or absolute error of 1e-6 is allowed.
    NaN equals nothing.
    """
    if len(got) > _MAX_GROWTH * len(want) + _MAX_EXTRA:
        return False
    try:
        value = from_tree(parse_json(got.decode()), refuse)
    except (ValueError, TypeError, AttributeError, RecursionError):  # not what the sandbox writes
        return False
    return _same(value, parse_json(want))


def _same_line(got: bytes, want: bytes) -> bool:
    if got == want:
        return True
    got_words, want_words = got.split(), want.split()
    return len(got_words) == len(want_words) and all(map(_same_word, got_words, want_words))


def _same_word(got: bytes, want: bytes) -> bool:
    if got == want:
        return True
    if _INTEGER.fullmatch(want) or not _DECIMAL.fullmatch(want) or not _DECIMAL.fullmatch(got):
        return False
    return _is_close(float(got), float(want))


def _same(got: Any, want: Any) -> bool:
    if isinstance(want, list):
        return isinstance(got, list | tuple) and len(got) == len(want) and all(map(_same, got, want))
    if isinstance(want, dict):
        if not isinstance(got, dict) or not all(type(key) in (str, int) for key in got):
            return False
        got = {str(key): value for key, value in got.items()}
        return got.keys() == want.keys() and all(_same(got[key], want[key]) for key in want)
    if isinstance(want, float) and type(got) in (int, float):
        return _is_close(got, want)
    if type(want) is int:
        return type(got) in (int, float) and got == want
    return type(got) is type(want) and got == want


def _is_close(got: float, want: float) -> bool:
    try:
        return math.isclose(got, want, rel_tol=REL_TOLERANCE, abs_tol=ABS_TOLERANCE)
    except OverflowError:  # an integer beyond all floats
        return False
