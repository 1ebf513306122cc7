r"""Read the gold answers of math problems in public data sets into texts without `\boxed` or `$`."""

import ast
import math
import re
from collections.abc import Sequence
from decimal import Decimal

from envs.grading.answers import MathAnswer
from envs.grading.exact_json import integer_text, parse_json
from envs.grading.math.golds import mend_escapes, why_not_comparable
from envs.grading.math.text import boxed_answer
from envs.layouts.cells import Cell

_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PLACEHOLDERS = {
    "proof",
    "notfound",
    "not found",
    "n/a",
    "nan",
    "null",
    "nil",
    "<na>",
    "todo",
    "tbd",
    "see solution",
    "?",
}
_UNIT_IN_BRACKETS = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:/\d+)?)\s*\([A-Za-z][A-Za-z .]*\)")
_FINAL_LINE = re.compile(
    r"\W*(?:A|Answer|The (?:final )?answer is|Final answer)\W*?[:=]?\s*(\S.{0,80}?)\.?", re.IGNORECASE
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MIN_PROSE_WORDS = 20  # a completion can equal shorter texts: "No, it is not.", "the set of all even integers"
_OTHER_COLUMN = '; another column may hold it: columns={"answer": "<column>"}'
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def math_answer(cell: Cell, require_all: bool | None = None) -> MathAnswer:
    """Read the gold of a math problem. With `require_all` None, all of a list of numbers and any of a list of texts.

    Raises:
        ValueError: for a cell that holds no gold.
    """
    value = _listed(cell).value
    if require_all is None:
        numbers = isinstance(value, Sequence) and all(isinstance(v, int | float) and v is not True for v in value)
        require_all = numbers and not isinstance(value, str)
    texts = golds(cell)
    return MathAnswer(texts, require_all=bool(require_all) and len(texts) > 1)


def golds(cell: Cell) -> tuple[str, ...]:
    r"""Read one gold or a list of golds. The list may also be a text, as JSON or Python write a list of texts.

    For a solution in GSM8K's style, the gold follows the last "####". A text that is a list of numbers is not split:
    "[1, 2]" is an interval.

    Raises:
        ValueError: for a cell that holds no gold.
    """
    cell = _listed(cell)
    if isinstance(cell.value, Sequence) and not isinstance(cell.value, str | bytes):
        if not cell.value:
            raise cell.refused("at least one answer")
        return tuple(map(_gold, cell.items()))
    return (_gold(cell),)


def _listed(cell: Cell) -> Cell:
    value = cell.value
    if isinstance(value, str) and value.lstrip().startswith("["):
        listed = _list_of_texts(value)
        return cell if listed is None else Cell(cell.column, listed)
    return cell


def worked_gold(cell: Cell) -> tuple[str, ...]:
    r"""Return the answer at the end of a worked solution: the content of its last \boxed.

    Raises:
        ValueError: for a solution without a box.
    """
    if boxed_answer(cell.text()) is None and "####" not in cell.text():
        raise cell.refused(r"a solution that ends in \boxed{...}, or in #### and the answer")
    return (_gold(cell),)


def comma_separated_golds(cell: Cell) -> tuple[str, ...]:
    """Split a gold at the commas outside of brackets: "1,(2,3)" has two parts."""
    parts, depth = [""], 0
    for character in _gold(cell):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(_gold(Cell(cell.column, part)) for part in parts)


def _gold(cell: Cell) -> str:
    value = cell.value
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, str | int | float):
        raise cell.refused("a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise cell.refused("a finite number")
    text = _without_delimiters(mend_escapes(value) if isinstance(value, str) else _number_text(value))
    if not text:
        raise cell.refused("an answer that is not empty")
    text = _answer_text(cell, text)
    reason = why_not_comparable(text)
    if reason is not None:
        raise cell.refused(f"an answer that can be compared; this is {reason}")
    return text


def _answer_text(cell: Cell, text: str) -> str:
    """Refuse a text that no completion can match. Extract the answer of a solution, and remove a unit in brackets."""
    if text.lower().strip(" .") in _PLACEHOLDERS:
        raise cell.refused(f"an answer, not a placeholder{_OTHER_COLUMN}")
    if match := _UNIT_IN_BRACKETS.fullmatch(text):
        return match[1]
    if len(_WORD.findall(text)) < _MIN_PROSE_WORDS and "\n" not in text:
        return text
    last = text.rstrip().splitlines()[-1]
    if match := _FINAL_LINE.fullmatch(last):
        return _without_delimiters(match[1]) or text
    if len(_WORD.findall(text)) >= _MIN_PROSE_WORDS:
        raise cell.refused(f"a final answer, not prose{_OTHER_COLUMN}")
    return text


def _number_text(value: int | float) -> str:
    """Write 27.0 as 27, 1e-7 as 0.0000001 and 2**70 with all its digits."""
    if isinstance(value, int):
        return integer_text(value)
    return format(Decimal(repr(value + 0.0)), "f").removesuffix(".0")  # -0.0 + 0.0 is 0.0


def _without_delimiters(text: str) -> str:
    r"""Remove GSM8K's mark, \boxed{...}, "$...$" and similar marks, in any order of nesting."""
    text = text.strip()
    if "####" in text:
        return _without_delimiters(_THOUSANDS_COMMA.sub("", text.rpartition("####")[2]))
    boxed = boxed_answer(text)
    if boxed is not None:
        return _without_delimiters(boxed)
    for start, end in _DELIMITERS:
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and inner and start not in inner:
            return _without_delimiters(inner)
    return text


def _list_of_texts(text: str) -> list[str] | None:
    for parse in (parse_json, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
    return None
