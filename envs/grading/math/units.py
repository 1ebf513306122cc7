"""Interprets the words after a number: units of measure, multipliers such as "million", and counted things.

Any other word may change the meaning of an answer, and is therefore compared as text.
"""

# Lists of words are easier to read as one text.
# ruff: noqa: SIM905

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import takewhile
from math import prod

# For each dimension, the names and the scale of its units.
_TABLE = {
    "length": "m meter metre 1 | in inch inches .0254 | ft foot feet .3048 | yd yard .9144 | mi mile 1609.344",
    "mass": "g gm gram .001 | kilo 1 | t ton tonne 1000 | lb lbs pound .45359237 | oz ounce .028349523125",
    "time": "s sec second 1 | min minute 60 | h hr hour 3600 | day 86400 | week 604800",
    "month": "month 1 | year yr 12",
    "volume": "l liter litre 1",
    "gallon": "gallon gal 1 | quart .25 | pint .125 | cup .0625",
    "money": "dollar usd 100 | cent 1",
    "degree": "degree deg 1",
    "celsius": "celsius 1",
    "fahrenheit": "fahrenheit 1",
    "kelvin": "k kelvin 1",
    "joule": "j joule 1",
    "newton": "n newton 1",
    "watt": "w watt 1",
    "volt": "v volt 1",
    "ampere": "a amp ampere 1",
    "hertz": "hz hertz 1",
    "pascal": "pa pascal 1",
    "coulomb": "coulomb 1",
    "farad": "farad 1",
    "ohm": "ohm 1",
    "tesla": "tesla 1",
    "mole": "mol mole 1",
    "ev": "ev 1",
}
_PREFIXES = {"k": ("kilo", "1000"), "d": ("deci", ".1"), "c": ("centi", ".01"), "m": ("milli", ".001")}
_PREFIXES |= {"u": ("micro", ".000001"), "n": ("nano", ".000000001")}
_PREFIXED = "km dm cm mm um nm kg mg ml ms kj kn kw mv ma khz kpa"
# These are counted as things are. They have no plural in -s, or are so common that they may be part of a product.
_OTHER = """
    yuan euro rupee ruble won pound-sterling yen franc peso acre hectare radian rad calorie kcal byte bit unit item
    person people child children man men woman women mouse mice goose geese foot fish sheep deer total each
    altogether year-old kmh kmph kph mph rpm
"""
_SPEEDS = {"mph": "mi/h", "kmh": "km/h", "kmph": "km/h", "kph": "km/h"}
_SQUARES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_AFTER_A_UNIT = frozenset("of long high tall wide old each per".split())
_PREPOSITIONS = frozenset("of per in on for".split())
# These look like nouns for counted things, but they change the number or deny it.
_NOT_COUNTED = frozenset(
    """
    times plus minus less is was has does plus-minus versus always perhaps besides unless across tens hundreds
    thousands millions billions trillions dozens halves thirds fourths quarters fifths sixths sevenths eighths
    ninths tenths elevenths twelfths hundredths thousandths millionths doubles triples quadruples factorials
    inverses reciprocals opposites negatives multiples powers percents pairs scores roots logs squares-root this
    plusses integers-more others guess guesses yes wrongs falls misses its his us as ours theirs hers yours
    sometimes towards afterwards nevertheless approximates equals exceeds makes gives means sums cosines sines
    tangents exponents conjugates complements successors predecessors couples grosses logarithms twelves basis
    zillions gazillions googols lakhs crores quadrillions quintillions
    """.split()
)
# These are never part of a noun phrase: negations, hedges, operations, comparisons, numbers.
CHANGING = frozenset(
    """
    not no never or and nor and/or but except if unless when than more less fewer least most at up to between from
    about around approximately roughly nearly almost over under above below plus minus times divided multiplied by
    is are was be isn't wrong incorrect false mod modulo base half third quarter double triple twice thrice
    squared cubed square-root root factorial inverse negative positive power raised log percent percentage
    one two three four five six seven eight nine ten eleven twelve hundred thousand million billion trillion dozen
    zero first second-power quadruple tenth tenths hundredth hundredths thousandth maybe possibly perhaps either
    other another repeating recurring imaginary i
    """.split()
)

# A scale, and the powers of the dimensions.
Unit = tuple[Fraction, tuple[tuple[str, int], ...]]


def _by_name() -> dict[str, tuple[Fraction, str]]:
    units = {name: (Fraction(1), name) for name in _OTHER.split()}
    for dimension, rows in _TABLE.items():
        for row in rows.split(" | "):
            *names, scale = row.split()
            units |= {name: (Fraction(scale), dimension) for name in names}
    for symbol in _PREFIXED.split():
        word, factor = _PREFIXES[symbol[0]]
        scale, dimension = units[symbol[1:]]
        words = [word + name for name, unit in units.items() if unit == (scale, dimension) and len(name) > 2]
        units |= {name: (scale * Fraction(factor), dimension) for name in (symbol, *words)}
    return units


_UNITS = _by_name()
# Units of one letter are case-sensitive.
_LETTERS = {"C": "coulomb", "F": "farad", "T": "tesla"} | {letter: letter.lower() for letter in "msghltKJNWVAL"}
LETTER_UNITS = frozenset(_LETTERS)
# Words that are recognised without \\text around them.
SHORT_WORDS = (
    frozenset(
        """
        and or for all any the is are no yes not of per sq cu to by if at on off up day days min mod am pm mph cm mm km
        kg mg ft lb lbs hr hrs sec pct inf men man one two six ten dne old
        """.split()
    )
    | frozenset(name for name in _UNITS if len(name) > 1)
) - {"ma", "mv", "in", "rad", "pa", "ev", "kn", "um"}
_TOKEN = re.compile(r"[A-Za-z][A-Za-z'-]*|\^\{?(-?\d)\}?|[/*·.]|\s+")


@dataclass(frozen=True)
class Words:
    """The words after a number.

    Attributes:
        factor: the factor of the number, such as 10**6 for "million".
        unit: scale and dimensions; None if there is no known unit.
        noun: the counted things, if they are no known unit.
    """

    factor: int = 1
    unit: Unit | None = None
    noun: str = ""


NOTHING = Words()


@lru_cache(maxsize=4096)
def read_words(text: str) -> Words | None:
    """Interpret the words after a number; None if they may change its meaning."""
    factor = 1
    rest: list[str] = []
    for word in re.sub(r"[(),]", " ", text).strip(" .").split():
        if word.lower() in _MULTIPLIERS and (not rest or (factor == 1 and rest[-1] in ("dollar", "euro"))):
            factor *= _MULTIPLIERS[word.lower()]
        else:
            rest.append(word)
    if rest[:1] == ["of"] and factor > 1:
        rest = rest[1:]
    if not rest:
        return Words(factor)
    unit = _unit(" ".join(rest))
    if unit is not None:
        return Words(factor, unit)
    words = [word.lower() for word in rest]
    first = _unit(rest[0])
    if first is not None and _AFTER_A_UNIT & set(words[1:2]):
        return None if CHANGING & set(words) else Words(factor, first)
    return Words(factor, None, " ".join(words)) if _is_counted(words) else None


def factors(gold: Words, answer: Words) -> tuple[Fraction, Fraction] | None:
    """Return the factors that convert the numbers before two texts; None if the texts are about different things."""
    scales = [Fraction(1), Fraction(1)]
    if gold.unit and answer.unit:
        if gold.unit[1] != answer.unit[1]:
            return None
        scales = [gold.unit[0], answer.unit[0]] if gold.unit != answer.unit else scales
    elif gold.noun and answer.noun:
        if not _stems(gold.noun) & _stems(answer.noun):
            return None
    elif _is_measured(gold, answer) or _is_measured(answer, gold):
        return None
    return scales[0] * gold.factor, scales[1] * answer.factor


def changes_meaning(text: str) -> bool:
    r"""Whether a text has words that change the meaning of the following text: \text{the opposite of }."""
    words = re.findall(r"[a-z-]+", text.lower())
    return bool(re.search(r"\b(?:square|cube) of\b", text)) or any(
        word in CHANGING or word in _NOT_COUNTED or f"{word}s" in _NOT_COUNTED for word in words
    )


def _unit(text: str) -> Unit | None:
    """Return the unit of a text such as "km/h", "square feet", "m s^{-1}" or "dollars per hour"."""
    if text == "square":
        return Fraction(1), (("area", 1),)
    text = _SPEEDS.get(text.lower(), text)
    text = re.sub(r"(?i)deg(?:rees?)?\s+(?=celsius|fahrenheit)", "", text)
    product: list[tuple[Fraction, str, int]] = []
    sign, power, place = 1, 1, 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        place, token = match.end(), match[0].lower()
        if match[1]:
            if not product:
                return None
            scale, dimension, last = product.pop()
            product.append((scale, dimension, last * int(match[1])))
        elif token in ("/", "per"):
            sign = -1
        elif token in _SQUARES:
            power = _SQUARES[token]
        elif token[0].isalpha():
            found = _named_unit(match[0])
            if found is None:
                return None
            product.append((*found, sign * power))
            power = 1
    dimensions = Counter()
    for _, dimension, exponent in product:
        dimensions[dimension] += exponent
    scale = prod((scale**exponent for scale, _, exponent in product), start=Fraction(1))
    if dimensions["volume"]:
        scale, dimensions["length"] = scale / 1000, 3 * dimensions.pop("volume")
    return (scale, tuple(sorted((name, power) for name, power in dimensions.items() if power))) if product else None


def _named_unit(word: str) -> tuple[Fraction, str] | None:
    if len(word) == 1:
        return _UNITS.get(_LETTERS.get(word, ""))
    lowered = word.lower()
    return _UNITS.get(lowered) or (_UNITS.get(_singular(lowered)) if len(lowered) > 2 else None)


def _is_counted(words: list[str]) -> bool:
    """Whether the words are a noun phrase in the plural, such as toy helicopters or liters of paint."""
    if CHANGING & set(words) or not all(re.fullmatch(r"[a-z][a-z'-]+", word) for word in words):
        return False
    words = list(takewhile(lambda word: word not in _PREPOSITIONS, words))
    if not 1 <= len(words) <= 5 or any({word, f"{word}s"} & _NOT_COUNTED for word in words):
        return False
    last = words[-1]
    is_plural = last.endswith("s") and not last.endswith(("ss", "ths", "us", "is")) and len(last) > 3
    return is_plural or _named_unit(last) is not None


def _is_measured(measure: Words, thing: Words) -> bool:
    """Whether one is a measure and the other a counted thing, such as cm and apples."""
    if measure.unit is None or not thing.noun or any(map(_named_unit, thing.noun.split())):
        return False
    return any(dimension in _TABLE for dimension, _ in measure.unit[1])


def _stems(noun: str) -> set[str]:
    """Return the singulars of the words. Red apples and apples have one in common, so they may be the same thing."""
    return {_singular(word) for word in noun.split()}


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
