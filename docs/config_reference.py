"""Write what is made from the table of settings: `python docs/config_reference.py`.

- docs/config.md, the reference for people;
- aspo_rllib/config/builders.pyi, which gives editors and type checkers the signatures of the builder methods.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from aspo_rllib.aspo import GRPOConfig
from aspo_rllib.config import builders
from aspo_rllib.config.builders import docstring
from aspo_rllib.config.field import Builder, Field
from aspo_rllib.config.fields import BUILDERS, FIELDS

PAGE = Path(__file__).with_name("config.md")
STUB = Path(builders.__file__).with_suffix(".pyi")

PAGE_HEADER = """# Settings

Made from the table of settings by `python docs/config_reference.py`; a test keeps it up to date. Every setting is an
attribute of the config under the name given here, so `tune.grid_search` and friends can stand in any of them. What
RLlib's own methods take (`env_runners`, `learners`, `callbacks`, `reporting`, ...) is in RLlib's documentation.
`ASPOConfig.paper()` sets the paper's values (arXiv 2510.06062, the 1.5B model).
"""

STUB_HEADER = '''"""Made by `python docs/config_reference.py` from the table in `fields`; a test keeps it up to date."""

from collections.abc import Callable
from typing import Any, Never, Self

from ray.rllib.algorithms.algorithm import Algorithm

from aspo_rllib.config.field import Builder, Field
from aspo_rllib.config.rllib import TextAlgorithmConfig
from aspo_rllib.losses import Loss

def docstring(builder: Builder) -> str: ...
def facts(field: Field) -> str: ...

class SettingsBuilder(TextAlgorithmConfig):
    """The fields of the table as flat attributes that Tune can search, and a method for each group of them."""

'''


def row(field: Field) -> str:
    """One line of the table for people."""
    cells = (f"`{field.name}`", f"`{field.default!r}`", field.legal.words, field.paper, field.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """docs/config.md."""
    lines = [PAGE_HEADER]
    for builder in BUILDERS:
        lines += [f"## .{builder.name}()\n", textwrap.fill(builder.summary, 120), ""]
        lines += [textwrap.fill(part, 120) + "\n" for part in builder.details.split("\n\n") if part]
        lines += ["| setting | default | legal | paper | meaning |", "|---|---|---|---|---|"]
        lines += [*map(row, builder.fields), ""]
    lines.append(f"`GRPOConfig` is the same with `loss={GRPOConfig().loss!r}`.")
    return "\n".join(lines) + "\n"


def stub() -> str:
    """builders.pyi."""
    attributes = "".join(f"    {field.name}: {field.type}{_ignored(field)}\n" for field in FIELDS)
    init = "    def __init__(self, algo_class: type[Algorithm] | None = None, **settings: Never) -> None: ...\n"
    return STUB_HEADER + attributes + init + "".join(map(method, BUILDERS))


def _ignored(field: Field) -> str:
    """RLlib declares some of its fields by their defaults alone, None for example, which is no type."""
    return "  # type: ignore[assignment, unused-ignore]" if field.name in vars(AlgorithmConfig()) else ""


def method(builder: Builder) -> str:
    """A builder method of the stub."""
    arguments = [f"{field.keyword}: {field.type} = ..." for field in builder.fields]
    if builder.takes_rllib:
        arguments.append("**rllib: Any")
    lines = [f"        {argument},\n" for argument in ["self", "*", *arguments]]
    overrides = "  # type: ignore[override, unused-ignore]" if builder.takes_rllib else ""
    text = textwrap.indent(docstring(builder), "        ").strip().replace("\\", "\\\\")
    return f'    def {builder.name}({overrides}\n{"".join(lines)}    ) -> Self:\n        """{text}\n        """\n'


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    STUB.write_text(stub(), encoding="utf-8")
