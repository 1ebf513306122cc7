"""Finds the settings in which two methods differ besides the one under test.

A comparison of such methods cannot say which of the differences matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from aspo_rllib.losses import LOSSES, Loss
from aspo_rllib.report import html
from aspo_rllib.report.methods import Method, short
from aspo_rllib.report.verdict import Comparison

_OF_THE_LOSS = [field.name for field in fields(Loss) if field.name not in ("token_weight", "source")]


def confounds(method: Method, baseline: Method) -> dict[str, tuple[Any, Any]]:
    """The settings, other than the one under test, in which two methods differ: name -> the values of both.

    If the losses differ, the loss is under test. A bound that one of the losses does not have is then part of the loss.
    If the losses are equal and a single setting differs, this setting is under test, and the result is empty. A setting
    at None has the published value of the loss.
    """
    ours, theirs = _settings(method), _settings(baseline)
    differing = {
        name: (ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }
    if ours.get("loss") == theirs.get("loss"):
        return differing if len(differing) > 1 else {}
    return {
        name: values
        for name, values in differing.items()
        if name != "loss" and not (name in _OF_THE_LOSS and None in values)
    }


def words(method: Method, baseline: Method) -> str:
    """The result of `confounds` as text: "aggregation (token, not sequence), clip_high (0.28, not 0.2)", or ""."""
    found = confounds(method, baseline)
    return ", ".join(f"{name} ({short(ours)}, not {short(theirs)})" for name, (ours, theirs) in found.items())


def section(comparisons: Sequence[Comparison]) -> list[str]:
    """The section on comparisons of methods that differ in more than one setting; empty if there are none."""
    rows = [[c.method.label, text] for c in comparisons if (text := words(c.method, c.baseline))]
    if not rows:
        return []
    baseline = comparisons[0].baseline.label
    text = (
        f"Confounded: these methods differ from {baseline} in more than what is compared. Each of these differences may"
        " matter."
    )
    return [html.paragraph(text), html.table(("method", "it differs in"), rows, f"Other differences to {baseline}")]


def _settings(method: Method) -> Mapping[str, Any]:
    config = method.trials[0].config
    loss = LOSSES.get(config.get("loss", ""))
    effective = dict(method.settings)
    for name in _OF_THE_LOSS:
        if config.get(name) is not None:
            effective[name] = config[name]
        elif loss is not None:
            effective[name] = getattr(loss, name)
    return effective
