"""Write Python values as JSON and read them back, between processes that do not trust each other.

The reader gets only data: no class is looked up and no code runs, unless the caller's `make` does so. JSON values are
written unchanged; objects {"kind": content} are values that JSON does not have. This file is also imported in the
sandbox, so it imports only the standard library.
"""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

_COLLECTIONS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def refuse(kind: str, content: Any) -> Any:
    """A `make` for plain values only."""
    raise ValueError(f"a value of kind {kind!r} is not plain data")


def to_tree(value: Any, other: Callable[[Any], dict[str, Any]]) -> Any:
    """Turn a value into one that json.dumps takes.

    Subclasses of built-in types are written as the built-in type, without calling their methods.

    Args:
        value: any value.
        other: turns values that are neither built-in nor NumPy's into {"kind": content}, or raises TypeError.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [to_tree(item, other) for item in list.__iter__(value)]
    for kind, collection in _COLLECTIONS.items():
        if isinstance(value, collection):
            return {kind: [to_tree(item, other) for item in collection.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[to_tree(key, other), to_tree(item, other)] for key, item in dict.items(value)]}
    if isinstance(value, deque):
        return [to_tree(item, other) for item in deque.__iter__(value)]
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Decimal):
        return {"decimal": Decimal.__str__(value)}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return to_tree(value.tolist(), other)
    return other(value)


def from_tree(tree: Any, make: Callable[[str, Any], Any]) -> Any:
    """Turn a value that json.loads read back into a Python value.

    Args:
        tree: any JSON value.
        make: reads the objects that `other` wrote; it is called with the kind and the content.

    Raises:
        ValueError, TypeError, AttributeError, RecursionError: for a value that `to_tree` does not write.
    """
    if isinstance(tree, list):
        return [from_tree(item, make) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        raise ValueError(f"{len(tree)} kinds for one value")
    ((kind, content),) = tree.items()
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](from_tree(item, make) for item in content)
    if kind == "dict":
        return {from_tree(key, make): from_tree(item, make) for key, item in content}
    if kind == "complex":
        return complex(*content)
    if kind == "decimal":
        return Decimal(content)
    if kind == "fraction":
        return Fraction(*content)
    if kind == "bytes":
        return content.encode("latin-1")
    return make(kind, content)
