"""Finds the shape of equations and inequalities: a named value, a set of numbers, or a plain relation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from envs.grading.math.arithmetic import Undefined
from envs.grading.math.clean import key
from envs.grading.math.leaf import Rules, same_leaf, tree_of
from envs.grading.math.parse import UNEVALUATED, TooLarge
from envs.grading.math.shape import Shape, is_name, is_variable, leaf
from envs.grading.math.value import names, real, replaced

FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
# The largest relative error of an approximate value.
MAX_ROUGH = Fraction(1, 20)
REALS = leaf(r"\mathbb{R}")

_KNOWN = re.compile(r"\\(?:frac|sqrt|pi|binom|cdot|sin|cos|tan|ln|log|lfloor|rfloor|text\{[^{}]*\})(?![a-zA-Z])")
_BASED = re.compile(r"\d\)?_")
_OPERATION = re.compile(r"(?<=.)[-+*^]")
_ABSOLUTE = re.compile(r"\|([a-z])\|")

Read = Callable[[str], Shape]


def relation(sides: list[str], signs: list[str], read: Read) -> Shape:
    """Return the shape of a chain of sides with signs between them; `read` returns the shape of a part."""
    if "≈" in signs:
        exact = _without_rough_value(sides, signs)
        if exact is None:
            return _plain(sides, signs)
        sides, signs = exact
    if not signs:
        return read(sides[0])
    if set(signs) == {"="} or signs == [r"\in"]:
        return _equation(sides, signs, read)
    if set(signs) <= FLIPPED.keys() and any(map(_ABSOLUTE.fullmatch, sides)):
        return _of_absolute_value(sides, signs, read) or _plain(sides, signs)
    if len(signs) == 1:
        return _single(sides[0], signs[0], sides[1], read) or _plain(sides, signs)
    return _between(_joined(sides, signs), sides, signs) or _plain(sides, signs)


def _plain(sides: list[str], signs: list[str]) -> Shape:
    return Shape("relation", _joined(sides, signs), tuple(map(leaf, sides)), brackets=" ".join(signs))


def _joined(sides: list[str], signs: list[str]) -> str:
    return "".join(part for pair in zip(sides, [*signs, ""], strict=True) for part in pair)


def _without_rough_value(sides: list[str], signs: list[str]) -> tuple[list[str], list[str]] | None:
    r"""Return a chain up to \approx; None if the value after it is no approximation, as 1.41 is for \sqrt{2}."""
    place = signs.index("≈")
    if place == 0 and is_name(sides[0]):
        return sides[:2], ["="]
    distance = 0 if is_name(sides[0]) else _distance(sides[place], sides[place + 1])
    if distance is None or distance > MAX_ROUGH:
        return None
    return sides[: place + 1], signs[:place]


def _equation(sides: list[str], signs: list[str], read: Read) -> Shape:
    left, right = sides[0], sides[-1]
    if is_name(left):
        name, value = left, right
    elif signs[0] == "=" and is_variable(right):
        name, value = right, sides[-2]
    elif signs[0] == "=" and (UNEVALUATED.match(left) or _is_calculation(left, right)):
        name, value = "", right
    else:
        return Shape("relation", _joined(sides, signs), (leaf(left), leaf(right)), brackets="=")
    results = [side for side in sides if not _OPERATION.search(side) and re.search(r"\d", side) and not is_name(side)]
    if not all(map(_may_be_equal, results, results[1:])):
        return _plain(sides, signs)  # a chain that contradicts itself: x = 9 = 5
    return replace(read(value), name=key(name))


def _is_calculation(left: str, right: str) -> bool:
    """Whether the right side is the result of the left side: 2+4 = 6, but not 7 = 34."""
    if re.search("[A-Za-z]", _KNOWN.sub("", left)) or _BASED.search(left + right):
        return False  # 51_{10} = 201_5 is not a calculation
    trees = tree_of(left), tree_of(right)
    if trees[1] is None and r"\text" not in left + right:
        return trees[0] is None
    return (trees[1] is None or not names(trees[1])) and _may_be_equal(left, right)


def _may_be_equal(one: str, other: str) -> bool:
    """Whether two numbers are equal, or nearly equal and the second is a decimal, or too large to be compared."""
    if r"\text" in one + other:
        return same_leaf(one, other, Rules())
    distance = _distance(one, other)
    return distance is None or distance == 0 or ("." in other and distance <= MAX_ROUGH)


def _distance(one: str, other: str) -> Fraction | None:
    """Return the distance of two numbers relative to the first; None if one is no number, or too large."""
    try:
        trees = tree_of(one), tree_of(other)
        if None in trees or any(map(names, trees)):
            return None
        left, right = map(real, trees)
    except Undefined:
        return Fraction(1)
    except TooLarge:
        return None
    return abs(left - right) / abs(left) if left else Fraction(left != right)


def _single(left: str, sign: str, right: str, read: Read) -> Shape | None:
    """Return the shape of a relation with one name: x < 3 is an interval, x != 3 a difference of sets. Else None."""
    text = f"{left}{sign}{right}"
    if is_variable(right) and not is_name(left):
        left, sign, right = right, FLIPPED.get(sign, sign), left
    if not is_name(left) or is_variable(right):
        return _without_constant(text, left, sign, right)
    if sign in ("!=", r"\notin"):
        points = read(right)
        removed = points if points.kind in ("list", "set", "union", "tuple") else Shape("set", right, (points,))
        return Shape("difference", text, (REALS, removed), key(left))
    return _half_line(text, left, sign, right) if sign in FLIPPED else None


def _without_constant(text: str, left: str, sign: str, right: str) -> Shape | None:
    """Return the interval of an inequality such as x - 2 >= 0 or -x <= -2, which is x >= 2; None for others."""
    trees = tree_of(left), tree_of(right)
    if None in trees or sign not in FLIPPED:
        return None
    difference = ("subtract", *trees)
    found = names(difference)
    if len(found) != 1:
        return None
    (name,) = found
    try:
        start, one, two = (real(replaced(difference, name, value)) for value in (0, 1, 2))
    except (Undefined, TooLarge):
        return None
    slope = one - start
    if slope not in (1, -1) or two - one != slope:
        return None
    return _half_line(text, name, sign if slope == 1 else FLIPPED[sign], str(-start * slope))


def _half_line(text: str, name: str, sign: str, end: str) -> Shape:
    sides, signs = (
        ([r"-\infty", name, end], ["<", sign]) if "<" in sign else ([end, name, r"\infty"], [FLIPPED[sign], "<"])
    )
    return _between(text, sides, signs)


def _between(text: str, sides: list[str], signs: list[str]) -> Shape | None:
    """Return 1 <= x < 2 as an interval; None for anything else."""
    if all(sign in (">", ">=") for sign in signs):
        sides, signs = sides[::-1], [FLIPPED[sign] for sign in reversed(signs)]
    if len(signs) != 2 or not is_name(sides[1]) or not set(signs) <= {"<", "<="}:
        return None
    brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
    return Shape("interval", text, (leaf(sides[0]), leaf(sides[2])), key(sides[1]), brackets)


def _of_absolute_value(sides: list[str], signs: list[str], read: Read) -> Shape | None:
    """Return the set of all x that meet a condition such as |x| < 3, as the union of x >= 0 and x < 0."""
    name = next(match[1] for side in sides if (match := _ABSOLUTE.fullmatch(side)))
    text = _joined(sides, signs)
    negative = [f"-({side})" if side != f"|{name}|" else name for side in sides], [FLIPPED[sign] for sign in signs]
    halves = (read(text.replace(f"|{name}|", name)), read(f"{name}>=0")), (read(_joined(*negative)), read(f"{name}<0"))
    if any(half[0].kind != "interval" for half in halves):
        return None
    return Shape("union", text, tuple(Shape("intersection", text, half) for half in halves), name)
