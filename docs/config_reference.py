"""Write docs/config.md from the docstrings of ASPOConfig: `python docs/config_reference.py`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from aspo_rllib import ASPOConfig
from aspo_rllib.config import GRPOConfig

METHODS = ("llm", "sampling", "training", "evaluation", "fault_tolerance")
RENAMED = {"model": "llm_model"}
HEADER = """# Settings

Made from the docstrings by `python docs/config_reference.py`; a test keeps it up to date. Every setting is an attribute
of the config under the name given here, so `tune.grid_search` and friends can stand in any of them. What RLlib's own
methods take (`env_runners`, `learners`, `callbacks`, `debugging`, ...) is in RLlib's documentation.
`ASPOConfig.paper()` sets the values marked as the paper's.
"""


def fields(method: str) -> list[tuple[str, str]]:
    """(names, description) of each entry in the Args section of a builder method."""
    section = inspect.getdoc(getattr(ASPOConfig, method)).partition("Args:\n")[2]
    entries: list[tuple[str, str]] = []
    for line in section.splitlines():
        entry = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            entries.append((entry[1], entry[2]))
        else:
            entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
    return entries


def row(names: str, text: str, defaults: dict) -> str:
    """One line of the table; several fields may share an entry."""
    attributes = [RENAMED.get(name, name) for name in names.split(", ")]
    shown = ", ".join(f"`{name}`" for name in attributes)
    values = ", ".join(f"`{defaults[name]!r}`" for name in attributes)
    return f"| {shown} | {values} | {text.strip().replace('|', chr(92) + '|')} |"


def reference() -> str:
    """The whole page."""
    defaults = vars(ASPOConfig())
    lines = [HEADER]
    for method in METHODS:
        lines += [f"## .{method}()\n", "| setting | default | meaning |", "|---|---|---|"]
        lines += [row(names, text, defaults) for names, text in fields(method)]
        lines.append("")
    lines.append(f"`GRPOConfig` is the same with `loss={GRPOConfig().loss!r}`.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(reference(), encoding="utf-8")
