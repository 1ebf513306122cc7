"""The shape of an answer, and tests of a text that decide it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.grading.math.clean import key
from envs.grading.math.units import CHANGING

_SEPARATORS = {
    "list": r"[,;]|\\(?:and|or)(?![a-zA-Z])",
    "or": r"\\vee(?![a-zA-Z])",
    "and": r"\\wedge(?![a-zA-Z])",
    "union": r"\\cup(?![a-zA-Z])",
    "intersection": r"\\cap(?![a-zA-Z])",
    "difference": r"\\setminus(?![a-zA-Z])|(?<=[}\s])[-\\](?=\s*\\\{)",
    "ratio": ":",
    "relation": r"<=|>=|!=|[=<>]|≈|\\(?:in|notin)(?![a-zA-Z])",
}
_BRACKETS_OR = {what: re.compile(rf"[()\[\]{{}}]|{separators}") for what, separators in _SEPARATORS.items()}
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w|\\[a-zA-Z]+)")
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-zA-Z]+)'*(?:\([^()<>=+*/^]{1,30}\))?"  # x, \theta, f(x), P(A)
    r"|\|?[A-Z]{1,6}\|?"  # |AB|
    r"|m?\\(?:angle|triangle|text|measuredangle|overline|overrightarrow|vec)\s*\{?[^=<>]{1,60}"
    r"|[A-Za-z]{2,}|\\\|.{1,20}\\\|"
    r"|(?:[fghFGPE]|\\mathbb\{[EP]\}|\\Pr)(?:\((?:[^()]|\([^()]*\)){1,40}\)|\[[^\[\]]{1,40}\])"  # P(X=2), f(g(2)), E[X]
)
_NOT_A_NAME = re.compile(r"\\(?:frac|sqrt|pi|infty|pm|int|sum|prod|lim|begin|binom)(?![a-zA-Z])")
_RATIO_OF_NAMES = re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}|([^:/]+)[:/]([^:/]+)")
_SUM_OF_NAMES = re.compile(r"[A-Za-z](?:\s*[-+*]?\s*[A-Za-z])+")
_LETTERS_ONLY = re.compile(r"[^\d^=<>]*[A-Za-z][^\d^=<>]*")


@dataclass(frozen=True)
class Shape:
    """One answer or part of one.

    Attributes:
        kind: "leaf" for an answer without parts; "list", "set"; "tuple" for a list in brackets; "interval" for an
            inequality; "union", "intersection", "difference" of sets; "or", "and" of statements; "matrix", "cases",
            "ratio", "relation".
        text: the cleaned formula.
        items: the parts. Those of a matrix are its entries, row by row; those of a relation are its sides.
        name: the text before "=" or "\\in" if it is a name, else "".
        brackets: the two brackets of a tuple; "rows x columns" of a matrix; the signs of a relation; the joiner of a
            list, which is "and", "or" or ",".
    """

    kind: str
    text: str
    items: tuple[Shape, ...] = ()
    name: str = ""
    brackets: str = ""


BOUND = "bound"  # the name of the variable in a set that is defined by a condition


def leaf(text: str) -> Shape:
    """Return an answer without parts."""
    return Shape("leaf", text.strip())


def point(items: tuple[Shape, ...]) -> Shape:
    """Return parts, with or without names, as a tuple."""
    return Shape("tuple", ",".join(f"{item.name}={item.text}" for item in items), items, brackets="()")


def split(text: str, what: str) -> tuple[list[str], list[str]]:
    """Split a text at the separators of a kind outside of brackets; return the pieces and the separators."""
    pieces, separators, depth, start = [], [], 0, 0
    for match in _BRACKETS_OR[what].finditer(text):
        found = match[0]
        if found in "([{":
            depth += 1
        elif found in ")]}":
            depth -= 1
        elif depth == 0:
            pieces.append(text[start : match.start()].strip())
            separators.append(found)
            start = match.end()
    return [*pieces, text[start:].strip()], separators


def closes_at_end(text: str) -> bool:
    """Whether the last character closes the bracket at the start. A ] may close a (."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def is_name(text: str) -> bool:
    """Whether a text can be the name of an answer: x, x_1, f(x), |AB|, \\angle ABC, (x, y), AB/CD, A:B."""
    plain = _SUBSCRIPT.sub("", key(text))
    if not plain or len(plain) > 80:
        return False
    if plain[0] == "(" and plain[-1] == ")" and "," in plain:
        return all(map(is_name, plain[1:-1].split(",")))
    if "\\text" in plain and CHANGING & set(re.findall(r"[a-z']+", text.lower())):
        return False  # as in "not y = 3"
    ratio = _RATIO_OF_NAMES.fullmatch(plain)
    if ratio:
        return all(is_name(part) for part in ratio.groups() if part)
    return bool(_NAME.fullmatch(plain)) and not _NOT_A_NAME.search(plain)


def is_variable(text: str) -> bool:
    """Whether a text is a name and nothing else. e and i are also numbers."""
    return is_name(text) and text not in ("e", "i")


def is_sum_of_names(text: str) -> bool:
    """Whether a left side is a sum or product of names, for which a question may ask: m+n, xy."""
    return bool(_SUM_OF_NAMES.fullmatch(_SUBSCRIPT.sub("", text)))


def is_letters_only(text: str) -> bool:
    """Whether a left side has letters and no numbers: x+y, ab."""
    return bool(_LETTERS_ONLY.fullmatch(_SUBSCRIPT.sub("", text)))
