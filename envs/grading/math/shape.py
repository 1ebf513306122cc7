"""What kind of answer a cleaned formula is: a number, a list, a point, an interval, a set, a matrix, an equation.

A shape splits an answer into the parts that are compared one by one, so that brackets, order and the names before "="
get the meaning that they have in an answer, whichever library evaluates the parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from envs.grading.math.clean import key

MAX_ITEMS = 600
MAX_NESTING = 20

_SPECIAL = re.compile(r"[,;=<>≈()\[\]{|]|\\(?:cup|in|pm|begin|mathbb)(?![a-zA-Z])|!=")
_BRACKET_OR = {
    "list": re.compile(r"[()\[\]{}]|[,;]"),
    "semicolons": re.compile(r"[()\[\]{}]|;"),
    "cup": re.compile(r"[()\[\]{}]|\\cup(?![a-zA-Z])"),
    "relation": re.compile(r"[()\[\]{}]|<=|>=|!=|[=<>]|≈|\\in(?![a-zA-Z])"),
}
_MATRIX = re.compile(
    r"[(\[{]*\s*\\begin\s*\{(?:[pbvB]?matrix|smallmatrix|array)\}(?:\s*\{[clr|]*\})?(.*)"
    r"\\end\s*\{(?:[pbvB]?matrix|smallmatrix|array)\}\s*[)\]}]*",
    re.DOTALL,
)
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w|\\[a-zA-Z]+)")
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[a-zA-Z]+)'*(?:\([^()<>=+*/^]{1,30}\))?"  # x, \theta, f(x), P(A)
    r"|\|?[A-Z]{1,6}\|?"  # |AB|
    r"|\\(?:angle|triangle|text|measuredangle|overline|overrightarrow|vec)\s*\{?[^=<>]{1,60}"
    r"|[A-Za-z]{2,}"
)
_NOT_A_NAME = re.compile(r"\\(?:frac|sqrt|pi|infty|pm|int|sum|prod|lim|begin|binom)(?![a-zA-Z])")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_KNOWN = re.compile(r"\\(?:frac|sqrt|pi|binom|cdot|sin|cos|tan|ln|log|lfloor|rfloor|text\{[^{}]*\})(?![a-zA-Z])")
_LETTERS_ONLY = re.compile(r"[^\d^=<>]*[A-Za-z][^\d^=<>]*")
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Shape:
    """One answer or part of one.

    Attributes:
        kind: "leaf", "list", "set", "tuple" (an interval too), "union", "matrix" or "relation".
        text: the cleaned formula.
        items: the parts; of a matrix all entries, row by row; of a relation its two sides.
        name: what stands before "=" or "\\in", when that is just a name.
        brackets: of a tuple its two brackets, of a matrix "rows x columns", of a relation its sign.
    """

    kind: str
    text: str
    items: tuple[Shape, ...] = ()
    name: str = ""
    brackets: str = ""


def shape(text: str, nesting: int = 0) -> Shape:
    """Return the shape of a cleaned formula; what makes no sense is a leaf."""
    text = text.strip()
    if nesting > MAX_NESTING or not _SPECIAL.search(text):
        return Shape("leaf", text)
    pieces = [piece for piece in _split(text, "list")[0] if piece.strip()]
    if len(pieces) > MAX_ITEMS:
        return Shape("leaf", text)
    if len(pieces) > 1:
        return Shape("list", text, _as_tuples(_flat(pieces, nesting)))
    return _single(pieces[0].strip(), nesting) if pieces else Shape("leaf", text)


def is_name(text: str) -> bool:
    """Tell whether this is what an answer may be called: x, x_1, f(x), |AB|, \\angle ABC, (x, y), AB/CD, A:B."""
    plain = _SUBSCRIPT.sub("", key(text))
    if not plain or len(plain) > 80:
        return False
    if plain[0] == "(" and plain[-1] == ")" and "," in plain:
        return all(is_name(part) for part in plain[1:-1].split(","))
    ratio = re.fullmatch(r"\\frac\{([^{}]+)\}\{([^{}]+)\}|([^:/]+)[:/]([^:/]+)", plain)
    if ratio:
        return all(is_name(part) for part in ratio.groups() if part)
    return bool(_NAME.fullmatch(plain)) and not _NOT_A_NAME.search(plain) and plain not in ("i", "e")


def is_letters_only(text: str) -> bool:
    """Tell whether a left side has no numbers in it: x+y, ab."""
    return bool(_LETTERS_ONLY.fullmatch(_SUBSCRIPT.sub("", text)))


def _single(text: str, nesting: int) -> Shape:
    matrix = _MATRIX.fullmatch(text)
    if matrix and "\\begin" not in matrix[1]:
        return _matrix(text, matrix[1], nesting)
    if text == r"\mathbb{R}":
        return Shape("tuple", text, (Shape("leaf", r"-\infty"), Shape("leaf", r"\infty")), brackets="()")
    sides, signs = _split(text, "relation")
    if signs:
        return _relation(text, [side.strip() for side in sides], signs, nesting)
    parts = _split(text, "cup")[0]
    if len(parts) > 1:
        items = tuple(shape(part, nesting + 1) for part in parts)
        return Shape("union", text, items)
    bracketed = _bracketed(text, nesting)
    if bracketed is not None:
        return bracketed
    signs_split = _PLUS_MINUS.split(text)
    if len(signs_split) == 2 and "\\begin" not in text:
        head, tail = signs_split
        return Shape("list", text, tuple(Shape("leaf", f"{head}{sign}{tail}".strip()) for sign in "+-"))
    return Shape("leaf", text)


def _bracketed(text: str, nesting: int) -> Shape | None:
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes_at_end(text[1:]):
        content = text[2:-2]
        if "|" in content or ":" in content:
            return None  # a set by its property
        pieces = [piece for piece in _split(content, "list")[0] if piece.strip()]
        return Shape("set", text, tuple(_flat(pieces, nesting)))
    if len(text) < 2 or text[0] not in "([{]" or text[-1] not in ")]}[":
        return None
    french = text[0] == "]" or text[-1] == "["
    if not french and not _closes_at_end(text):
        return None
    content = text[1:-1].rstrip("\\") if text[0] == "{" else text[1:-1]
    pieces = _split(content, "list")[0]
    if len(pieces) < 2:
        return None if french else shape(content, nesting + 1)
    if text[0] == "{":
        return shape(content, nesting + 1)
    items = tuple(shape(piece, nesting + 1) for piece in pieces)
    opening = {"]": "("}.get(text[0], text[0])
    closing = {"[": ")"}.get(text[-1], text[-1])
    return Shape("tuple", text, items, brackets=opening + closing)


def _matrix(text: str, content: str, nesting: int) -> Shape:
    rows = [row for row in content.split("\\\\") if row.strip(" \\")]
    entries = [[shape(entry, nesting + 1) for entry in row.split("&")] for row in rows]
    if len({len(row) for row in entries}) != 1:
        return Shape("leaf", text)
    items = tuple(entry for row in entries for entry in row)
    return Shape("matrix", text, items, brackets=f"{len(entries)} x {len(entries[0])}")


def _relation(text: str, sides: list[str], signs: list[str], nesting: int) -> Shape:
    if "≈" in signs:
        place = signs.index("≈")
        exact_sides, exact_signs = sides[: place + 1], signs[:place]
        if not exact_signs and is_name(sides[0]):
            exact_sides, exact_signs = [sides[0], sides[1]], ["="]
        sides, signs = exact_sides, exact_signs
        if not signs:
            return shape(sides[0], nesting + 1)
        text = "".join(part for pair in zip(sides, [*signs, ""], strict=True) for part in pair)
    if set(signs) == {"="} or signs == [r"\in"]:
        return _equation(text, sides, signs[0], nesting)
    interval = _interval(text, sides, signs)
    if interval is not None:
        return interval
    items = (Shape("leaf", sides[0]), Shape("leaf", sides[-1]))
    return Shape("relation", text, items, brackets=signs[0] if len(signs) == 1 else "chain")


def _equation(text: str, sides: list[str], sign: str, nesting: int) -> Shape:
    value = shape(sides[-1], nesting + 1)
    if is_name(sides[0]):
        return replace(value, name=key(sides[0]))
    if sign == "=" and is_name(sides[-1]) and len(sides) == 2:
        return replace(shape(sides[0], nesting + 1), name=key(sides[-1]))
    if sign == "=" and not re.search(r"[A-Za-z]", _KNOWN.sub("", sides[0])):
        return value  # a calculation and its result
    return Shape("relation", text, (Shape("leaf", sides[0]), Shape("leaf", sides[-1])), brackets="=")


def _interval(text: str, sides: list[str], signs: list[str]) -> Shape | None:
    """Return x < 3, 1 <= x < 2 or x != 3 as an interval or a union of two; None for anything else."""
    if len(signs) == 1:
        (left, right), sign = sides, signs[0]
        if not is_name(left) and is_name(right):
            left, right, sign = right, left, _FLIPPED.get(sign, sign)
        if not is_name(left) or is_name(right):
            return None
        if sign == "!=":
            parts = (_open_to("<", right), _open_to(">", right))
            return Shape("union", text, parts, name=key(left))
        return replace(_open_to(sign, right), text=text, name=key(left)) if sign in _FLIPPED else None
    if len(signs) == 2 and is_name(sides[1]):
        if all(sign in (">", ">=") for sign in signs):
            sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
        if all(sign in ("<", "<=") for sign in signs):
            brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
            ends = (Shape("leaf", sides[0]), Shape("leaf", sides[2]))
            return Shape("tuple", text, ends, key(sides[1]), brackets)
    return None


def _open_to(sign: str, end: str) -> Shape:
    bound = Shape("leaf", end)
    if sign in ("<", "<="):
        return Shape("tuple", "", (Shape("leaf", r"-\infty"), bound), brackets="(" + ("]" if sign == "<=" else ")"))
    return Shape("tuple", "", (bound, Shape("leaf", r"\infty")), brackets=("[" if sign == ">=" else "(") + ")")


def _flat(pieces: list[str], nesting: int) -> list[Shape]:
    """Return the items of a list; an item that is a list itself (1 \\pm 2) gives its items."""
    items: list[Shape] = []
    for piece in pieces:
        item = shape(piece, nesting + 1)
        items += [replace(part, name=part.name or item.name) for part in item.items] if item.kind == "list" else [item]
    return items


def _as_tuples(items: list[Shape]) -> tuple[Shape, ...]:
    """Return x=1, y=2, x=3, y=4 as the points (1, 2) and (3, 4)."""
    names = [item.name for item in items]
    period = len(set(names))
    if period < 2 or "" in names or len(names) < 2 * period or len(names) % period:
        return tuple(items)
    if any(name != names[place % period] for place, name in enumerate(names)):
        return tuple(items)
    chunks = [items[start : start + period] for start in range(0, len(items), period)]
    return tuple(Shape("tuple", ",".join(item.text for item in chunk), tuple(chunk), brackets="()") for chunk in chunks)


def _split(text: str, what: str) -> tuple[list[str], list[str]]:
    """Split at the separators that are inside no brackets; also return these separators."""
    pieces, separators, depth, start = [], [], 0, 0
    for match in _BRACKET_OR[what].finditer(text):
        found = match[0]
        if found in "([{":
            depth += 1
        elif found in ")]}":
            depth -= 1
        elif depth == 0:
            pieces.append(text[start : match.start()])
            separators.append(found)
            start = match.end()
    return [*pieces, text[start:]], separators


def _closes_at_end(text: str) -> bool:
    """Tell whether the bracket at the start is closed by the last character; ( may be closed by ]."""
    depth = 0
    for place, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return place == len(text) - 1
    return False
