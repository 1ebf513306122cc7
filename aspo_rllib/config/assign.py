"""Sets fields of a config from texts `field=value`, for the option `--set` of the scripts."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.names import nearest


def assign(config: ASPOSettings, assignments: Sequence[str]) -> None:
    """Set fields of a config from texts `field=value`.

    A value is read as Python, so that `1e-6`, `None` and `[[0, 1e-6], [100, 0.0]]` are what they look like; any other
    text is a str. Whether the values are legal is checked by `config.validate`.

    Raises ValueError for a text of another form, and for an unknown field with the nearest name.
    """
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: expected field=value, for example lr=1e-6.")
        if name not in vars(config):
            hint = nearest(name, vars(config))
            raise ValueError(f"{text!r}: the config has no field {name!r}.{hint} docs/config.md lists the fields.")
        setattr(config, name, _value(value))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
