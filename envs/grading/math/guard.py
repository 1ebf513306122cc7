"""Which formulas are never given to a computer algebra system, because they may cost it minutes or gigabytes."""

from __future__ import annotations

import re

MAX_CHARS = 1_000
MAX_DEPTH = 30
MAX_POWERS = 12

_UNEVALUATED = re.compile(
    r"\\(?:int|iint|iiint|oint|sum|prod|lim|limsup|liminf|det|bigcup|bigcap|coprod|mathrm\{d\})(?![a-zA-Z])"
)
_LONG_DIGITS = re.compile(r"\d{100}")
_LARGE_POWER = re.compile(r"\^\s*\{?\s*[-+]?\d{5}|\*\*\s*[-+]?\d{5}")
_TOWER = re.compile(r"\^[\s{(]*[^\s{}()]{1,20}\s*\^")
_LARGE_FACTORIAL = re.compile(r"\d{4}\s*!|[!)]\s*\)*\s*!")
_OPENING = re.compile(r"[({\[]|[)}\]]")


def is_costly(gold: str, answer: str) -> bool:
    """Tell whether comparing two formulas might take long.

    An integral, sum, product, limit or determinant that the gold does not have is never evaluated either: it repeats
    the question instead of answering it.
    """
    if _UNEVALUATED.search(answer) and not _UNEVALUATED.search(gold):
        return True
    return any(_is_costly(text) for text in (gold, answer))


def _is_costly(text: str) -> bool:
    return (
        len(text) > MAX_CHARS
        or text.count("^") > MAX_POWERS
        or any(pattern.search(text) for pattern in (_LONG_DIGITS, _LARGE_POWER, _TOWER, _LARGE_FACTORIAL))
        or _depth(text) > MAX_DEPTH
    )


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _OPENING.finditer(text):
        depth += 1 if match[0] in "({[" else -1
        deepest = max(deepest, depth)
    return deepest
