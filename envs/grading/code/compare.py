"""Compare the output of a program with the expected one. Both are data: no code of the program is called."""

import json
import math
import re
from collections import deque
from decimal import Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from envs.grading.exact_json import integer_from, parse_json
from envs.grading.sandbox.code_values import from_tree, refuse

REL_TOLERANCE = ABS_TOLERANCE = 1e-6

_DECIMAL = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,18})?", re.IGNORECASE | re.ASCII)
_INTEGER = re.compile(rb"[+-]?\d+", re.ASCII)
# An equal value has about as many characters. The factor allows for tuples, and for floats with all digits.
_MAX_GROWTH = 20
_MAX_EXTRA = 1000
# With this context no number overflows, and a difference has enough digits.
_WIDE = Context(prec=30, Emax=10**18 - 1, Emin=-(10**18) + 1, traps=[InvalidOperation])


def same_text(got: bytes, want: str) -> bool:
    """Compare the text that a program printed, line by line and word by word, as the judges of contests do.

    Blanks around words and empty lines at both ends of the text are ignored. Words are equal byte by byte, with two
    exceptions. If the expected word is a number with a point or an exponent, any finite decimal number within a
    relative or absolute error of 1e-6 is equal, too. If the expected word is an integer, a number with a point or an
    exponent is equal if its value is exactly that integer: 2.0 is 2.
    """
    got_lines, want_lines = got.strip().split(b"\n"), want.encode("utf-8", "surrogatepass").strip().split(b"\n")
    return len(got_lines) == len(want_lines) and all(map(_same_line, got_lines, want_lines))


def same_value(got: bytes, want: str) -> bool:
    """Compare the value that a function returned, as `to_tree` and JSON write it, with the expected JSON.

    Tuples count as lists, and integer keys as the strings that JSON makes of them. A bool is not a number. An integer
    equals a float, a Decimal or a Fraction only if the values are exactly equal. If a float is expected, a relative or
    absolute error of 1e-6 is allowed. NaN is not equal to any value.
    """
    if len(got) > _MAX_GROWTH * len(want) + _MAX_EXTRA:
        return False
    try:
        value = from_tree(parse_json(got.decode()), refuse)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):  # the sandbox does not write this
        return False
    return _same(value, _expected(want))


def _expected(want: str) -> Any:
    """Numbers beyond the range of floats are kept: they do not become infinity."""
    return json.loads(want, parse_int=integer_from, parse_float=_float_or_decimal)


def _float_or_decimal(text: str) -> float | Decimal:
    value = float(text)
    return value if math.isfinite(value) else Decimal(text)


def _same_line(got: bytes, want: bytes) -> bool:
    if got == want:
        return True
    got_words, want_words = got.split(), want.split()
    return len(got_words) == len(want_words) and all(map(_same_word, got_words, want_words))


def _same_word(got: bytes, want: bytes) -> bool:
    if got == want:
        return True
    if not _DECIMAL.fullmatch(want) or not _DECIMAL.fullmatch(got):
        return False
    if _INTEGER.fullmatch(want):
        return not _INTEGER.fullmatch(got) and Decimal(got.decode()) == Decimal(want.decode())
    return _is_close(_number(got), _number(want))


def _number(word: bytes) -> float | Decimal:
    return _float_or_decimal(word.decode())


def _same(got: Any, want: Any) -> bool:
    if isinstance(want, list):
        return isinstance(got, list | tuple | deque) and len(got) == len(want) and all(map(_same, got, want))
    if isinstance(want, dict):
        if not isinstance(got, dict) or not all(type(key) in (str, int) for key in got):
            return False
        got = {str(key): value for key, value in got.items()}
        return got.keys() == want.keys() and all(_same(got[key], want[key]) for key in want)
    if isinstance(want, float | Decimal) and type(got) in (int, float, Decimal, Fraction):
        return _is_close(got, want)
    if type(want) is int:
        return type(got) in (int, float, Decimal, Fraction) and got == want
    return type(got) is type(want) and got == want


def _is_close(got: int | float | Decimal | Fraction, want: float | Decimal) -> bool:
    if isinstance(got, float | Decimal) and not Decimal(got).is_finite():
        return got == want
    try:
        if isinstance(got, int | Fraction | float) and isinstance(want, float):
            return math.isclose(got, want, rel_tol=REL_TOLERANCE, abs_tol=ABS_TOLERANCE)
    except OverflowError:  # an integer beyond the range of floats, and a float
        return False
    return _is_close_decimal(_decimal(got), _decimal(want))


def _is_close_decimal(got: Decimal, want: Decimal) -> bool:
    largest = _WIDE.max(_WIDE.abs(got), _WIDE.abs(want))
    allowed = _WIDE.max(_WIDE.multiply(largest, Decimal(str(REL_TOLERANCE))), Decimal(str(ABS_TOLERANCE)))
    return _WIDE.abs(_WIDE.subtract(got, want)) <= allowed


def _decimal(value: int | float | Decimal | Fraction) -> Decimal:
    if isinstance(value, Fraction):
        return _WIDE.divide(Decimal(value.numerator), Decimal(value.denominator))
    return Decimal(value)
