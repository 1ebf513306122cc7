r"""Compares sets of real numbers: x != 1, (-\infty, 1) \cup (1, \infty) and \mathbb{R} \setminus \{1\} are the same.

The ends of a set may contain names. Two sets are compared at several points, at which names have values (`value`). At a
point, a set is a sorted list of cuts, where the set begins or ends on the number line. The cut (1, 0) is just before 1,
and (1, 1) is just after it. So [1, 2) is the list (1, 0), (2, 0).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction

from envs.grading.math.arithmetic import Undefined
from envs.grading.math.leaf import tree_of
from envs.grading.math.shape import Shape
from envs.grading.math.value import real

NUM_POINTS = 4
MAX_PARTS = 100

Cuts = list[tuple[Fraction | float, int]]

_SETS = frozenset(("interval", "union", "intersection", "difference"))
_INFINITE = (-math.inf, math.inf)
_REALS: Cuts = [(-math.inf, 1), (math.inf, 0)]


def is_set(shape: Shape) -> bool:
    """Whether an answer can only be a set of numbers. A pair in brackets may also be a point."""
    if shape.kind in _SETS or shape.text in (r"\mathbb{R}", r"\emptyset"):
        return True
    if shape.kind in ("or", "and"):
        return all(map(is_set, shape.items))
    if shape.kind != "list" or not any(map(is_set, shape.items)):
        return False
    return all(is_set(item) or item.kind in ("tuple", "set") or item.name for item in shape.items)


def same_set(gold: Shape, answer: Shape) -> bool:
    """Whether two answers are the same set of real numbers.

    No number is both below 1 and above 3. A gold that says "x < 1 and x > 3" means "or"; an answer gets no such help.
    """
    if gold.kind == "list" and gold.brackets == "and":
        gold = replace(gold, brackets=",")
    try:
        return all(_cuts(gold, point) == _cuts(answer, point) for point in range(NUM_POINTS))
    except Undefined:
        return False


def _cuts(shape: Shape, point: int) -> Cuts:
    if shape.text == r"\mathbb{R}" and shape.kind == "leaf":
        return _REALS
    if shape.text in (r"\emptyset", r"\{\}"):
        return []
    if shape.kind in ("interval", "tuple"):
        return _interval(shape, point)
    if shape.kind == "leaf":
        end = _end(shape, point)
        if end in _INFINITE:
            raise Undefined("infinity is no element")
        return [(end, 0), (end, 1)]
    if shape.kind not in (*_SETS, "list", "set", "or", "and") or len(shape.items) > MAX_PARTS:
        raise Undefined("no set of numbers")
    has_sets = shape.kind == "list" and any(map(is_set, shape.items))
    if has_sets and any(item.kind == "leaf" and not item.name and not is_set(item) for item in shape.items):
        raise Undefined("a number beside a condition: x < 1, 2")
    parts = [_cuts(item, point) for item in shape.items]
    if shape.kind in ("intersection", "and"):
        return _combined(parts, all)
    if shape.kind == "difference":
        return _combined(parts, lambda inside: inside[0] and not any(inside[1:]))
    if shape.kind == "list" and all(item.kind in _SETS and item.name for item in shape.items):
        both = _combined(parts, all)
        if all(item.kind == "difference" for item in shape.items) or shape.brackets == "and":
            return both
        if both and shape.brackets != "or":
            return both  # an intersection: x > 1, x < 3, but not x < 1, x > 3
    return _combined(parts, any)


def _interval(shape: Shape, point: int) -> Cuts:
    if len(shape.items) != 2:
        raise Undefined("no interval")
    low, high = (_end(item, point) for item in shape.items)
    cuts = [
        (low, int(shape.brackets[0] == "(" or low in _INFINITE)),
        (high, int(shape.brackets[1] == "]" and high not in _INFINITE)),
    ]
    if cuts[0] >= cuts[1]:
        raise Undefined("an interval whose ends are in the wrong order")
    return cuts


def _end(shape: Shape, point: int) -> Fraction | float:
    text = shape.text.replace(" ", "")
    if text.lstrip("+-") == r"\infty":
        return -math.inf if text[0] == "-" else math.inf
    tree = tree_of(shape.text) if shape.kind == "leaf" else None
    if tree is None or (tree[0] == "name" and tree[1].isupper()):  # a capital is the name of a set
        raise Undefined("no number")
    return real(tree, point)


def _combined(parts: list[Cuts], contains: Callable[[list[bool]], bool]) -> Cuts:
    """Combine sets. `contains` gets a list with True for each set that has a point, and decides for the result."""
    cuts: Cuts = []
    for cut in sorted(set(_flat(parts))):
        inside = [bisect_right(part, cut) % 2 == 1 for part in parts]
        if contains(inside) != len(cuts) % 2:
            cuts.append(cut)
    return cuts


def _flat(parts: list[Cuts]) -> Iterable[tuple[Fraction | float, int]]:
    return (cut for part in parts for cut in part)
