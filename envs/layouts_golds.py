r"""Gold answers of math problems, as cells of public data sets hold them, read into texts without `\boxed` or `$`."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal

from envs.grading.exact_json import integer_text, parse_json
from envs.grading.math_text import boxed_answer
from envs.layouts_cells import Cell

_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def golds(cell: Cell) -> tuple[str, ...]:
    r"""Read one gold, or a list of them, which may be the JSON text of a list of texts.

    A solution in GSM8K's style gives what follows its last "####". A JSON list of numbers stays what it is:
    "[1, 2]" is an interval.

    Raises:
        ValueError: for a cell that holds no gold.
    """
    value = cell.value
    if isinstance(value, str) and value.lstrip().startswith("["):
        listed = _json_list_of_texts(value)
        cell = cell if listed is None else Cell(cell.column, listed)
    if isinstance(cell.value, Sequence) and not isinstance(cell.value, str | bytes):
        if not cell.value:
            raise cell.refused("at least one answer")
        return tuple(map(_gold, cell.items()))
    return (_gold(cell),)


def worked_gold(cell: Cell) -> tuple[str, ...]:
    r"""Return the answer at the end of a worked solution: what its last \boxed holds.

    Raises:
        ValueError: for a solution without a box.
    """
    if boxed_answer(cell.text()) is None:
        raise cell.refused(r"a solution that ends in \boxed{...}")
    return (_gold(cell),)


def comma_separated_golds(cell: Cell) -> tuple[str, ...]:
    """Split a gold at the commas that stand in no bracket: "1,(2,3)" has two parts."""
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
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise cell.refused("a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise cell.refused("a finite number")
    text = _without_delimiters(value if isinstance(value, str) else _number_text(value))
    if not text:
        raise cell.refused("an answer that is not empty")
    return text


def _number_text(value: int | float) -> str:
    """Write 27.0 as 27, 1e-7 as 0.0000001 and 2**70 with all its digits."""
    if isinstance(value, int):
        return integer_text(value)
    return format(Decimal(repr(value + 0.0)), "f").removesuffix(".0")  # -0.0 + 0.0 is 0.0


def _without_delimiters(text: str) -> str:
    r"""Take GSM8K's mark, \boxed{...}, "$...$" and the like off, in whatever order they are nested."""
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


def _json_list_of_texts(text: str) -> list[str] | None:
    try:
        value = parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
