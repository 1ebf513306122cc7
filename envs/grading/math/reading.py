"""Finds the shape of a cleaned formula: a number, a list, a point, an interval, a set, a matrix, an equation.

A shape has the parts of an answer, which are compared one by one. It gives brackets, order and the names before "=" the
meaning that they have in an answer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import product

from envs.grading.math.clean import key
from envs.grading.math.quantity import is_compound
from envs.grading.math.relations import Read, relation
from envs.grading.math.shape import BOUND, Shape, closes_at_end, is_name, leaf, point, split
from envs.grading.math.words import clock, named_set

MAX_ITEMS = 600
MAX_NESTING = 20
MAX_PLUS_MINUS = 3

_SPECIAL = re.compile(
    r"[,;:=<>≈()\[\]{|]|\\(?:cup|cap|setminus|wedge|vee|in|notin|pm|mp|begin|mathbb|emptyset|and|or)(?![a-zA-Z])|!="
)
_TABLE = re.compile(
    r"(?P<before>(?:\\\{|[(\[{\\.])*)\s*\\begin\s*\{(?P<kind>cases|array|[pbvB]?matrix|smallmatrix)\}(?:\s*\{[clr|]*\})?"
    r"(?P<content>.*)\\end\s*\{(?P=kind)\}\s*(?P<after>[.)\]}]*)",
    re.DOTALL,
)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_SET_BUILDER = re.compile(r"\\\{(.{1,60}?)(?:\||:)(.+)\\\}", re.DOTALL)
_AND = r"\s*(?:,|\\and(?![a-z])|\\wedge|;)?\s*"
_RELATION = re.compile(r"[<>=≈(\[]|\\(?:in|notin)(?![a-z])")
_CONDITION_WORDS = re.compile(r"\\text\{\s*(?:if|for|when|where|,|\s)*\s*\}")
_OTHERWISE = re.compile(r"\\text\{\s*(?:otherwise|else)\s*\}")
_OPERATIONS = ("or", "and", "union", "intersection", "difference")


def shape(text: str, nesting: int = 0) -> Shape:
    """Return the shape of a cleaned formula. A formula that cannot be divided is a leaf."""
    text = named_set(text.strip())
    if nesting > MAX_NESTING or not _SPECIAL.search(text) or is_compound(text):
        return leaf(text)
    read = partial(shape, nesting=nesting + 1)
    table = _TABLE.fullmatch(text)
    if table and "\\begin" not in table["content"]:
        return _table(text, table, read)
    pieces, joiners = split(text, "list")
    pieces = [piece for piece in pieces if piece]
    if not pieces or len(pieces) > MAX_ITEMS:
        return leaf(text)
    if len(pieces) == 1:
        return _single(pieces[0], read)
    if "!=" in pieces[0] and not any(map(_RELATION.search, pieces[1:])):
        name, first = pieces[0].split("!=", 1)
        return relation([name.strip(), ",".join([first, *pieces[1:]])], ["!="], read)
    joiner = next((name for name in ("or", "and") if f"\\{name}" in joiners), ",")
    return Shape("list", text, _as_tuples(_flat(pieces, read)), brackets=joiner)


def _single(text: str, read: Read) -> Shape:
    expanded = _expanded(text, read)
    if expanded is not None:
        return expanded
    sides, signs = split(text, "relation")
    if signs:
        return relation(sides, signs, read)
    for operation in _OPERATIONS:
        parts = split(text, operation)[0]
        if len(parts) > 1 and all(parts):
            return Shape(operation, text, tuple(map(read, parts)))
    bracketed = _bracketed(text, read)
    if bracketed is not None:
        return bracketed
    parts = split(text, "ratio")[0]
    return Shape("ratio", text, tuple(map(leaf, parts))) if len(parts) > 2 and not clock(text) else leaf(text)


def _table(text: str, table: re.Match, read: Read) -> Shape:
    rows = [row.strip(" ,.;") for row in table["content"].split("\\\\") if row.strip(" \\,.;")]
    entries = [row.split("&") for row in rows]
    if table["before"].count("(") != table["after"].count(")"):
        return leaf(text)
    is_open = r"\{" in table["before"] and table["after"] != "}}"
    if table["kind"] != "cases" and not (is_open and table["kind"] == "array"):
        if is_open or len({len(row) for row in entries}) != 1:
            return leaf(text)
        size = f"{len(entries)} x {len(entries[0])}" + " determinant" * (table["kind"] == "vmatrix")
        return Shape("matrix", text, tuple(read(entry) for row in entries for entry in row), brackets=size)
    if all(len(row) == 2 for row in entries):
        parts = [
            _OTHERWISE.sub(r"\\text{otherwise}", _CONDITION_WORDS.sub("", part)) for row in entries for part in row
        ]
        return Shape("cases", text, tuple(read(part.strip(" ,.;")) for part in parts))
    return read(" \\and ".join(row.replace("&", " ") for row in rows))


def _expanded(text: str, read: Read) -> Shape | None:
    r"""Return the list of values that \pm stands for. The signs are independent unless the formula has an \mp."""
    pieces = _PLUS_MINUS.split(text)
    signs = pieces[1::2]
    if not signs or len(signs) > MAX_PLUS_MINUS or re.search(r"!=|\\in|[<>]|\\begin", text):
        return None
    tied = [tuple(order[sign == "mp"] for sign in signs) for order in ("+-", "-+")]
    texts = [
        "".join(piece + sign for piece, sign in zip(pieces[::2], [*chosen, ""], strict=True))
        for chosen in (tied if "mp" in signs else product("+-", repeat=len(signs)))
    ]
    name, _, _ = texts[0].partition("=")
    if is_name(name) and texts[0].count("=") == 1:
        return Shape("list", text, tuple(read(text.partition("=")[2]) for text in texts), key(name), ",")
    return Shape("list", text, tuple(map(read, texts)), brackets=",")


def _bracketed(text: str, read: Read) -> Shape | None:
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text[1:]):
        builder = _SET_BUILDER.fullmatch(text)
        if builder:
            return _built(text, builder[1].strip(), builder[2].strip(), read)
        return Shape("set", text, tuple(_flat([piece for piece in split(text[2:-2], "list")[0] if piece], read)))
    if len(text) < 2 or text[0] not in "([{]" or text[-1] not in ")]}[":
        return None
    is_french = text[0] == "]" or text[-1] == "["
    if not is_french and not closes_at_end(text):
        return None
    content = text[1:-1].rstrip("\\") if text[0] == "{" else text[1:-1]
    pieces = split(content, "list")[0]
    if len(pieces) > 1 and text[0] != "{":
        brackets = text[0].replace("]", "(") + text[-1].replace("[", ")")
        return Shape("tuple", text, tuple(map(read, pieces)), brackets=brackets)
    return None if is_french else read(content)


def _built(text: str, element: str, condition: str, read: Read) -> Shape | None:
    """Return the shape of the condition for a set of all real x that meet it; None for other sets."""
    match = re.fullmatch(r"([A-Za-z])\s*(?:\\in\s*(?:\\mathbb\{R\}|R))?", element)
    if match is None:
        return None
    member = rf"{match[1]}\s*\\in\s*(?:\\mathbb\{{R\}}|R)"
    value = read(re.sub(rf"{member}{_AND}|{_AND}{member}\s*\Z", "", condition))
    if {item.name for item in (value.items if value.kind == "list" else (value,))} != {match[1]}:
        return None
    return replace(value, text=text, name="", items=tuple(replace(i, name=i.name and BOUND) for i in value.items))


def _flat(pieces: list[str], read: Read) -> list[Shape]:
    """Return the items of a list. An item that is itself a list (1 \\pm 2) is replaced by its items."""
    items: list[Shape] = []
    for item in map(read, pieces):
        items += [replace(part, name=part.name or item.name) for part in item.items] if item.kind == "list" else [item]
    return items


def _as_tuples(items: list[Shape]) -> tuple[Shape, ...]:
    """Return x=1, y=2, x=3, y=4 as the points (1, 2) and (3, 4)."""
    names = [item.name for item in items]
    period = len(set(names))
    is_periodic = names == names[:period] * (len(names) // max(period, 1))
    if period < 2 or "" in names or len(names) < 2 * period or not is_periodic:
        return tuple(items)
    chunks = [tuple(items[start : start + period]) for start in range(0, len(items), period)]
    return tuple(map(point, chunks))
