"""The operations in formulas, with limits on their cost. Values are exact fractions, or else numbers of mpmath."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

from envs.grading.math.parse import TooLarge
from envs.grading.math.symbols import FUNCTIONS

BITS = 200
MAX_BITS = 70_000
MAX_PRECISION = 50_000
MAX_FACTORIAL = 3_000
# The gamma function takes minutes for large numbers and many digits, and does not end near a pole of complex numbers.
MAX_GAMMA, MAX_GAMMA_BITS = 200, 800
MAX_WORK = 40_000_000
MAX_ANGLE = 10**30
# Rounding errors are smaller than 2^-NOISE_BITS, so that the first SURE_BITS bits of a value are right.
NOISE_BITS = 160
SURE_BITS = 150

Value = Any  # Fraction | mpf | mpc

mp = mpmath.MPContext()  # an own context, so that other code cannot change its precision
mp.prec = BITS


class Undefined(ValueError):
    """The formula has no value, as with a division by zero, 0^0 or the logarithm of zero."""


class _Work:
    """The remaining amount of arithmetic for one completion.

    It corresponds to about a second, and does not depend on the speed of the machine.
    """

    left = MAX_WORK

    def spend(self, value: Value) -> None:
        if isinstance(value, Fraction):
            size = value.numerator.bit_length() + value.denominator.bit_length()
            if size > 2 * MAX_BITS:
                raise TooLarge("many digits")
            self.left -= size * size // 20_000
        else:
            self.left -= mp.prec * mp.prec // BITS
        if self.left < 0:
            raise TooLarge("much arithmetic")


_work = _Work()


def begin_completion() -> None:
    """Reset the amount of arithmetic to `MAX_WORK`."""
    _work.left = MAX_WORK


def operate(operation: str, values: list[Value]) -> Value:
    """Return the value of an operation.

    Raises:
        Undefined: the operation has no value.
        TooLarge: the value exceeds the limits of this module.
    """
    value = _OPERATIONS[operation](*values)
    _work.spend(value)
    return value


def magnitude(value: Value) -> int:
    """Return the binary exponent of a value."""
    if value == 0:
        return 0
    if isinstance(value, Fraction):
        return value.numerator.bit_length() - value.denominator.bit_length()
    return int(mp.mag(value))


def is_real(value: Value) -> bool:
    """Whether the imaginary part of a value is zero within rounding errors."""
    return isinstance(value, Fraction) or abs(mp.im(value)) <= mp.ldexp(1, -NOISE_BITS)


def rounded(value: Value) -> Fraction:
    """Round a real value to the digits that are certainly right, so that equal values become equal fractions.

    Raises:
        Undefined: the value is not real.
    """
    if isinstance(value, Fraction):
        return value
    if not is_real(value):
        raise Undefined("the order of complex numbers")
    value = mp.re(value)
    if abs(value) < mp.ldexp(1, -NOISE_BITS):
        return Fraction(0)
    with mp.workprec(SURE_BITS):
        digits, exponent = (+value).man_exp
    sign = -1 if value < 0 else 1
    return sign * abs(digits) * Fraction(2) ** exponent


def to_mp(value: Value) -> Value:
    """Convert a value to a number of mpmath."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _mixed(function: Callable[[Value, Value], Value]) -> Callable[[Value, Value], Value]:
    def call(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return function(left, right)
        return function(to_mp(left), to_mp(right))

    return call


def _divide(left: Value, right: Value) -> Value:
    if right == 0 or (not isinstance(right, Fraction) and abs(right) < mp.ldexp(1, -NOISE_BITS)):
        raise Undefined("division by zero")
    return left / right


def _power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if isinstance(exponent, Fraction) and exponent > 0:
            return Fraction(0)
        raise Undefined("zero to the power of zero or less")
    if isinstance(base, Fraction) and _is_whole(exponent):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits > 1 and abs(exponent) * bits > MAX_BITS:
            raise TooLarge("a power with many digits")
        return base ** int(exponent)
    if isinstance(exponent, Fraction) and exponent.denominator % 2 == 1 and is_real(base) and mp.re(to_mp(base)) < 0:
        size = _power(-base, exponent)  # an odd root of a negative number is real
        return -size if exponent.numerator % 2 else size
    base, exponent = to_mp(base), to_mp(exponent)
    if abs(exponent * mp.ln(base)) > MAX_BITS:
        raise TooLarge("a power with many digits")
    return mp.power(base, exponent)


def _function(numeric: Callable[..., Value], limit: float, exact: Callable[..., int] | None = None) -> Callable:
    """Return a function for arguments up to `limit`. If all arguments are whole numbers it uses `exact`, if given."""

    def call(*values: Value) -> Value:
        if any(abs(value) > limit for value in values):
            raise TooLarge("a function of a large number")
        try:
            if exact and all(map(_is_whole, values)):
                return Fraction(exact(*map(int, values)))
            value = numeric(*map(to_mp, values))
        except (ZeroDivisionError, ValueError, OverflowError):
            raise Undefined("no value") from None
        if not mp.isfinite(value) or (limit == MAX_ANGLE and mp.mag(value) > NOISE_BITS):
            raise Undefined("a pole")
        is_noise = magnitude(value) - magnitude(values[0]) < BITS - NOISE_BITS - mp.prec  # as for sin(pi)
        return Fraction(0) if is_noise else value

    return call


def _of_whole_numbers(*_: Value) -> Value:
    raise ValueError("only whole numbers have divisors")


def _gamma(function: Callable[..., Value]) -> Callable[..., Value]:
    """Return a function such as the factorial, with stricter limits for arguments that are not whole numbers."""

    def call(*values: Value) -> Value:
        values = tuple(map(rounded, values))
        is_large = mp.prec > MAX_GAMMA_BITS or any(abs(value) > MAX_GAMMA for value in values)
        if is_large and not all(map(_is_whole, values)):
            raise TooLarge("the factorial of a number that is not whole")
        return function(*values)

    return call


def _is_whole(value: Value) -> bool:
    return isinstance(value, Fraction) and value.denominator == 1


_TRANSCENDENTAL = {
    name: _function(getattr(mp, name.replace("arc", "a")), MAX_BITS if name.endswith("h") else MAX_ANGLE)
    for name in (command[1:] for command in FUNCTIONS)
    if hasattr(mp, name.replace("arc", "a"))
}
_OPERATIONS: dict[str, Callable[..., Value]] = _TRANSCENDENTAL | {
    "add": _mixed(operator.add),
    "subtract": _mixed(operator.sub),
    "multiply": _mixed(operator.mul),
    "divide": _mixed(_divide),
    "negate": operator.neg,
    "power": _power,
    "root": lambda radicand, index: _power(radicand, _mixed(_divide)(Fraction(1), index)),
    "abs": abs,
    "max": lambda *values: max(values, key=rounded),
    "min": lambda *values: min(values, key=rounded),
    "floor": lambda value: Fraction(math.floor(rounded(value))),
    "ceil": lambda value: Fraction(math.ceil(rounded(value))),
    "gcd": _function(_of_whole_numbers, math.inf, math.gcd),
    "lcm": _function(_of_whole_numbers, math.inf, math.lcm),
    "factorial": _gamma(_function(mp.factorial, MAX_FACTORIAL, math.factorial)),
    "binomial": _gamma(_function(mp.binomial, MAX_FACTORIAL, math.comb)),
    "ln": _function(mp.ln, math.inf),
    "exp": lambda value: _power(mp.exp(1), value),
}
