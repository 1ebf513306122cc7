"""Cells of a row with the name of their column, so that every complaint can name it; texts and chats in them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from envs.grading.exact_json import integer_text

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Cell:
    """What a row holds at a dotted path."""

    column: str
    value: Any

    def refused(self, expected: str) -> ValueError:
        """Make the error for a cell that does not hold what it should."""
        is_integer = isinstance(self.value, int) and not isinstance(self.value, bool)
        shown = integer_text(self.value) if is_integer else repr(self.value)
        return ValueError(f"{self.column}={_shortened(shown, _MAX_SHOWN_CHARS)}: expected {expected}")

    def text(self) -> str:
        """Return a text that is not empty.

        Raises:
            ValueError: when there is none.
        """
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.refused("a text that is not empty")
        return self.value

    def items(self) -> "list[Cell]":
        """Return the entries of a list as cells of their own."""
        return [Cell(f"{self.column}[{i}]", item) for i, item in enumerate(self.value)]


Row = Mapping[str, Any]
Fields = dict[str, Cell]


@contextmanager
def naming(cell: Cell) -> Iterator[None]:
    """Let a ValueError from reading tests say which cell they are in."""
    try:
        yield
    except ValueError as error:
        raise cell.refused(f"tests of a program ({_shortened(str(error), 200)})") from None


def has_path(row: Row, path: str) -> bool:
    """Tell whether the row has this column; "a.b" is the column "a.b", or else b inside of a."""
    if path in row:
        return True
    head, _, rest = path.partition(".")
    return bool(rest) and isinstance(row.get(head), Mapping) and has_path(row[head], rest)


def cell_at(row: Row, path: str) -> Cell:
    """Return the cell at a path that is there."""
    inner, rest = row, path
    while rest not in inner:
        head, _, rest = rest.partition(".")
        inner = inner[head]
    return Cell(path, inner[rest])


def paths(row: Row) -> Iterator[str]:
    """Yield the dotted path of every cell."""
    for column, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{column}.{rest}" for rest in paths(value))
        else:
            yield str(column)


def conversation(cell: Cell) -> tuple[tuple[dict[str, str], ...], str]:
    """Read a prompt: (the messages before it, the last user message). A plain text has nothing before it.

    Raises:
        ValueError: for an empty prompt, for what is no list of {"role", "content"}, and for one whose last message
            is not the user's.
    """
    if isinstance(cell.value, str) or not isinstance(cell.value, Sequence):
        return (), cell.text()
    if not cell.value:
        raise cell.refused("at least one message")
    messages = [_message(item) for item in cell.items()]
    last = messages.pop()
    if last["role"] != "user":
        raise cell.items()[-1].refused('the last message of a prompt to have the role "user"')
    return tuple(messages), last["content"]


def _message(cell: Cell) -> dict[str, str]:
    if not isinstance(cell.value, Mapping) or not {"role", "content"} <= cell.value.keys():
        raise cell.refused('a message {"role": ..., "content": ...}')
    role = cell.value["role"]
    if role not in _ROLES:
        raise Cell(f"{cell.column}.role", role).refused(f"one of {', '.join(_ROLES)}")
    return {"role": role, "content": _content(Cell(f"{cell.column}.content", cell.value["content"]))}


def _content(cell: Cell) -> str:
    """A text, or the parts of one as the OpenAI API has them."""
    if isinstance(cell.value, str) or not isinstance(cell.value, Sequence):
        return cell.text()
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in cell.value):
        raise cell.refused("a text, or a list of parts of the type text")
    return Cell(cell.column, "".join(str(part.get("text")) for part in cell.value)).text()


def _shortened(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[:max_chars] + "..."
