"""Whether two single answers are the same: numbers, formulas, words, with or without units.

Conventions, where a convention is needed:

- n% equals both n and n/100, so that "50%" and "0.5" and, for "what per cent?", "50" agree.
- A unit counts only when both sides have a known one: 5 = 5 cm, but 5 m != 5 cm. Currencies and degrees are dropped.
- A number with a base, 1010_2, equals the same digits without a base, and no other notation of its value.
- A decimal equals a number that it is not exactly when it has six decimals and six significant digits and is that
  number rounded or cut off: 1.414214 = sqrt(2), 1.4142 != sqrt(2). Two decimals, fractions or integers are compared
  exactly otherwise.
- Words are compared without regard to case and blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from envs.grading.math.clean import key
from envs.grading.math.parse import MAX_DIGITS, NotParsed, Tree, parse
from envs.grading.math.symbols import COUNTED, UNIT_OF
from envs.grading.math.value import Undefined, distance, number, same_value

Ask = Callable[[str, str], bool]

_RATIONAL = re.compile(r"([-+]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:/(\d+))?")
_LATEX_FRACTION = re.compile(r"([-+]?)\\frac\{?([-+]?\d+)\}?\{?([-+]?\d+)\}?")
_LONG_DECIMAL = re.compile(r"[-+]?\d*\.(\d{6,})")
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?")
_CLOCK = re.compile(r"(\d{1,2}:\d\d(?::\d\d)?)\s*(?:\\text\{)?\s*((?:[ap]\.?m\.?)?)\}?", re.IGNORECASE)
_WORDS = re.compile(r"\\text\{([^{}]*)\}|([A-Za-z][A-Za-z'-]{3,}(?:[ -][A-Za-z'-]+)*|[Yy]es|[Nn]o)")
_TRAILING_UNIT = re.compile(
    r"\s*(?:\\text\{([^{}]*)\}|(?<=[\d)}\s])([A-Za-z][A-Za-z/ .]*))\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?\Z"
)
_TWO_NUMBERS = re.compile(r"\d \d")
_MODULUS = re.compile(r"\s?(?:\\[pb]mod\s?\{?|\(?\\text\{\s?\(?mod\s?\}?|\(?mod)\s?(\d+)\s?[)}]*\Z")
_TEMPERATURE = re.compile(r"(?<=[\d}])\s?°\s?(?:\\text\{)?([CF])\}?\Z")
_NO_UNIT = re.compile(r"\b(?:or|and|not|more|less|least|most|than|to|about|except|but|up)\b", re.IGNORECASE)
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_UNIT_TAIL_CHARS = 60


def same_leaf(gold: str, answer: str, tolerance: float | None, ask: Ask) -> bool:
    """Tell whether two cleaned formulas without outer commas, relations or brackets are the same answer.

    Args:
        ask: decides what the grammar of `parse` does not cover.

    Raises:
        TooLarge: a formula is not worth evaluating.
    """
    exact = _rational(gold), _rational(answer)
    if None not in exact:
        return _close(*exact, gold, answer, tolerance)
    if key(gold) == key(answer):
        return True
    if _infinite(gold) or _infinite(answer):
        return key(gold).lstrip("+") == key(answer).lstrip("+")
    if not gold or not answer:
        return False
    clocks = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(answer)
    if None not in clocks:
        return _same_clock(*clocks)
    if _is_word(gold) or _is_word(answer):
        return _same_words(gold, answer)
    based = _BASED.fullmatch(key(gold)), _BASED.fullmatch(key(answer))
    if any(based):
        return _same_digits(*based, gold, answer)
    (gold_bare, gold_unit), (answer_bare, answer_unit) = split_unit(gold), split_unit(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        return False
    if (gold_bare, answer_bare) != (gold, answer):
        in_radians = ("°" in gold) != ("°" in answer) and _same_formula(gold, answer, tolerance, ask)
        return in_radians or same_leaf(gold_bare, answer_bare, tolerance, ask)
    if gold.endswith("%") != answer.endswith("%"):
        return _same_percentage(gold, answer, tolerance, ask)
    return _same_formula(gold, answer, tolerance, ask)


def split_unit(text: str) -> tuple[str, str]:
    """Return a formula without the unit at its end, and the unit ("" for none, or for one that is not known)."""
    modulus = _MODULUS.search(text, max(0, len(text) - _UNIT_TAIL_CHARS))
    if modulus and text[: modulus.start()].strip():
        return text[: modulus.start()].strip(), f"mod {modulus[1]}"
    temperature = _TEMPERATURE.search(text, max(0, len(text) - _UNIT_TAIL_CHARS))
    if temperature:
        return text[: temperature.start()].strip(), f"°{temperature[1]}"
    if text.endswith("°"):
        return ((text[:-1].strip() or text) if not _FUNCTION.search(text) else text), ""
    start = max(0, len(text) - _UNIT_TAIL_CHARS)
    match = _TRAILING_UNIT.search(text, start)
    if match is None or not text[: match.start()].strip() or _NO_UNIT.search(match[0]):
        return text, ""
    word = (match[1] if match[1] is not None else match[2]).strip(" .")
    name = word.lower()
    known = UNIT_OF.get(name) or UNIT_OF.get(name.rstrip("s"))
    if match[1] is None:
        separated = text[: match.start()].rstrip()[-1:].isdigit() and (len(name) > 1 or text[match.start()] == " ")
        parts = name.split()
        counted = any(part.rstrip("s") in COUNTED for part in parts) or all(len(part) > 3 for part in parts)
        if not separated or not (known or counted):
            return text, ""
    head = text[: match.start()].strip().rstrip("*").strip()
    if not re.search(r"[\d}A-Za-z)]", head):
        return text, ""
    return head, known + (f"^{match[3]}" if match[3] else "") if known else ""


@lru_cache(maxsize=4096)
def tree_of(text: str) -> Tree | None:
    """Return the tree of a cleaned formula; None when the grammar does not cover it."""
    try:
        return parse(key(text))
    except NotParsed:
        return None


def _same_formula(gold: str, answer: str, tolerance: float | None, ask: Ask) -> bool:
    gold_tree, answer_tree = tree_of(gold), tree_of(answer)
    if gold_tree is None or answer_tree is None:
        # math-verify reads "77 1" as a sum.
        side_by_side = _TWO_NUMBERS.search(gold) or _TWO_NUMBERS.search(answer)
        return not side_by_side and ask(gold, answer)
    try:
        if same_value(gold_tree, answer_tree):
            return True
        values = number(gold_tree), number(answer_tree)
    except Undefined:
        return False
    if values[0] is None or values[1] is None:
        return False
    if tolerance is not None and distance(*values) <= tolerance:
        return True
    return _rounds(*values, gold, answer)


def _rational(text: str) -> Fraction | None:
    """Return the value of an integer, a decimal, a/b or \\frac{a}{b}; None for anything else."""
    if len(text) > MAX_DIGITS:
        return None
    match = _RATIONAL.fullmatch(text)
    if match:
        sign, whole, decimals, bare_decimals, divisor = match.groups()
        decimals = decimals or bare_decimals or ""
        value = Fraction(int((whole or "") + decimals or "0"), 10 ** len(decimals))
        if divisor is not None:
            if not int(divisor):
                return None
            value /= int(divisor)
        return -value if sign == "-" else value
    match = _LATEX_FRACTION.fullmatch(text)
    if match and int(match[3]) and ("}" in text or len(match[2] + match[3]) == 2):
        value = Fraction(int(match[2]), int(match[3]))
        return -value if match[1] == "-" else value
    return None


def _close(gold: Fraction, answer: Fraction, gold_text: str, answer_text: str, tolerance: float | None) -> bool:
    if gold == answer or (tolerance is not None and abs(gold - answer) <= Fraction(tolerance)):
        return True
    return _rounds(gold, answer, gold_text, answer_text)


def _rounds(gold, answer, gold_text: str, answer_text: str) -> bool:
    return any(
        _is_rounding(text, decimal, exact)
        for text, decimal, exact in ((answer_text, answer, gold), (gold_text, gold, answer))
    )


def _is_rounding(text: str, decimal, exact) -> bool:
    match = _LONG_DECIMAL.fullmatch(text)
    if match is None or len(text.lstrip("-+0.").replace(".", "")) < 6:
        return False
    return distance(decimal, exact) * 10 ** len(match[1]) < 1


def _same_percentage(gold: str, answer: str, tolerance: float | None, ask: Ask) -> bool:
    gold_bare, answer_bare = gold.rstrip("%\\ "), answer.rstrip("%\\ ")
    if same_leaf(gold_bare, answer_bare, tolerance, ask):
        return True
    scaled = [
        f"\\frac{{{bare}}}{{100}}" if bare != text.strip() else bare
        for bare, text in ((gold_bare, gold), (answer_bare, answer))
    ]
    return same_leaf(*scaled, tolerance, ask)


def _infinite(text: str) -> bool:
    return key(text).lstrip("+-") == r"\infty"


def _is_word(text: str) -> bool:
    return bool(_WORDS.fullmatch(text))


def _same_words(gold: str, answer: str) -> bool:
    return _letters(gold) == _letters(answer)


def _letters(text: str) -> str:
    return re.sub(r"[\s.,;:!?'\"-]+", "", text.replace(r"\text", "").replace("{", "").replace("}", "")).casefold()


def _same_clock(gold: re.Match, answer: re.Match) -> bool:
    halves = [match[2].replace(".", "").lower() for match in (gold, answer)]
    return gold[1].lstrip("0") == answer[1].lstrip("0") and (halves[0] == halves[1] or "" in halves)


def _same_digits(gold: re.Match | None, answer: re.Match | None, gold_text: str, answer_text: str) -> bool:
    if gold and answer:
        return gold.groups() == answer.groups()
    based, bare = (gold, key(answer_text)) if gold else (answer, key(gold_text))
    return based[1] == bare
