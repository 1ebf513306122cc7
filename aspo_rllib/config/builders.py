"""The config's attributes and builder methods, generated from the table in `fields`.

Type checkers and editors read `builders.pyi`, which `python docs/config_reference.py` writes from the same table.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Never

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from aspo_rllib.config.field import Builder, Field
from aspo_rllib.config.fields import BUILDERS, FIELDS
from aspo_rllib.config.ignored import check_argument
from aspo_rllib.config.rllib import TextAlgorithmConfig, hint

_WIDTH = 112  # width of a docstring's lines without their indentation


class SettingsBuilder(TextAlgorithmConfig):
    """A config with the table's fields as flat attributes, which Tune can search, and a method per group of fields."""

    def __init__(self, algo_class: type[Algorithm] | None = None, **settings: Never) -> None:
        """Raises ValueError for settings, which are arguments of the builder methods."""
        keywords = {field.keyword: builder.name for builder in BUILDERS for field in builder.fields}
        for name in settings:
            there = f" Use .{keywords[name]}({name}=...)." if name in keywords else hint(name, keywords)
            raise ValueError(f"{type(self).__name__}({name}=...): settings are given to its methods.{there}")
        super().__init__(algo_class=algo_class)
        for field in FIELDS:
            setattr(self, field.name, field.default)


def _method(builder: Builder) -> Callable[..., Any]:
    """Create the builder method that sets the fields of `builder`."""
    attributes = {field.keyword: field.name for field in builder.fields}
    rllib = getattr(AlgorithmConfig, builder.name) if builder.takes_rllib else None
    of_rllib = set(inspect.signature(rllib).parameters) - {"self"} if rllib else set()

    def build(self: SettingsBuilder, **settings: Any) -> SettingsBuilder:
        handed_on = {}
        for keyword, value in settings.items():
            if keyword in attributes:
                if value is not NotProvided:
                    setattr(self, attributes[keyword], value)
                continue
            self._reject_unknown([keyword], [*attributes, *of_rllib], f"{builder.name}() argument")
            if value is not NotProvided:
                check_argument(self, builder.name, keyword, value)
            handed_on[keyword] = value
        if rllib is not None:
            rllib(self, **handed_on)
        return self

    build.__name__, build.__doc__ = builder.name, docstring(builder)
    build.__qualname__ = f"{SettingsBuilder.__qualname__}.{builder.name}"
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for field in builder.fields:
        parameters.append(
            inspect.Parameter(field.keyword, inspect.Parameter.KEYWORD_ONLY, default=NotProvided, annotation=field.type)
        )
    if builder.takes_rllib:
        parameters.append(inspect.Parameter("rllib", inspect.Parameter.VAR_KEYWORD, annotation="Any"))
    build.__signature__ = inspect.Signature(parameters, return_annotation="Self")  # type: ignore[attr-defined]
    return build


def docstring(builder: Builder) -> str:
    """The docstring of a builder method."""
    parts = [builder.summary, *builder.details.split("\n\n")] if builder.details else [builder.summary]
    text = "\n\n".join(textwrap.fill(part, _WIDTH) for part in parts)
    return f"{text}\n\nArgs:\n" + "\n".join(_entry(field) for field in builder.fields)


def _entry(field: Field) -> str:
    text = f"{field.keyword}: {field.meaning} {facts(field)}"
    return textwrap.indent(textwrap.fill(text, _WIDTH - 4, subsequent_indent="    "), "    ")


def facts(field: Field) -> str:
    """The legal values, the default and the paper's value of a field, as one sentence in brackets."""
    found = [field.legal.words] if field.legal.words else []
    found.append(f"default {field.default!r}")
    if field.paper:
        found.append(field.paper if ": " in field.paper and field.paper[0].isalpha() else f"paper: {field.paper}")
    return f"({'; '.join(found)})"


for _builder in BUILDERS:
    setattr(SettingsBuilder, _builder.name, _method(_builder))
