"""The value of a formula: an exact fraction if possible, else a number with enough digits to show its smallest term.

Two formulas count as equal if they have the same values at many points, as in tests of polynomial identities. The
points are pseudo-random 64-bit fractions, so that a wrong formula agrees at all of them with a probability of about
1e-18 per degree. Over the points, names have values of both signs and several magnitudes, because absolute values,
roots and integer parts differ only in some regions.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache
from hashlib import blake2b

from envs.grading.math.arithmetic import (
    BITS,
    MAX_PRECISION,
    NOISE_BITS,
    Undefined,
    Value,
    is_real,
    magnitude,
    mp,
    operate,
    rounded,
    to_mp,
)
from envs.grading.math.parse import TooLarge, Tree

# Values are compared at NUM_POINTS points. At the first NUM_PRIMARY, names are positive and values may be complex.
NUM_PRIMARY = 2
NUM_POINTS = 9
# At points from this number on, names have whole numbers as values.
WHOLE = 100
WHOLE_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 12, 30, 97, 256, 1000)

_WHOLE_NAMES = frozenset("nmkljpqrNMKL")
_OF_WHOLE_NUMBERS = frozenset(("floor", "ceil", "factorial", "binomial", "gcd", "lcm"))
_RATIONAL = frozenset(("number", "name", "add", "subtract", "multiply", "divide", "negate"))


def same_value(left: Tree, right: Tree) -> bool:
    """Whether two formulas are the same number or the same function of their names.

    They must agree at all points with positive names. At other points a formula may have no real value, as the root of
    a negative number; then the two need not agree. So x and |x| differ, but ln(x^2) and 2 ln(x) do not. `\\log` without
    a base may be natural or decimal; one of the two must make the formulas equal.

    Raises:
        Undefined: a formula has no value.
        TooLarge: a value exceeds the limits of `arithmetic`.
    """
    bases = (None, 10) if _has(left, {"log"}) or _has(right, {"log"}) else (None,)
    return any(all(_same_at(left, right, point, base) for point in _points(left, right)) for base in bases)


def evaluate(tree: Tree, point: int) -> Value:
    """Return the value of a formula at one of the points.

    Raises:
        Undefined: the formula has no value.
        TooLarge: the value or that of a part exceeds the limits of `arithmetic`.
    """
    return _Evaluation(point, None, BITS).value(tree)


def real(tree: Tree, point: int = 0) -> Fraction:
    """Return the value of a formula at one of the points, rounded so that equal values are equal fractions.

    Raises:
        Undefined: the formula has no value, or the value is not real.
        TooLarge: as in `evaluate`.
    """
    return rounded(evaluate(tree, point))


@lru_cache(maxsize=1024)
def names(tree: Tree) -> frozenset[str]:
    """Return the names in a formula."""
    if tree[0] == "name":
        return frozenset((tree[1],))
    return frozenset().union(*map(names, _parts(tree)))


def replaced(tree: Tree, name: str, by: Tree | int) -> Tree:
    """Replace a name in a formula by another formula or a number."""
    if tree == ("name", name):
        return by if isinstance(by, tuple) else ("number", Fraction(by))
    return tuple(replaced(part, name, by) if isinstance(part, tuple) else part for part in tree)


def _points(*trees: Tree) -> range:
    if not any(map(names, trees)):
        return range(1)
    if any(_has(tree, _OF_WHOLE_NUMBERS) or _alternates(tree) for tree in trees):
        return range(WHOLE, WHOLE + len(WHOLE_NUMBERS))
    return range(NUM_PRIMARY if all(map(_is_rational, trees)) else NUM_POINTS)


def _same_at(left: Tree, right: Tree, point: int, log_base: int | None) -> bool:
    """Whether two formulas have the same value at a point, or the point is not primary and one has no real value."""
    bits = BITS
    while True:
        states = [_Evaluation(point, log_base, bits), _Evaluation(point, log_base, bits)]
        values = [state.value_or_none(tree) for tree, state in zip((left, right), states, strict=True)]
        if None in values:
            if values == [None, None] and point % WHOLE == 0:
                raise Undefined("no value")
            return values == [None, None] or point % WHOLE >= NUM_PRIMARY
        if point % WHOLE >= NUM_PRIMARY and any(state.left_reals for state in states):
            return True
        if all(isinstance(value, Fraction) for value in values):
            return values[0] == values[1]
        high = max(state.high for state in states)
        span = high - min(state.low for state in states)
        if 2 * span + 100 <= bits:
            error = abs(to_mp(values[0]) - to_mp(values[1]))
            return bool(error <= mp.ldexp(1, max(high, *map(magnitude, values)) - bits + BITS - NOISE_BITS))
        bits = 2 * span + 200
        if bits > MAX_PRECISION:
            raise TooLarge("many digits")


class _Evaluation:
    """One evaluation. It records the largest and smallest binary exponent, and whether a value was not real."""

    def __init__(self, point: int, log_base: int | None, bits: int):
        self._point = point
        self._log_base = log_base
        mp.prec = bits
        self.high = self.low = 0
        self.left_reals = False

    def value(self, tree: Tree) -> Value:
        match tree:
            case ("number", value):
                return value
            case ("name", name):
                return _at(name, self._point)
            case ("constant", name):
                return +mp.pi if name == "pi" else mp.exp(1)
            case ("imaginary",):
                return mp.mpc(0, 1)
            case ("log", argument):
                base = ("exp", ("number", Fraction(1))) if self._log_base is None else ("number", Fraction(10))
                return self.value(("divide", ("ln", argument), ("ln", base)))
        operation = tree[0]
        values = [self.value(part) for part in tree[1:]]
        value = operate(operation, values)
        if not self.left_reals and not is_real(value):
            self.left_reals = all(map(is_real, values))
        if value != 0 and (operation not in ("add", "subtract") or isinstance(value, Fraction)):
            exponent = magnitude(value)
            self.high, self.low = max(self.high, exponent), min(self.low, exponent)
        return value

    def value_or_none(self, tree: Tree) -> Value | None:
        try:
            return self.value(tree)
        except Undefined:
            return None


def _parts(tree: Tree) -> list[Tree]:
    return [part for part in tree[1:] if isinstance(part, tuple)]


def _has(tree: Tree, operations: set[str] | frozenset[str]) -> bool:
    return tree[0] in operations or any(_has(part, operations) for part in _parts(tree))


def _alternates(tree: Tree) -> bool:
    """Whether a formula contains a power of -1 such as (-1)^n."""
    if tree[0] == "power" and tree[1] == ("negate", ("number", Fraction(1))) and names(tree[2]):
        return True
    return any(map(_alternates, _parts(tree)))


def _is_rational(tree: Tree) -> bool:
    if tree[0] == "power":
        return tree[2][0] == "number" and tree[2][1].denominator == 1 and _is_rational(tree[1])
    return tree[0] in _RATIONAL and all(map(_is_rational, _parts(tree)))


@cache
def _hashed(name: str, point: int) -> Fraction:
    digest = blake2b(f"{point} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return Fraction(int.from_bytes(digest, "big"), 2**64)


def _at(name: str, point: int) -> Value:
    """Return the value of a name at a point. Its size and sign, and whether it is whole, depend on the point."""
    hashed = _hashed(name[:100], point)
    if point >= WHOLE and (name in _WHOLE_NAMES or point % 3 == 0):
        start = WHOLE_NUMBERS[point - WHOLE]
        return Fraction(start + int(hashed * min(3 * start, 2000 - 2 * start + 4)))
    point %= WHOLE
    sign = -1 if point in (3, 6) or (point in (2, 5, 8) and hashed < Fraction(1, 2)) else 1
    size = 2 if point < 4 else 10 if point < 7 else 100
    return sign * to_mp(hashed * size + (Fraction(1, 2) if point < 4 else 3))
