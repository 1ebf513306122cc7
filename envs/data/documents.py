"""The rows of a JSON document, in any of the usual forms."""

from __future__ import annotations

from typing import Any

from envs.data.splits import canonical, is_split_name
from envs.layouts.known import COLUMN_NAMES


def document_rows(document: Any) -> list[tuple[str | None, Any]]:
    """The rows of a document, each with its split or None.

    A document has one of these forms: an array of rows; an object with the array under "data" or under its only key; an
    object with arrays under the names of splits; an object with rows under their ids; an object of columns; one row.

    Raises:
        ValueError: for a document that is neither an array nor an object.
    """
    if isinstance(document, dict) and len(document) > 1 and all(map(is_split_name, document)):
        parts = {name: _rows(part) for name, part in document.items() if isinstance(part, list | dict)}
        if len(parts) == len(document) and all(_all_are(dict, part) for part in parts.values()):
            return [(canonical(name), row) for name, part in parts.items() for row in part]
    return [(None, row) for row in _rows(document)]


def kind(value: Any) -> str:
    """The name of the type of a JSON value, for messages."""
    return "null" if value is None else f"a JSON {type(value).__name__}"


def _rows(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise ValueError(f"the document is {kind(document)}, not an array of rows")
    columns = list(document.values())
    wrapped = document.get("data", columns[0] if len(columns) == 1 else None)
    if _all_are(dict, wrapped):
        return wrapped
    if _all_are(dict, columns):
        return _rows_of_mappings(document)
    if _all_are(list, columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(document, values, strict=True)) for values in zip(*columns, strict=True)]
    return [document]


def _rows_of_mappings(document: dict[str, dict[str, Any]]) -> list[Any]:
    """Rows under their ids, or the columns of a data frame. The keys decide, or else values that look like an index."""
    inner = list(document.values())
    same_keys = all(part.keys() == inner[0].keys() for part in inner)
    as_rows, as_columns = len(COLUMN_NAMES & inner[0].keys()), len(COLUMN_NAMES & document.keys())
    is_index = all(key.isdigit() for key in inner[0])
    if same_keys and (as_columns > as_rows or (as_columns == as_rows and (is_index or len(inner) < len(inner[0])))):
        return [{name: column[key] for name, column in document.items()} for key in inner[0]]
    return inner if as_rows or same_keys else [document]


def _all_are(wanted: type, values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, wanted) for value in values)
