r"""Numbers with units, counted things or a modulus: 5 \text{ cm}, 60°, 3 hours and 30 minutes, 2 \pmod 5."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from envs.grading.math.clean import key
from envs.grading.math.number import rational
from envs.grading.math.units import NOTHING, Words, factors, read_words
from envs.grading.math.words import as_text

_UNIT = r"(?:\\text\{[^{}]*\}(?:\s*\^\s*\{?\s*-?\d\s*\}?)?)"
_UNIT_FRACTION = rf"\\frac\{{\s*{_UNIT}\s*\}}\{{\s*{_UNIT}\s*\}}"
_WORDS_AFTER = re.compile(
    rf"\s*\(?\s*({_UNIT_FRACTION}|(?:\\mu\s*)?{_UNIT}(?:[\s*/()°]*(?:{_UNIT}|\^\s*\{{?-?\d\}}?))*)[\s)]*\Z"
)
_DEGREES = re.compile(r"\s*°\s*(?:\\text\{\s*)?(C|F|[Cc]elsius|[Ff]ahrenheit|)\s*\}?\Z")
_DEGREE = read_words("degree")
_SCALES = {"": _DEGREE, "C": read_words("celsius"), "F": read_words("fahrenheit")}
_PART = re.compile(r"\s*([\d./]+|\d*\\frac\{\d+\}\{\d+\})\s*\\text\{([^{}]*?)\s*\}\s*(?:,|\\and)?\s*")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_MODULUS = re.compile(r"\s?\(?\s*(?:\\[pb]?mod\s?\{?|\(?\\text\{\s?\(?mod\s?\}?)\s?(\d+)\s?[)}]*\Z")
_TAIL_CHARS = 120

SameNumber = Callable[[str, str], bool]


def same_quantity(gold: str, answer: str, same_number: SameNumber) -> bool:
    """Whether two numbers with words, degrees or a modulus are the same. `same_number` compares the bare numbers."""
    if is_compound(gold) or is_compound(answer):
        totals = _total(gold), _total(answer)
        return None not in totals and totals[0] == totals[1]
    if as_text(gold) == as_text(answer):
        return True
    residues = _residue(gold), _residue(answer)
    if any(residues):
        return _same_residue(residues[0] or (gold, ""), residues[1] or (answer, ""), same_number)
    sides = _quantity(gold), _quantity(answer)
    if None in sides:
        return _without_text(gold) == _without_text(answer)
    (gold_number, gold_words), (answer_number, answer_words) = sides
    if _DEGREE in (gold_words, answer_words) and NOTHING in (gold_words, answer_words):
        radians = [number + "°" if words == _DEGREE else number for number, words in sides]
        if same_number(*radians):
            return True
    scales = factors(gold_words, answer_words)
    if scales is None:
        return False
    return same_number(scaled(gold_number, scales[0]), scaled(answer_number, scales[1]))


@lru_cache(maxsize=1024)
def is_compound(text: str) -> bool:
    r"""Whether a text is one quantity in several units, as 3 hours and 30 minutes."""
    return r"\text" in text and len(_PART.findall(text)) > 1 and _total(text) is not None


def scaled(number: str, factor: Fraction) -> str:
    """Return a number times a factor, as a formula."""
    if factor == 1:
        return number
    value = rational(number)
    return f"({number})*({factor})" if value is None else str(value * factor)


def _total(text: str) -> tuple[Fraction, tuple] | None:
    """Return the sum of the parts of a quantity and its dimensions; None if the text is not a quantity with units."""
    total, place, units = Fraction(0), 0, []
    while place < len(text):
        match = _PART.match(text, place)
        value, words = (rational(match[1]), read_words(match[2])) if match else (None, None)
        if value is None or words is None or words.unit is None:
            return None
        place = match.end()
        total += value * words.factor * words.unit[0]
        units.append(words.unit)
    scales, dimensions = [scale for scale, _ in units], {dimension for _, dimension in units}
    is_quantity = len(dimensions) == 1 and scales == sorted(set(scales), reverse=True)
    return (total, dimensions.pop()) if is_quantity else None


def _residue(text: str) -> tuple[str, str] | None:
    """Split an answer into number and modulus; None if it has no modulus."""
    match = _MODULUS.search(text, max(0, len(text) - _TAIL_CHARS))
    return (text[: match.start()].strip(), match[1]) if match and text[: match.start()].strip() else None


def _same_residue(gold: tuple[str, str], answer: tuple[str, str], same_number: SameNumber) -> bool:
    if gold[1] and answer[1] and gold[1] != answer[1]:
        return False
    for value, modulus in ((rational(number), modulus) for number, modulus in (gold, answer) if modulus):
        if gold[1] != answer[1] and (value is None or value >= int(modulus)):
            return False  # n mod 2 is not n, and 5 mod 3 is not 5
    return same_number(gold[0], answer[0])


def _quantity(text: str) -> tuple[str, Words] | None:
    """Split an answer into its number and the words after it; None if that is not possible."""
    tail = max(0, len(text) - _TAIL_CHARS)
    degrees = _DEGREES.search(text, tail)
    if degrees and text[: degrees.start()].strip() and not _FUNCTION.search(text):
        return text[: degrees.start()].strip(), _SCALES[degrees[1][:1].upper()]
    if r"\text" not in text:
        return text, NOTHING
    match = _WORDS_AFTER.search(text, tail)
    if match is None or r"\text" in text[: match.start(1)]:
        return None
    number = text[: match.start()].rstrip(" *")
    if not re.search(r"[\d})A-Za-z%]\Z", number) or not re.search(r"\d|\\pi|\\sqrt|[A-Za-z]", number):
        return None
    words = read_words(_unit_text(match[1]))
    return None if words is None else (number, words)


def _unit_text(text: str) -> str:
    text = re.sub(r"\\frac\{([^{}]*\{[^{}]*\}[^{}]*)\}\{([^{}]*\{[^{}]*\}[^{}]*)\}", r"\1 / \2", text)
    text = re.sub(r"\\mu\s*\\text\{\s*", r"\\text{u", text)
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace(" ^", "^")


def _without_text(text: str) -> str:
    return key(re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r" \1", text))
