r"""Normalizes the spelling of formulas: LaTeX markup, unicode symbols, and words within formulas.

The result of `clean` is ASCII as far as possible, with few LaTeX commands: \frac, \sqrt, greek letters, functions,
`\text{...}` around every word, and `\and ` and `\or ` between the parts of a list. Two formulas are the same text if
their `key` is equal.
"""

from __future__ import annotations

import re
import unicodedata

from envs.grading.math.symbols import BASES, COMMANDS, FUNCTION_ALIASES, FUNCTIONS, UNICODE
from envs.grading.math.units import LETTER_UNITS, SHORT_WORDS, read_words

FUNCTION_NAMES = frozenset(name[1:] for name in FUNCTIONS)

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_OTHER_DIGIT = re.compile(r"[^\x00-\x7f]")

# Invisible commands are removed with their content. Of colours only the command and the name are removed.
_INVISIBLE = re.compile(r"\\[hv]?phantom\s*\{[^{}]*\}|\\(?:[hv]space\*?|label|tag)\s*\{[^{}]*\}|\\(?:left|right)\s*\.")
_COLOUR = re.compile(r"\\(?:textcolor|colorbox|color)\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}|\\bbox\s*\[[^\]]*\]")

_TEXT_GROUP = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_MATH_SIGN = re.compile(r"[\^_=<>+]")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")
_DIGIT = re.compile(r"\d")
_BEFORE_UNIT = re.compile(r"(?:[\d})]|\\mu|[\d}]\s*\\frac\s*\{|\}\{|\}\s*[*/])\s*\Z")
_AFTER_UNIT = re.compile(r"\s*(?:[,;:/.$)}]|\\text|\Z)")
_WORD = re.compile(
    r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[clr|]*\})?|\\text\{[^{}]*\}|\\[A-Za-z]+|_\s*\{[^{}]*\}|[A-Za-z][A-Za-z'-]*"
)
_ADJACENT_TEXT = re.compile(r"\\text\{([^{}]*)\}\s*\\text\{([^{}]*)\}")
_JOINER = re.compile(r"[,;]?\s*\\text\{[\s,]*(and|or)[\s,]*\}\s*[,;]?", re.IGNORECASE)
_EDGE_JOINER = re.compile(r"\\text\{\s*(and|or)\s+([^{}]+)\}|\\text\{([^{}]+)\s(and|or)\s*\}", re.IGNORECASE)
_LETTERS_IN_WORDS = re.compile(r"[A-Za-z](?:(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+)[A-Za-z](?![A-Za-z]))+")
_JOINING_WORD = re.compile(r"\b(and|or)\b")
_RATIO_IN_WORDS = re.compile(r"\d+(?:\.\d+)?(?:\s*\\text\{to\}\s*\d+(?:\.\d+)?)+")
_PERCENT = re.compile(r"\\text\{\s*(?:per ?cent(?:age)?|pct|%)\.?\s*\}", re.IGNORECASE)
_NAMES = re.compile(
    r"\\text\{[^{}]*\}|(?<![\\a-zA-Z])(sqrt|pi|infinity|infty|inf|oo|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log"
    r"|exp|cup)(?![a-zA-Z])"
)
_NAME_COMMANDS = {"infinity": r"\infty", "inf": r"\infty", "oo": r"\infty"}
_HALF_OF_DAY = re.compile(r"(?<=\d)\s*(\\text\{\s*)?([AaPp])\.?\s?[Mm]\b\.?")
_TH = r"(?:st|nd|rd|th)"
_ORDINAL = re.compile(
    rf"(?<=\d)\s*(?:\^\s*)?(?:\{{\s*(?:\\text\{{\s*{_TH}\s*\}}|{_TH})\s*\}}|\\text\{{\s*{_TH}\s*\}}|{_TH}\b)(?!\s*\w)"
)
_BASE = re.compile(
    rf"_\s*\{{?\s*\\text\s*\{{\s*(?:base\b)?\s*\}}?\s*(\d+|{'|'.join(BASES)})(?:\s*\}}){{1,2}}", re.IGNORECASE
)
_MONEY = re.compile(r"(\\\$|[$€£¥₹₽₩])\s*(-?(?:\d[\d,]*(?:\.\d+)?|\.\d+))")
_PRICES = re.compile(r"(?:[^$]*(?<![^\s(])\$\d[^$]*)+(?<!\$)")
_CURRENCIES = {"€": "euro", "£": "pound sterling", "¥": "yuan", "₹": "rupee", "₽": "ruble", "₩": "won"}
_BRACED_SIGN = re.compile(r"(?<![A-Za-z])\{([:.])\}")
_DEGREES = re.compile(r"\^\s*(?:°|\{\s*°\s*\})")
_OHM = re.compile(r"(?<=[\d} ])\s*\\Omega\s*\Z")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}")
_INDEX = r"\{?\s*(\d+)\s*\}?"
_COMBINATIONS = re.compile(
    rf"(?:\{{\s*\}})?\s*[_^]{_INDEX}\s*C_{_INDEX}|(?<![A-Za-z\\])C_{_INDEX}\^{_INDEX}|(?<![A-Za-z\\])C\((\d+)\s*,\s*(\d+)\)"
)
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?: \d{3})+|(?:,\d{3})+)(?!\d|,\d)")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?: \d{3})+)(?!\d)")
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]))"
_SHORT_FRACTION = re.compile(rf"\\(frac|binom){_ARGUMENT}{_ARGUMENT}")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_BRACED = re.compile(r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)(?<!\\)\}")
_EDGES = ' .,;:*`"\\'

_SYSTEM = re.compile(r"(?:\\left)?\s*\\(?:\{|lbrace)\s*\\begin\s*\{(aligned|gathered|split)\}(.*)\\end\s*\{\1\}")
_ENVIRONMENT = re.compile(
    r"\\begin\s*\{(?:aligned|align\*?|gathered|equation\*?|split)\}|\\end\s*\{(?!cases)[a-z]+\*?\}|(?<!\\)&"
)
_SPACES_IN_KEY = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=\d) (?=[A-Za-z])|(?<=[A-Za-z]) (?=\d)")
# TeX reads one digit or letter as the exponent or index, but authors mean the whole number.
_BARE_SCRIPT = re.compile(r"(?<=\\log_)(\d)(?=\d+(?![\d\sA-Za-z(\\]))|(?<=[\^_])(\d+|[A-Za-z])")


def clean(text: str, *, join_thousands: bool = True) -> str:
    """Return the formula in the normal spelling. The time is linear in the length of the text.

    Args:
        join_thousands: True: 40,150 is one number. False: it is a list of two numbers.
    """
    text = " ".join(text.split())
    if text.isascii() and text.isdigit():
        return text
    text = text.replace("{,}", "").replace(r"\! ", r"\!").replace(r"\!", "")
    if "$" in text or not text.isascii():
        text = _MONEY.sub(lambda match: _money(match, text), text)
        text = text.replace(r"\$", "").replace("$", "")
        text = _OTHER_DIGIT.sub(_ascii_digit, text.translate(UNICODE))
    if "\\" in text or "{" in text:
        text = _clean_latex(_BRACED_SIGN.sub(r"\1", text))
    text = text.replace("~", " ").strip()
    if not text.isascii() or any(map(str.isalpha, text)):
        text = _clean_words(text)
    if join_thousands:
        # (1,234) is a point, not a number.
        thousands = _SPACED_THOUSANDS if "(" in text or "[" in text or r"\{" in text else _THOUSANDS
        text = thousands.sub(lambda match: match[0].replace(",", "").replace(" ", ""), text)
    return _trim(text)


def key(cleaned: str) -> str:
    """Return a text that is equal for two cleaned formulas if they differ only in blanks and braces."""
    text = cleaned
    if "\\" in text:
        text = _SHORT_FRACTION.sub(r"\\\1{\2\3}{\4\5}", text)
        text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    if "^" in text or "_" in text:
        text = _BARE_SCRIPT.sub(r"{\1\2}", text)
    return _SPACES_IN_KEY.sub("", text)


def _clean_latex(text: str) -> str:
    if text.count("\\begin") == 1:
        text = _SYSTEM.sub(lambda match: f"\\begin{{cases}}{match[2].replace('&', '')}\\end{{cases}}", text)
    if not any(name in text for name in ("matrix", "array", "cases")):
        text = _DOUBLED.sub(r"\\", text)
        text = _ENVIRONMENT.sub(" ", text)
    text = _COLOUR.sub("", _INVISIBLE.sub("", text))
    text = _COMMAND.sub(lambda match: COMMANDS.get(match[0], match[0]), text)
    if "°" in text:
        text = _DEGREES.sub("°", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    return _OHM.sub(r"\\text{ohm}", _TEXT_GROUP.sub(_clean_text_group, _clean_after_digits(text)))


def _clean_after_digits(text: str) -> str:
    text = _BASE.sub(lambda match: f"_{{{BASES.get(match[1].lower(), match[1])}}}", text)
    text = _HALF_OF_DAY.sub(lambda match: f"\\text{{{match[2].lower()}m" + (" " if match[1] else "}"), text)
    return _ORDINAL.sub("", text)


def _clean_text_group(match: re.Match) -> str:
    content = " ".join(re.sub(r"\\text\s*\{|[\\~]", " ", match[1]).replace("{", "").replace("}", "").split())
    if not content.strip(" ,."):
        return " , " if "," in content else " "
    if _LETTERS_IN_WORDS.fullmatch(content):
        return _JOINING_WORD.sub(r"\\text{\1}", content)  # \text{A and C} is a list of letters
    before = match.string[max(0, match.start() - 16) : match.start()]
    is_after_number = _BEFORE_UNIT.search(before) is not None
    content = FUNCTION_ALIASES.get(content, content)
    if content in FUNCTION_NAMES and not (is_after_number and _AFTER_UNIT.match(match.string, match.end())):
        return f"\\{content} "
    if content in LETTER_UNITS and is_after_number:
        return f"\\text{{{content}}}"
    is_unit = (
        content[:1].isalpha()
        and "," not in content
        and len(content) > 1
        and (words := read_words(content))
        and words.unit
    )
    if not is_unit and (_MATH_SIGN.search(match[1]) or not _TWO_LETTERS.search(content) or _DIGIT.search(content)):
        content = match[1] if _MATH_SIGN.search(match[1]) else content  # \\boldsymbol{2^{n+1}} is a formula, not a word
        return content if match[1].strip() == match[1] else f" {content} "
    return f"\\text{{{content}}}"


def _clean_words(text: str) -> str:
    text = text.replace("~=", "≈")
    text = _clean_after_digits(text) if _DIGIT.search(text) else text
    text = _COMBINATIONS.sub(_combinations, text)
    text = _NAMES.sub(lambda match: _NAME_COMMANDS.get(match[1], f"\\{match[1]}") if match[1] else match[0], text)
    text = _WORD.sub(_wrap_word, text)
    if r"\text" not in text:
        return text
    for pattern, replacement in ((_ADJACENT_TEXT, r"\\text{\1 \2}"), (_EDGE_JOINER, _split_joiner)):
        while (replaced := pattern.sub(replacement, text)) != text:
            text = replaced
    text = _PERCENT.sub("%", text)
    if _RATIO_IN_WORDS.fullmatch(text.strip()):
        text = text.replace(r"\text{to}", ":")
    return _JOINER.sub(lambda match: f" \\{match[1].lower()} ", text)


def _wrap_word(match: re.Match) -> str:
    word = match[0]
    if not word[0].isalpha() or len(word) == 1:
        return word
    lowered = word.lower()
    is_long = len(word) > 3 and not word.isupper() and all(len(part) > 2 for part in word.split("-"))  # not ax-b
    is_word = is_long or (lowered in SHORT_WORDS and word != "Mm")
    return f"\\text{{{word}}}" if is_word else word


def _split_joiner(match: re.Match) -> str:
    words = match.groups()[:2] if match[1] else match.groups()[2:]
    return " ".join(f"\\text{{{word}}}" for word in words)


def _money(match: re.Match, text: str) -> str:
    """Write $5 as 5 dollars, unless the dollar sign begins a formula, as in $5$."""
    num_signs = text.count("$") - text.count(r"\$")
    if match[1] == "$" and num_signs != 1 and not _PRICES.fullmatch(text):
        return match[0]
    return f"{match[2]}\\text{{{_CURRENCIES.get(match[1], 'dollar')}}}"


def _combinations(match: re.Match) -> str:
    total, chosen = (group for group in match.groups() if group is not None)
    return f"\\binom{{{total}}}{{{chosen}}}"


def _ascii_digit(match: re.Match) -> str:
    return str(unicodedata.decimal(match[0], match[0]))


def _trim(text: str) -> str:
    """Remove the punctuation around a formula, but not the point of ".5", a factorial sign or a prime."""
    braced = _BRACED.fullmatch(text.strip())
    text = " ".join((braced[1] if braced else text).split()).lstrip(' ,;:*`"')
    return text.rstrip(".") + "..." if text.endswith("...") else text.rstrip(_EDGES)
