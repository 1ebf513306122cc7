"""The classes of the table of settings: a field, its legal values (in words and as a check), and a builder method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Legal:
    """The legal values of a field.

    words: a description that follows "expected" in messages and documentation.
    holds: returns whether a value is legal.
    """

    words: str
    holds: Callable[[Any], bool]

    def or_none(self) -> Legal:
        """The same values, and None."""
        return Legal(f"{self.words}, or None", lambda value: value is None or self.holds(value))


@dataclass(frozen=True)
class Field:
    """One setting.

    name: name of the config's attribute, which is also its name in Tune's search spaces.
    type: annotation in the builder method.
    default: must not be mutable, because all configs share it.
    meaning: whole sentences, without the legal values and the default.
    paper: the value in the ASPO paper (arXiv 2510.06062), or in a preset of another name; "" if there is none.
    argument: keyword of the builder method, if it differs from the name.
    """

    name: str
    type: str
    default: Any
    legal: Legal
    meaning: str
    paper: str = ""
    argument: str = ""

    @property
    def keyword(self) -> str:
        """The keyword of the builder method."""
        return self.argument or self.name

    def check(self, value: object) -> None:
        """Raise ValueError unless the value is legal."""
        require(self.name, value, self.legal)


@dataclass(frozen=True)
class Builder:
    """One builder method of the config.

    summary, details: the docstring before the list of fields.
    takes_rllib: whether RLlib has a method of this name, to which all other keywords are passed.
    """

    name: str
    summary: str
    details: str
    fields: tuple[Field, ...]
    takes_rllib: bool


def require(name: str, value: object, legal: Legal) -> None:
    """Raise ValueError with the name, the value and the legal values, unless the value is legal."""
    if not legal.holds(value):
        raise ValueError(f"{name}={value!r}: expected {legal.words}.")


# ---- kinds of legal values -------------------------------------------------------------------------------------------


def integer(least: int) -> Legal:
    """Integers >= `least`. Booleans are not integers here."""
    return Legal(f"an int >= {least}", lambda value: is_integer(value) and value >= least)


def number(words: str, holds: Callable[[float], bool]) -> Legal:
    """Numbers in a range. NaN is never legal."""
    return Legal(words, lambda value: is_number(value) and holds(value))


def one_of(*values: object) -> Legal:
    """The given values, which may include None."""
    *first, last = (repr(value) for value in values if value is not None)
    words = f"{', '.join(first)} or {last}" if first else last
    return Legal(
        words + (", or None" if None in values else ""), lambda value: any(value is v or value == v for v in values)
    )


def instance_of(kind: type, words: str) -> Legal:
    """Instances of a type."""
    return Legal(words, lambda value: isinstance(value, kind))


BOOLEAN = Legal("True or False", lambda value: isinstance(value, bool))
AUTOMATIC = Legal("True, False or None", lambda value: value is None or isinstance(value, bool))
"""On, off, or None for a choice that depends on the run."""
ANYTHING = Legal("", lambda value: True)
"""For fields whose values are checked elsewhere, with other messages."""


def is_integer(value: object) -> bool:
    """Whether a value is an integer (of Python or numpy) and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a real number, and neither NaN nor a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value
