"""The value of a formula: an exact fraction where it has one, else 60 digits at fixed points for its names.

Two formulas with the same values at three points are taken for equal, which is how polynomial identities are tested:
the points are arbitrary 64-bit fractions, so a wrong answer hits all of them with a probability of about 1e-18 per
degree. Nothing here runs for long: numbers beyond `MAX_BITS` bits raise `TooLarge` before they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from hashlib import blake2b
from typing import Any

import mpmath

from envs.grading.math.parse import TooLarge, Tree

DIGITS = 60
MAX_BITS = 20_000
MAX_FACTORIAL = 1_000
POSITIVE_POINTS = (0, 1)
MIXED_POINT = 2

_SAME = 1e-40
_ZERO = 1e-55

_mp = mpmath.MPContext()  # of its own: nobody else's precision changes ours
_mp.dps = DIGITS

Value = Any  # Fraction | mpf | mpc


class Undefined(ValueError):
    """The formula has no value: a division by zero, 0^0, the logarithm of zero."""


def same_value(left: Tree, right: Tree) -> bool:
    """Tell whether two formulas are the same number or the same function of their names.

    Names stand for positive numbers. At one more point, where they stand for positive and negative ones, the values
    must agree if both are real, so that x and |x| differ while ln(x^2) and 2 ln(x) do not. `\\log` without a base is
    natural or decimal, whichever makes them equal.

    Raises:
        Undefined: a formula has no value.
        TooLarge: a value is beyond the limits of this module.
    """
    return any(
        all(_agree(evaluate(left, point, base), evaluate(right, point, base)) for point in POSITIVE_POINTS)
        and _agree_if_real(left, right, base)
        for base in _log_bases(left, right)
    )


def proportional(left: Tree, right: Tree) -> bool:
    """Tell whether left = 0 and right = 0 are one equation because one side is the other times a number."""
    ratios = []
    for point in (*POSITIVE_POINTS, MIXED_POINT):
        numerator, denominator = evaluate(left, point), evaluate(right, point)
        if numerator == 0 or denominator == 0:
            return False
        ratios.append(_divide(numerator, denominator))
    return _agree(ratios[0], ratios[1]) and _agree(ratios[0], ratios[2])


def number(tree: Tree) -> Value | None:
    """Return the value of a formula without names; None for one with names."""
    return None if has_names(tree) else evaluate(tree, POSITIVE_POINTS[0])


def has_names(tree: Tree) -> bool:
    """Tell whether a formula depends on anything."""
    return tree[0] == "name" or any(has_names(part) for part in tree[1:] if isinstance(part, tuple))


def distance(left: Value, right: Value) -> Value:
    """Return |left - right|."""
    return abs(_subtract(left, right))


def _log_bases(left: Tree, right: Tree) -> tuple[int | None, ...]:
    return (None, 10) if _has(left, "log") or _has(right, "log") else (None,)


def _has(tree: Tree, operation: str) -> bool:
    return tree[0] == operation or any(_has(part, operation) for part in tree[1:] if isinstance(part, tuple))


def _agree_if_real(left: Tree, right: Tree, base: int | None) -> bool:
    if not (has_names(left) or has_names(right)):
        return True
    try:
        values = evaluate(left, MIXED_POINT, base), evaluate(right, MIXED_POINT, base)
    except Undefined:
        return True
    return not all(_is_real(value) for value in values) or _agree(*values)


def _is_real(value: Value) -> bool:
    return isinstance(value, Fraction) or abs(_mp.im(value)) <= _ZERO


def _agree(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    left, right = _to_mp(left), _to_mp(right)
    error = abs(left - right)
    return bool(error <= _SAME * max(abs(left), abs(right)) or error <= _ZERO)


def evaluate(tree: Tree, point: int, log_base: int | None = None) -> Value:
    """Return the value of a formula at one of the points.

    Raises:
        Undefined: it has none.
        TooLarge: it is, or something in it is, beyond the limits of this module.
    """
    operation = tree[0]
    if operation == "number":
        return tree[1]
    if operation == "name":
        return _at(tree[1], point)
    if operation == "constant":
        return +_mp.pi if tree[1] == "pi" else _mp.exp(1)
    if operation == "imaginary":
        return _mp.mpc(0, 1)
    values = [evaluate(part, point, log_base) for part in tree[1:]]
    if operation == "log":
        value = _OPERATIONS["ln"](*values)
        return value if log_base is None else _divide(value, _mp.ln(log_base))
    value = _OPERATIONS[operation](*values)
    if isinstance(value, Fraction) and value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLarge("many digits")
    return value


@cache
def _hashed(name: str, point: int) -> Fraction:
    digest = blake2b(f"{point} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return Fraction(int.from_bytes(digest, "big"), 2**64)


def _at(name: str, point: int) -> Value:
    value = _hashed(name[:100], point) * 2 + Fraction(1, 2)
    if point == MIXED_POINT and value < Fraction(2):
        value = -value
    return _to_mp(value)


def _to_mp(value: Value) -> Value:
    if isinstance(value, Fraction):
        return _mp.mpf(value.numerator) / value.denominator
    return value


def _mixed(left: Value, right: Value) -> tuple[Value, Value]:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left, right
    return _to_mp(left), _to_mp(right)


def _add(left: Value, right: Value) -> Value:
    left, right = _mixed(left, right)
    return left + right


def _subtract(left: Value, right: Value) -> Value:
    left, right = _mixed(left, right)
    return left - right


def _multiply(left: Value, right: Value) -> Value:
    left, right = _mixed(left, right)
    return left * right


def _divide(left: Value, right: Value) -> Value:
    if right == 0 or (not isinstance(right, Fraction) and abs(right) <= _ZERO):
        raise Undefined("division by zero")
    left, right = _mixed(left, right)
    return left / right


def _power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if isinstance(exponent, Fraction) and exponent > 0:
            return Fraction(0)
        raise Undefined("zero to the power of zero or less")
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > 1 and abs(exponent) * bits > MAX_BITS:
            raise TooLarge("a power with many digits")
        return base ** int(exponent) if bits > 1 else (base if int(exponent) % 2 else Fraction(1))
    if isinstance(exponent, Fraction) and exponent.denominator % 2 == 1 and _is_real(base) and _mp.re(_to_mp(base)) < 0:
        size = _power(-base, exponent)  # an odd root of a negative number is real
        return -size if exponent.numerator % 2 else size
    base, exponent = _to_mp(base), _to_mp(exponent)
    if abs(exponent * _mp.ln(base)) > MAX_BITS:
        raise TooLarge("a power with many digits")
    return _mp.power(base, exponent)


def _root(radicand: Value, index: Value) -> Value:
    if not isinstance(index, Fraction) or index == 0:
        return _power(radicand, _divide(Fraction(1), index))
    return _power(radicand, 1 / index)


def _factorial(value: Value) -> Value:
    if abs(value) > MAX_FACTORIAL:
        raise TooLarge("the factorial of a large number")
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined("the factorial of a negative number")
        return Fraction(math.factorial(int(value)))
    return _mp.gamma(_to_mp(value) + 1)


def _binomial(total: Value, chosen: Value) -> Value:
    if abs(total) > MAX_FACTORIAL or abs(chosen) > MAX_FACTORIAL:
        raise TooLarge("the binomial coefficient of large numbers")
    if all(isinstance(value, Fraction) and value.denominator == 1 and value >= 0 for value in (total, chosen)):
        return Fraction(math.comb(int(total), int(chosen)))
    return _mp.binomial(_to_mp(total), _to_mp(chosen))


def _logarithm(value: Value) -> Value:
    if value == 0:
        raise Undefined("the logarithm of zero")
    return _mp.ln(_to_mp(value))


def _bounded(function: Callable[[Value], Value], limit: float) -> Callable[[Value], Value]:
    def call(value: Value) -> Value:
        if abs(value) > limit:
            raise TooLarge("a function of a large number")
        try:
            return function(_to_mp(value))
        except (ZeroDivisionError, ValueError, OverflowError):
            raise Undefined("a pole") from None

    return call


def _integer_part(function: Callable[[Fraction], int]) -> Callable[[Value], Value]:
    def call(value: Value) -> Value:
        if not _is_real(value):
            raise Undefined("the integer part of a complex number")
        if not isinstance(value, Fraction):
            value = Fraction(int(_mp.floor(_mp.re(value) * 10**30)), 10**30)
        return Fraction(function(value))

    return call


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negate": lambda value: -value,
    "power": _power,
    "root": _root,
    "factorial": _factorial,
    "binomial": _binomial,
    "abs": abs,
    "floor": _integer_part(math.floor),
    "ceil": _integer_part(math.ceil),
    "ln": _logarithm,
    "exp": lambda value: _power(_mp.exp(1), value),
    "sin": _bounded(_mp.sin, 1e30),
    "cos": _bounded(_mp.cos, 1e30),
    "tan": _bounded(_mp.tan, 1e30),
    "cot": _bounded(_mp.cot, 1e30),
    "sec": _bounded(_mp.sec, 1e30),
    "csc": _bounded(_mp.csc, 1e30),
    "arcsin": _bounded(_mp.asin, 1e30),
    "arccos": _bounded(_mp.acos, 1e30),
    "arctan": _bounded(_mp.atan, 1e30),
    "sinh": _bounded(_mp.sinh, MAX_BITS),
    "cosh": _bounded(_mp.cosh, MAX_BITS),
    "tanh": _bounded(_mp.tanh, MAX_BITS),
}
