"""Cells of a row with the name of their column, so that every error message can contain it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from envs.grading.exact_json import integer_text, parse_json

_MAX_SHOWN_CHARS = 80
_NOTHING = object()


@dataclass(frozen=True)
class Cell:
    """The value of a row at a dotted path."""

    column: str
    value: Any

    def refused(self, expected: str) -> ValueError:
        """Make the error for a cell with another value than expected."""
        is_integer = isinstance(self.value, int) and not isinstance(self.value, bool)
        shown = integer_text(self.value) if is_integer else repr(self.value)
        return ValueError(f"{self.column}={_shortened(shown, _MAX_SHOWN_CHARS)}: expected {expected}")

    def text(self) -> str:
        """Return a text that is not empty.

        Raises:
            ValueError: if there is none.
        """
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.refused("a text that is not empty")
        return self.value

    def items(self) -> "list[Cell]":
        """Return the entries of a list as cells."""
        return [Cell(f"{self.column}[{i}]", item) for i, item in enumerate(self.value)]


Row = Mapping[str, Any]
Fields = dict[str, Cell]


@contextmanager
def naming(cell: Cell) -> Iterator[None]:
    """Add the name of the cell to a ValueError from reading tests."""
    try:
        yield
    except ValueError as error:
        raise cell.refused(f"tests of a program ({_shortened(str(error), 200)})") from None


def has_path(row: Row, path: str) -> bool:
    """Tell whether the row has this column. "a.b" is the column "a.b", or else b inside of a.

    "a.0" is the first entry of the list a. A path may go into a text that is a JSON object or list.
    """
    return _at(row, path) is not _NOTHING


def cell_at(row: Row, path: str) -> Cell:
    """Return the cell at a path that exists."""
    value = _at(row, path)
    assert value is not _NOTHING, path
    return Cell(path, value)


def _at(holder: Any, path: str) -> Any:
    if isinstance(holder, Mapping) and path in holder:
        return holder[path]
    if isinstance(holder, list | tuple):
        holder = {str(number): item for number, item in enumerate(holder)}
        if path in holder:
            return holder[path]
    head, _, rest = path.partition(".")
    if not rest or not isinstance(holder, Mapping) or head not in holder:
        return _NOTHING
    inner = holder[head]
    if isinstance(inner, str) and inner.lstrip()[:1] in ("{", "["):
        try:
            inner = parse_json(inner)
        except ValueError:
            return _NOTHING
    return _at(inner, rest)


def paths(row: Row) -> Iterator[str]:
    """Yield the dotted path of every cell."""
    for column, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{column}.{rest}" for rest in paths(value))
        else:
            yield str(column)


def _shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
