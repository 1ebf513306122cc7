"""Numbers as texts: plain numbers, which most answers are, rounded decimals, and numbers with a base."""

from __future__ import annotations

import re
from fractions import Fraction

from envs.grading.math.clean import key
from envs.grading.math.parse import MAX_DIGITS

MIN_ROUNDED_DIGITS = 4
# A decimal that was cut off instead of rounded needs more digits.
MIN_CUT_DIGITS = 6

_RATIONAL = re.compile(r"([-+]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))(?:/(\d+))?")
_LATEX_FRACTION = re.compile(r"([-+]?)(\d*)\s?\\frac\{?([-+]?\d+)\}?\{?([-+]?\d+)\}?")
_DECIMAL = re.compile(r"[-+]?(\d*)(?:\.(\d*))?(?:\.\.\.|(?:\*10\^|[eE])\{?([-+]?\d+)\}?)?")
_BASED = re.compile(r"([-+]?)\(?([0-9A-Fa-f]+)\)?_\{?\(?(\d{1,2})\)?\}?")
_IN_BASE = re.compile(r"\s*\(?(?:in\s)?\s*\\text\{\s*(?:in )?base\s*\}\s*(\d+)\s*\)?\Z")


def rational(text: str) -> Fraction | None:
    r"""Return the value of an integer, a decimal, a/b, \frac{a}{b} or 1\frac{a}{b}; None for anything else."""
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
    if match and int(match[4]) and ("}" in text or len(match[3] + match[4]) == 2):
        value = int(match[2] or 0) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    return None


def is_rounding(gold: Fraction, answer: Fraction, gold_text: str, answer_text: str) -> bool:
    """Whether one number is a decimal and the other an exact number that rounds to it."""
    gold_match, answer_match = (_DECIMAL.fullmatch(key(text)) for text in (gold_text, answer_text))
    if bool(gold_match) == bool(answer_match):
        return False
    match, decimal, exact = (gold_match, gold, answer) if gold_match else (answer_match, answer, gold)
    whole, decimals, power = match.groups(default="")
    if "." not in match[0]:
        return False
    num_digits = len((whole + decimals).lstrip("0"))
    step = Fraction(10) ** (int(power or 0) - len(decimals))
    error = abs(decimal - exact)
    if num_digits >= MIN_ROUNDED_DIGITS and 2 * error <= step:
        return True
    return num_digits >= MIN_CUT_DIGITS and error <= step and abs(decimal) < abs(exact)


def same_based(gold: str, answer: str) -> bool | None:
    """Compare two numbers if at least one has a base, as 101_2; None if neither has one."""
    gold = _IN_BASE.sub(r"_{\1}", gold)
    if _BASED.fullmatch(key(gold)):
        answer = _IN_BASE.sub(r"_{\1}", answer)
    texts = key(gold), key(answer)
    matches = [_BASED.fullmatch(text) for text in texts]
    if not any(matches):
        return None
    if all(matches):
        return matches[0].groups() == matches[1].groups()
    (sign, digits, base), bare = (matches[0].groups(), texts[1]) if matches[0] else (matches[1].groups(), texts[0])
    if digits.isalpha() or any(int(digit, 16) >= int(base) for digit in digits):
        return False  # it is a letter with an index, or 5 in base 3, which has no such digit
    return sign + digits == bare
