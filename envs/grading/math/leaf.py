"""Compares two answers without parts: numbers, formulas and words, with or without units.

`docs/grading.md` lists the conventions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

from envs.grading.math.arithmetic import Undefined
from envs.grading.math.clean import key
from envs.grading.math.number import is_rounding, rational, same_based
from envs.grading.math.parse import NotParsed, Tree, parse
from envs.grading.math.quantity import same_quantity, scaled
from envs.grading.math.value import names, real, same_value
from envs.grading.math.words import clock, is_words, letters, same_clock

_CAPITALS = re.compile(r"(?<=[A-Z])\s?(?=[A-Z])")


@dataclass(frozen=True)
class Rules:
    """How answers are compared.

    Attributes:
        tolerance: the absolute error of a number that still counts as right.
        rounded: whether a rounded decimal with enough digits is right for an exact gold.
        percent: whether the question asks for percent, so that 5% is right for 5.
    """

    tolerance: float | None = None
    rounded: bool = True
    percent: bool = False


def same_leaf(gold: str, answer: str, rules: Rules) -> bool:
    """Whether two cleaned formulas without outer commas, relations or brackets are the same answer.

    Raises:
        TooLarge: a formula is too large to be evaluated.
    """
    exact = rational(gold), rational(answer)
    if None not in exact:
        return exact[0] == exact[1] or _is_near(*exact, gold, answer, rules)
    if not gold or not answer:
        return False
    if _is_infinite(gold) or _is_infinite(answer):
        return key(gold).lstrip("+") == key(answer).lstrip("+")
    clocks = clock(gold), clock(answer)
    if any(clocks) and not (None not in clocks and not any(half for _, half, _ in clocks)):
        return None not in clocks and same_clock(*clocks)
    if is_words(gold) or is_words(answer):
        return letters(gold) == letters(answer) and _signs(gold) == _signs(answer)
    based = same_based(gold, answer)
    if based is not None:
        return based
    if any(mark in gold + answer for mark in (r"\text", "°", "mod")):
        return same_quantity(gold, answer, partial(_same_number, rules=rules))
    return _same_number(gold, answer, rules)


@lru_cache(maxsize=4096)
def tree_of(text: str) -> Tree | None:
    """Return the tree of a cleaned formula; None if it is not in the grammar."""
    try:
        return parse(key(text))
    except NotParsed:
        return None


def product_tree(text: str) -> Tree | None:
    """Return the tree of a formula in which adjacent capitals are a product, as P and V in PV = nRT."""
    return tree_of(_CAPITALS.sub("*", text))


def _same_number(gold: str, answer: str, rules: Rules) -> bool:
    if key(gold) == key(answer):
        return True
    has_sign = gold.endswith("%"), answer.endswith("%")
    if not any(has_sign):
        return _same_formula(gold, answer, rules)
    texts = gold.rstrip("%\\ "), answer.rstrip("%\\ ")
    if (has_sign[0] or rules.percent) and same_leaf(*texts, rules):
        return True
    fractions = [_per_cent(text) if sign else text for text, sign in zip(texts, has_sign, strict=True)]
    return not all(has_sign) and same_leaf(*fractions, rules)


def _per_cent(text: str) -> str:
    is_decimal = "." in text and rational(text) is not None  # it must stay a decimal, so that it can be a rounding
    return f"{text}*10^{{-2}}" if is_decimal else scaled(text, Fraction(1, 100))


def _same_formula(gold: str, answer: str, rules: Rules) -> bool:
    trees = tree_of(gold), tree_of(answer)
    if None in trees:
        return False
    if bool(_CAPITALS.search(gold)) != bool(_CAPITALS.search(answer)) and re.search("[a-z]", gold):
        trees = product_tree(gold), product_tree(answer)  # GM m equals G M m, but AB does not equal BA
    try:
        if same_value(*trees):
            return True
        return not any(map(names, trees)) and _is_near(*map(real, trees), gold, answer, rules)
    except Undefined:
        return False


def _is_near(gold: Fraction, answer: Fraction, gold_text: str, answer_text: str, rules: Rules) -> bool:
    """Whether two different numbers are close enough to be the same answer."""
    if rules.tolerance is not None and abs(gold - answer) <= Fraction(rules.tolerance):
        return True
    return rules.rounded and is_rounding(gold, answer, gold_text, answer_text)


def _is_infinite(text: str) -> bool:
    return key(text).lstrip("+-") == r"\infty"


def _signs(text: str) -> tuple[bool, bool, bool]:
    """Signs that change the meaning of words as of numbers: a minus before them, a percent sign, dots after them."""
    return text.lstrip().startswith("-"), "%" in text, text.endswith("...")
