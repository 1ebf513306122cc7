"""One spelling for the many ways to write a formula: LaTeX noise, unicode symbols, words in the middle of math.

The result of `clean` is plain ASCII as far as possible, with few LaTeX commands: \\frac, \\sqrt, \\text{words}, greek
letters, functions. `key` of it decides whether two formulas are the same text.
"""

from __future__ import annotations

import re
import unicodedata

from envs.grading.math.symbols import COMMANDS, UNICODE

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")

_OTHER_DIGIT = re.compile(r"[^\x00-\x7f]")

_TEXT_GROUP = re.compile(r"\\text\s*\{([^{}]*)\}")
_TEXT_MATH = re.compile(r"\s*(?:[A-Za-z]|\(?[A-J]\)?[.:]?|[-+]?[\d.,]+)\s*")
_DIGIT = re.compile(r"\d")
_AND = re.compile(r"\\text\{[^{}]*\}|,?\s?\b(?:and|or)\b\s?,?", re.IGNORECASE)
_PERCENT = re.compile(r"\\?\b(?:percentage|percent|pct)\b\.?")
_NAMES = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|pi|infinity|infty|inf|oo|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log"
    r"|exp|cup|pm)(?![a-zA-Z])"
)
_NAME_COMMANDS = {"infinity": r"\infty", "inf": r"\infty", "oo": r"\infty"}
_DEGREES = re.compile(r"\^\s*(?:°|\{\s*°\s*\})")
_APPROX = re.compile(r"≈|~=")
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?: \d{3})+|(?:,\d{3})+)(?!\d|,\d)")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?: \d{3})+)(?!\d)")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|\d|[a-zA-Z])\s*(\{[^{}]*\}|\d|[a-zA-Z])")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_EDGES = ' .,;:*`"?\\'

_ENVIRONMENT = re.compile(
    r"\\begin\s*\{(?:aligned|align\*?|gathered|equation\*?|split)\}|\\end\s*\{[a-z]+\*?\}|(?<!\\)&"
)
_SPACES_IN_KEY = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=\d) (?=[A-Za-z])|(?<=[A-Za-z]) (?=\d)")
_BRACED = re.compile(r"([\^_])\{(\w)\}")


def clean(text: str) -> str:
    """Return the formula in its one spelling; linear in the length of the text."""
    text = " ".join(text.split())
    if text.isascii():
        if text.isalnum() and not text.isalpha():
            return text
        text = text.replace(r"\$", "").replace("$", "")
    else:
        text = _OTHER_DIGIT.sub(_ascii_digit, text.translate(UNICODE))
    if "\\" in text:
        text = _clean_latex(text)
    text = text.replace("~", " ").strip()
    text = text.replace("{,}", "") if "{,}" in text else text
    if not text.isascii() or any(map(str.isalpha, text)):
        text = _clean_words(text)
    # (1,234) is a point.
    thousands = _SPACED_THOUSANDS if "(" in text or "[" in text or r"\{" in text else _THOUSANDS
    text = thousands.sub(_join_thousands, text)
    return _trim(text)


def key(cleaned: str) -> str:
    """Return what two cleaned formulas share exactly when they are the same text up to blanks and braces."""
    text = cleaned
    if "\\" in text:
        text = _SHORT_FRACTION.sub(_brace_fraction, text)
        text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _BRACED.sub(r"\1\2", text)
    return _SPACES_IN_KEY.sub("", text)


def _clean_latex(text: str) -> str:
    is_matrix = "matrix" in text or "array" in text
    if not is_matrix:
        text = _DOUBLED.sub(r"\\", text)
        text = _ENVIRONMENT.sub(" ", text)
    text = text.replace(r"\! ", r"\!").replace(r"\qquad", r"\;").replace(r"\quad", r"\;")
    text = _COMMAND.sub(lambda match: COMMANDS.get(match[0], match[0]), text)
    if "°" in text:
        text = _DEGREES.sub("°", text)
    return _TEXT_GROUP.sub(_clean_text_group, text)


def _clean_text_group(match: re.Match) -> str:
    content = match[1].strip()
    if not content:
        return " "
    lowered = content.lower().strip(" ,.")
    if lowered in ("and", "or", ""):
        return " , "
    if lowered in ("percent", "percentage", "pct", "%"):
        return "%"
    if _TEXT_MATH.fullmatch(content) or _DIGIT.search(content):
        return content
    return f"\\text{{{content}}}"


def _clean_words(text: str) -> str:
    if "≈" in text or "~=" in text:
        text = _APPROX.sub("≈", text)
    text = _AND.sub(lambda match: match[0] if match[0].startswith("\\") else " , ", text)
    text = _PERCENT.sub("%", text)
    return _NAMES.sub(lambda match: _NAME_COMMANDS.get(match[1], "\\" + match[1]), text)


def _join_thousands(match: re.Match) -> str:
    return match[1] + match[2].replace(",", "").replace(" ", "")


def _brace_fraction(match: re.Match) -> str:
    parts = (part if part.startswith("{") else f"{{{part}}}" for part in match.groups())
    return "\\frac" + "".join(parts)


def _ascii_digit(match: re.Match) -> str:
    value = unicodedata.decimal(match[0], None)
    return match[0] if value is None else str(value)


def _trim(text: str) -> str:
    """Drop the punctuation around a formula, but not the point of ".5" nor a factorial or a prime."""
    text = text.lstrip(' ,;:*`"')
    if text.endswith("..."):
        return text
    return text.rstrip(_EDGES)
