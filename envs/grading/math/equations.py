"""Compares the solutions of two equations or inequalities in several variables."""

from __future__ import annotations

from fractions import Fraction

from envs.grading.math.arithmetic import Undefined
from envs.grading.math.leaf import product_tree, tree_of
from envs.grading.math.parse import Tree
from envs.grading.math.relations import FLIPPED
from envs.grading.math.shape import Shape
from envs.grading.math.value import names, real, replaced

NUM_POINTS = 4


def same_equation(gold: Shape, answer: Shape) -> bool:
    """Whether two equations or inequalities differ only by a factor, or one is the other solved for a variable."""
    sides = _difference(gold), _difference(answer)
    if None in sides:
        return False
    (gold_sign, gold_tree), (answer_sign, answer_tree) = sides
    if gold_sign != answer_sign or names(gold_tree) != names(answer_tree) or len(names(gold_tree)) < 2:
        return False
    try:
        ratios = {real(("divide", gold_tree, answer_tree), point) for point in range(NUM_POINTS)}
        if len(ratios) == 1 and 0 not in ratios:
            return gold_sign in ("=", "!=") or ratios.pop() > 0
        return gold_sign == "=" and (_solves(gold, answer_tree) or _solves(answer, gold_tree))
    except Undefined:
        return False


def _difference(shape: Shape) -> tuple[str, Tree] | None:
    """Return the sign of a relation or definition and its left minus its right side; None for other shapes."""
    if shape.kind == "relation" and len(shape.items) == 2:
        left, sign, right = shape.items[0].text, shape.brackets, shape.items[1].text
    elif shape.kind == "leaf" and shape.name:
        left, sign, right = shape.name, "=", shape.text
    else:
        return None
    if sign in (">", ">="):
        left, sign, right = right, FLIPPED[sign], left
    trees = [product_tree(side) for side in (left, right)]
    return (sign, ("subtract", *trees)) if sign in ("=", "<", "<=", "!=") and None not in trees else None


def _solves(definition: Shape, equation: Tree) -> bool:
    r"""Whether a definition is an equation that was solved for its name.

    An example is \rho = \sqrt{3} / \sin\theta for \rho \sin\theta = \sqrt{3}. The equation must be linear in the name,
    so that it has no other solution.
    """
    name, value = tree_of(definition.name), product_tree(definition.text)
    if definition.kind != "leaf" or None in (name, value) or name[0] != "name":
        return False
    if not names(value) or name[1] in names(value):
        return False
    at_value, at_zero, at_double = (
        replaced(equation, name[1], by) for by in (value, 0, ("multiply", ("number", Fraction(2)), value))
    )
    return all(
        real(at_value, point) == 0 != real(at_zero, point) == -real(at_double, point) for point in range(NUM_POINTS)
    )
