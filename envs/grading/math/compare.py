"""Compares two answers of any shape, including their brackets, order, names and number of parts.

`docs/grading.md` lists the conventions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from envs.grading.math.choices import same_choice
from envs.grading.math.clean import key
from envs.grading.math.equations import same_equation
from envs.grading.math.leaf import Rules, same_leaf
from envs.grading.math.number import rational
from envs.grading.math.relations import FLIPPED
from envs.grading.math.sets import is_set, same_set
from envs.grading.math.shape import BOUND, Shape, is_letters_only, is_sum_of_names, point
from envs.grading.math.units import changes_meaning

MAX_UNORDERED = 60

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
# A gold of this form is probably a number with a decimal comma, and not a list of two numbers.
_GOLD_DECIMAL_COMMA = re.compile(r"[-+]?(?:0,\d+|\d{4,},\d+|\d+,\d\d+)")
_WORDS = re.compile(r"\\text\{[^{}]*\}")
_WORDS_BEFORE_A_NAME = re.compile(r"\\text\{([^{}]*)\}\s*[A-Za-z].*")
_FUNCTION_NAME = re.compile(r"([A-Za-z](?:_\w|_\{\w+\})?)\(([A-Za-z])\)")
_UNORDERED = frozenset(("union", "intersection", "or", "and"))


def same_answer(gold: Shape, answer: Shape, rules: Rules) -> bool:
    """Whether an answer equals the gold.

    Raises:
        parse.TooLarge: the answer is too large to be evaluated.
    """
    if not _names_differ(gold.name, answer.name) and gold.kind == answer.kind and _key(gold) == _key(answer):
        return True
    chosen = same_choice(gold, answer)
    if chosen is not None:
        return chosen
    if _is_decimal_comma(gold, answer):
        return same_leaf(gold.text.replace(",", "."), answer.text.replace(",", "."), rules)
    return _Comparison(rules).same(gold, answer)


class _Comparison:
    def __init__(self, rules: Rules):
        self._rules = rules

    def same(self, gold: Shape, answer: Shape) -> bool:
        if _names_differ(gold.name, answer.name):
            return same_equation(gold, answer)
        gold, answer = _only_item(gold), _only_item(answer)
        if gold.kind == answer.kind == "leaf":
            return same_leaf(gold.text, answer.text, self._rules)
        if gold.kind == "leaf" and answer.kind == "list" and answer.brackets == "or":
            return all(self.same(gold, item) for item in answer.items)  # as in 1/2 or 0.5
        if "relation" in (gold.kind, answer.kind):
            return self._same_relation(gold, answer)
        if self._same_structure(gold, answer):
            return True
        if _names_differ(*(" ".join(sorted(_variables(shape))) for shape in (gold, answer))):
            return False
        return (is_set(gold) or is_set(answer)) and same_set(gold, answer)

    def _same_structure(self, gold: Shape, answer: Shape) -> bool:
        kinds = {gold.kind, answer.kind}
        brackets = gold.brackets, answer.brackets
        if kinds <= {"list", "set"}:
            if set(brackets) == {"and", "or"} and all(map(_is_capital, gold.items)):
                return False  # A and C are right; of A or C one is
            if "and" in brackets and any(item.kind == "interval" for item in (*gold.items, *answer.items)):
                return False  # k < 1 and k != 0 is one set, not a list of two answers
            return self._same_list(gold, answer)
        if kinds == {"list", "tuple"}:
            return "()" in brackets and self._ordered(_in_order(gold, answer.name), _in_order(answer, gold.name))
        if kinds == {"tuple", "matrix"}:
            is_vector = any("1" in size.split(" x ") for size in brackets)
            return is_vector and self._ordered(gold.items, answer.items)
        if kinds == {"ratio"}:
            return self._same_ratio(gold.items, answer.items)
        if kinds == {"cases"}:
            return self._unordered(_rows(gold), _rows(answer))
        if gold.kind != answer.kind and kinds != {"interval", "tuple"}:
            return False
        if gold.kind in _UNORDERED:
            return self._unordered(gold.items, answer.items)
        return brackets[0] == brackets[1] and self._ordered(gold.items, answer.items)

    def _same_list(self, gold: Shape, answer: Shape) -> bool:
        gold, answer = _with_own_names(gold), _with_own_names(answer)
        named = _named(gold), _named(answer)
        if all(named):
            return named[0].keys() == named[1].keys() and all(self.same(named[0][n], named[1][n]) for n in named[0])
        return (self._ordered if any(named) else self._unordered)(gold.items, answer.items)

    def _ordered(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        return len(gold) == len(answer) and all(map(self.same, gold, answer))

    def _unordered(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        if len(set(map(_key, gold))) == len(gold):
            answer = tuple({_key(item): item for item in answer}.values())  # repeated items count once
        if len(gold) != len(answer) or len(gold) > MAX_UNORDERED:
            return sorted(map(_key, gold)) == sorted(map(_key, answer))
        left = list(answer)
        for item in gold:
            twins = (other for other in left if _key(other) == _key(item) and not _names_differ(item.name, other.name))
            twin = next(twins, None) or next((other for other in left if self.same(item, other)), None)
            if twin is None:
                return False
            left.remove(twin)
        return True

    def _same_ratio(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool:
        return len(gold) == len(answer) and all(
            same_leaf(f"({one.text})*({answer[0].text})", f"({other.text})*({gold[0].text})", self._rules)
            for one, other in zip(gold, answer, strict=True)
        )

    def _same_relation(self, gold: Shape, answer: Shape) -> bool:
        if answer.kind != "relation" and not answer.name:
            left = gold.items[0].text
            is_asked = gold.brackets == "=" and (is_letters_only(left) or rational(left) is not None)
            return is_asked and self.same(gold.items[-1], answer)
        if gold.kind != "relation" and not gold.name:
            is_asked = answer.brackets == "=" and is_sum_of_names(answer.items[0].text)
            return is_asked and self.same(gold, answer.items[-1])
        if self._same_sides(gold, answer):
            return True
        return same_equation(gold, answer)

    def _same_sides(self, gold: Shape, answer: Shape) -> bool:
        signs = answer.brackets.split()
        flipped = [FLIPPED.get(sign, sign) for sign in reversed(signs)]
        return any(
            gold.brackets.split() == order and self._ordered(gold.items, items)
            for order, items in ((signs, answer.items), (flipped, answer.items[::-1]))
        )


def _key(shape: Shape) -> str:
    return key(shape.text)


def _only_item(shape: Shape) -> Shape:
    return shape.items[0] if shape.kind in ("list", "set") and len(shape.items) == 1 else shape


def _with_own_names(shape: Shape) -> Shape:
    r"""Give the name of a list to its items: both values of x = \pm 2 get the name x."""
    return replace(shape, items=tuple(replace(item, name=item.name or shape.name) for item in shape.items))


def _named(shape: Shape) -> dict[str, Shape]:
    """Return the items by name if all names are different; else an empty dict."""
    items = {item.name: item for item in shape.items}
    return items if len(items) == len(shape.items) > 1 and "" not in items else {}


def _in_order(shape: Shape, order: str) -> Sequence[Shape]:
    """Sort the items by the names of a point: y = 4, x = 3 in the order (x, y)."""
    names = order.strip("()").split(",")
    is_about_point = sorted(names) == sorted(item.name for item in shape.items)
    return sorted(shape.items, key=lambda item: names.index(item.name)) if is_about_point else shape.items


def _variables(shape: Shape) -> set[str]:
    """Return the names of an answer and of its parts."""
    return ({shape.name} | set().union(*map(_variables, shape.items))) - {"", BOUND}


def _names_differ(gold: str, answer: str) -> bool:
    if not gold or not answer or gold == answer:
        return False
    if "\\text" in gold + answer:
        if _has_changing_words(gold) != _has_changing_words(answer):
            return True
        gold, answer = (_WORDS.sub("", name).strip() for name in (gold, answer))
        return bool(gold and answer) and gold != answer
    functions = [_FUNCTION_NAME.fullmatch(name) for name in (gold, answer)]
    if (gold == "y" and functions[1]) or (answer == "y" and functions[0]):
        return False
    one_has_no_subscript = ("_" in gold) != ("_" in answer)
    return not (one_has_no_subscript and gold.split("_")[0] == answer.split("_")[0])


def _has_changing_words(name: str) -> bool:
    r"""Whether a name begins with words that change its meaning: \text{the opposite of }x."""
    words = _WORDS_BEFORE_A_NAME.fullmatch(name)
    return words is not None and changes_meaning(words[1])


def _is_capital(shape: Shape) -> bool:
    return len(shape.text) == 1 and shape.text.isupper()


def _rows(cases: Shape) -> tuple[Shape, ...]:
    return tuple(map(point, zip(cases.items[::2], cases.items[1::2], strict=True)))


def _is_decimal_comma(gold: Shape, answer: Shape) -> bool:
    """Whether one side is a number with a decimal comma, such as 2,74, and the other a single number."""
    if (gold.kind, answer.kind) == ("list", "leaf"):
        return bool(_GOLD_DECIMAL_COMMA.fullmatch(gold.text))
    return (gold.kind, answer.kind) == ("leaf", "list") and bool(_DECIMAL_COMMA.fullmatch(answer.text))
