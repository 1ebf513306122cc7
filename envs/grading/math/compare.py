"""Whether two answers of any shape are the same: brackets, order, names and number of parts included.

Conventions, where a convention is needed:

- Lists and sets have no order; points and intervals do, and their brackets count. A bare list may stand for the point
  (1, 2) = 1, 2 and for the set {1, 2} = 1, 2; a point is not a set.
- An answer that lists more or fewer values than the gold is wrong, whatever they are.
- "x = 5" is 5, and so is f(x) = 5; x = 5 is not y = 5. An equation that is no such definition equals only equations
  with the same solutions by a constant factor.
- An inequality for one name is the interval it describes, whichever of the two the gold is.
- An option "(C) 42" is the letter C.
"""

from __future__ import annotations

import re
from dataclasses import replace

from envs.grading.math.clean import key
from envs.grading.math.leaf import Ask, same_leaf, tree_of
from envs.grading.math.shape import Shape, is_letters_only
from envs.grading.math.value import Undefined, evaluate, proportional

MAX_UNORDERED = 60

_OPTION = re.compile(r"\(?([A-J])\)?(?:[).:]+\s*|\s+(?![,=<>+*/^-])|$)(?=[^,]|$)", re.ASCII)
_GOLD_OPTION = re.compile(r"\(([A-J])\)\s*(?=\S)|([A-J])[.):]\s*(?=\S)|([A-J])\s+(?=[A-Z][a-z])", re.ASCII)
_SECOND_OPTION = re.compile(r"(?<![A-Za-z])\(?[A-J](?:[).:]|(?= |$))", re.ASCII)
_LETTER = re.compile(r"\(?([A-J])\)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_SET_LIKE = re.compile(r"\\(?:setminus|backslash|mathbb|cup|cap|begin|pm|Z|mathbf)|[<>=|]|!=")


def same_answer(gold: Shape, answer: Shape, tolerance: float | None, ask: Ask) -> bool:
    """Tell whether an answer is the gold.

    Args:
        tolerance: absolute error that still counts as right, of each number.
        ask: decides about two formulas that only a computer algebra system understands.

    Raises:
        parse.TooLarge: the answer is not worth evaluating.
    """
    if not _names_differ(gold.name, answer.name) and gold.kind == answer.kind and _key(gold) == _key(answer):
        return True
    option = _same_option(gold.text, answer.text)
    if option is not None:
        return option
    if _is_decimal_comma(gold, answer):
        return same_leaf(gold.text.replace(",", "."), answer.text.replace(",", "."), tolerance, ask)
    return _Comparison(tolerance, ask).same(gold, answer)


class _Comparison:
    def __init__(self, tolerance: float | None, ask: Ask):
        self._tolerance = tolerance
        self._ask = ask

    def same(self, gold: Shape, answer: Shape) -> bool:
        if _names_differ(gold.name, answer.name):
            return False
        gold, answer = _only_item(gold), _only_item(answer)
        if gold.kind == answer.kind == "leaf":
            return same_leaf(gold.text, answer.text, self._tolerance, self._ask)
        if "relation" in (gold.kind, answer.kind):
            return self._same_relation(gold, answer)
        if {gold.kind, answer.kind} == {"list", "union"} and _is_union(gold) and _is_union(answer):
            return self._unordered(gold.items, answer.items)
        if "list" in (gold.kind, answer.kind) or "set" in (gold.kind, answer.kind):
            return self._same_list(gold, answer)
        if gold.kind == answer.kind == "union":
            return self._unordered(gold.items, answer.items) or self._ask_about(gold, answer)
        if gold.kind == answer.kind and gold.kind in ("tuple", "matrix"):
            return gold.brackets == answer.brackets and self._ordered(gold.items, answer.items)
        if {gold.kind, answer.kind} == {"tuple", "matrix"}:
            point, matrix = (gold, answer) if gold.kind == "tuple" else (answer, gold)
            return "1" in matrix.brackets.split(" x ") and self._ordered(point.items, matrix.items)
        return self._ask_about(gold, answer)

    def _same_list(self, gold: Shape, answer: Shape) -> bool:
        kinds = {gold.kind, answer.kind}
        if kinds <= {"list", "set"}:
            gold, answer = _with_own_names(gold), _with_own_names(answer)
            gold_items, answer_items = _named(gold), _named(answer)
            if gold_items and answer_items:
                return gold_items.keys() == answer_items.keys() and all(
                    self.same(item, answer_items[name]) for name, item in gold_items.items()
                )
            if gold_items or answer_items:
                return self._ordered(gold.items, answer.items)
            return self._unordered(gold.items, answer.items)
        if kinds == {"list", "tuple"}:
            values, point = (gold, answer) if gold.kind == "list" else (answer, gold)
            names = point.name[1:-1].split(",") if point.name.startswith("(") else []
            named = _named(values)
            if named and sorted(named) == sorted(names):
                values = Shape("list", values.text, tuple(named[name] for name in names))
            pair = (values, point) if gold.kind == "list" else (point, values)
            return point.brackets == "()" and self._ordered(pair[0].items, pair[1].items)
        if kinds == {"list", "matrix"} or kinds == {"set", "tuple"} or "leaf" in kinds:
            return False
        return self._ask_about(gold, answer)

    def _ordered(self, gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
        return len(gold) == len(answer) and all(map(self.same, gold, answer))

    def _unordered(self, gold: tuple[Shape, ...], answer: tuple[Shape, ...]) -> bool:
        if len(set(map(_key, gold))) == len(gold):
            answer = tuple({_key(item): item for item in answer}.values())  # saying something twice adds nothing
        if len(gold) != len(answer) or len(gold) > MAX_UNORDERED:
            return len(gold) == len(answer) and sorted(map(_key, gold)) == sorted(map(_key, answer))
        left = list(answer)
        for item in gold:
            twin = next((other for other in left if _key(other) == _key(item)), None)
            twin = twin or next((other for other in left if self.same(item, other)), None)
            if twin is None:
                return False
            left.remove(twin)
        return True

    def _same_relation(self, gold: Shape, answer: Shape) -> bool:
        if gold.kind != "relation" and not gold.name:
            return gold.kind != "leaf" and self._ask_about(gold, answer)
        if answer.kind != "relation" and not answer.name:
            if gold.brackets == "=" and is_letters_only(gold.items[0].text):
                return self.same(gold.items[1], answer)
            return answer.kind != "leaf" and self._ask_about(gold, answer)
        sides = [_difference(shape) for shape in (gold, answer)]
        if None in sides:
            return self._ask_about(gold, answer)
        (gold_sign, gold_tree), (answer_sign, answer_tree) = sides
        if gold_sign != answer_sign:
            return False
        try:
            if not proportional(gold_tree, answer_tree):
                return gold_sign != "=" and self._ask_about(gold, answer)
            return gold_sign in ("=", "!=") or _same_sign(gold_tree, answer_tree)
        except Undefined:
            return False

    def _ask_about(self, gold: Shape, answer: Shape) -> bool:
        for shape in (gold, answer):
            if shape.kind == "leaf" and not _SET_LIKE.search(shape.text):
                return False  # a number or a word is no interval, set or matrix
        return self._ask(gold.text, answer.text)


def _only_item(shape: Shape) -> Shape:
    return shape.items[0] if shape.kind in ("list", "set") and len(shape.items) == 1 else shape


def _is_union(shape: Shape) -> bool:
    """Tell whether this is a union or a list of inequalities: x < 2 or x > 3."""
    return shape.kind == "union" or all(item.kind == "tuple" and item.name for item in shape.items)


def _key(shape: Shape) -> str:
    return key(shape.text)


def _with_own_names(shape: Shape) -> Shape:
    r"""Return x = \pm 2 with both of its values named x."""
    if not shape.name:
        return shape
    return replace(shape, items=tuple(replace(item, name=item.name or shape.name) for item in shape.items))


def _named(shape: Shape) -> dict[str, Shape]:
    """Return the items by name when all have different names; else nothing."""
    items = {item.name: item for item in shape.items}
    return items if len(items) == len(shape.items) > 1 and "" not in items else {}


def _names_differ(gold: str, answer: str) -> bool:
    if not gold or not answer or gold == answer or "\\text" in gold + answer:
        return False
    function = re.compile(r"\w\(.+\)")
    if (gold == "y" and function.fullmatch(answer)) or (answer == "y" and function.fullmatch(gold)):
        return False
    heads = [name.split("_")[0] for name in (gold, answer)]
    one_has_no_subscript = ("_" in gold) != ("_" in answer)
    return not (one_has_no_subscript and heads[0] == heads[1])


def _difference(shape: Shape):
    """Return ("=", "<" or "<=", left side minus right side) of a relation or a definition; None beyond the grammar."""
    if shape.kind == "relation":
        left, sign, right = shape.items[0].text, shape.brackets, shape.items[1].text
    else:
        left, sign, right = shape.name, "=", shape.text.rsplit("=", 1)[-1]
    if sign in (">", ">="):
        left, sign, right = right, {">": "<", ">=": "<="}[sign], left
    trees = tree_of(left), tree_of(right)
    if sign not in ("=", "<", "<=", "!=") or None in trees:
        return None
    return sign, ("subtract", *trees)


def _same_sign(gold_tree, answer_tree) -> bool:
    ratio = evaluate(("divide", gold_tree, answer_tree), 0)
    return ratio.real > 0 if hasattr(ratio, "real") else ratio > 0


def _same_option(gold: str, answer: str) -> bool | None:
    """Compare the letters of a multiple-choice question; None when the gold is no option."""
    letter = _LETTER.fullmatch(gold)
    described = None if letter else _GOLD_OPTION.match(gold)
    if letter is None and (described is None or _SECOND_OPTION.search(gold, described.end())):
        return None
    chosen = _LETTER.fullmatch(answer) or _OPTION.match(answer)
    if chosen and _SECOND_OPTION.search(answer, chosen.end()):
        return False
    gold_letter = letter[1] if letter else next(group for group in described.groups() if group)
    if chosen is None:
        rest = gold[described.end() :] if described else gold
        return None if not described else key(rest).casefold() == key(answer).casefold()
    return chosen[1] == gold_letter


def _is_decimal_comma(gold: Shape, answer: Shape) -> bool:
    """Tell whether one side is a number written like 2,74 and the other a single number."""
    sides = [shape for shape in (gold, answer) if shape.kind == "list"]
    if len(sides) != 1 or {gold.kind, answer.kind} != {"leaf", "list"}:
        return False
    text = sides[0].text
    if not _DECIMAL_COMMA.fullmatch(text):
        return False
    whole, decimals = text.lstrip("+-").split(",")
    return sides[0] is answer or whole == "0" or len(whole) > 3 or len(decimals) > 1
