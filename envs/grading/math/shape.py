"""What kind of answer a formula is, and the small questions about its text that decide it."""

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
        kind: "leaf"; "list", "set"; "tuple" in brackets; "interval" from an inequality; "union", "intersection",
            "difference" of sets; "or", "and" of statements; "matrix", "cases", "ratio", "relation".
        text: the cleaned formula.
        items: the parts; of a matrix all entries, row by row; of a relation its two sides.
        name: what stands before "=" or "\\in", when that is just a name.
        brackets: of a tuple its two brackets, of a matrix "rows x columns", of a relation its sign, of a list what
            joins its parts: "and", "or" or ",".
    """

    kind: str
    text: str
    items: tuple[Shape, ...] = ()
    name: str = ""
    brackets: str = ""


BOUND = "bound"  # the name in a set by its property


def leaf(text: str) -> Shape:
    """Return an answer without parts."""
    return Shape("leaf", text.strip())


def point(items: tuple[Shape, ...]) -> Shape:
    """Return several named or unnamed parts as one in a given order."""
    return Shape("tuple", ",".join(f"{item.name}={item.text}" for item in items), items, brackets="()")


def split(text: str, what: str) -> tuple[list[str], list[str]]:
    """Split at the separators of a kind that are inside no brackets; also return these separators."""
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
    """Tell whether the bracket at the start is closed by the last character; ( may be closed by ]."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False


def is_name(text: str) -> bool:
    """Tell whether this is what an answer may be called: x, x_1, f(x), |AB|, \\angle ABC, (x, y), AB/CD, A:B."""
    plain = _SUBSCRIPT.sub("", key(text))
    if not plain or len(plain) > 80:
        return False
    if plain[0] == "(" and plain[-1] == ")" and "," in plain:
        return all(map(is_name, plain[1:-1].split(",")))
    if "\\text" in plain and CHANGING & set(re.findall(r"[a-z']+", text.lower())):
        return False  # not y = 3
    ratio = _RATIO_OF_NAMES.fullmatch(plain)
    if ratio:
        return all(is_name(part) for part in ratio.groups() if part)
    return bool(_NAME.fullmatch(plain)) and not _NOT_A_NAME.search(plain)


def is_variable(text: str) -> bool:
    """Tell whether this is a name and can be nothing else, as e and i can."""
    return is_name(text) and text not in ("e", "i")


def is_sum_of_names(text: str) -> bool:
    """Tell whether a left side is something that a question may ask for besides a name: m+n, xy."""
    return bool(_SUM_OF_NAMES.fullmatch(_SUBSCRIPT.sub("", text)))


def is_letters_only(text: str) -> bool:
    """Tell whether a left side has no numbers in it: x+y, ab."""
    return bool(_LETTERS_ONLY.fullmatch(_SUBSCRIPT.sub("", text)))
