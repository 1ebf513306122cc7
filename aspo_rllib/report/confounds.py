"""In what two methods differ besides the loss: a comparison cannot say which of the differences matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from aspo_rllib.losses import LOSSES, Loss
from aspo_rllib.report.methods import Method, short

_OF_THE_LOSS = [field.name for field in fields(Loss) if field.name not in ("token_weight", "source")]


def confounds(method: Method, baseline: Method) -> dict[str, tuple[Any, Any]]:
    """The settings besides the one under test that two methods do not share: their values for both, by name.

    A setting at None counts with the value that the loss was published with. Methods that differ in a single setting
    are not confounded: the result is empty. If the losses differ, the loss is what is under test.
    """
    ours, theirs = _settings(method), _settings(baseline)
    differing = {
        name: (ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }
    if ours.get("loss") != theirs.get("loss"):
        differing.pop("loss")
        return differing
    return differing if len(differing) > 1 else {}


def sentence(method: Method, baseline: Method) -> str | None:
    """What `confounds` found as a sentence; None if it found nothing."""
    found = confounds(method, baseline)
    if not found:
        return None
    parts = ", ".join(f"{name} ({short(ours)}, not {short(theirs)})" for name, (ours, theirs) in found.items())
    also = "also " if method.settings.get("loss") != baseline.settings.get("loss") else ""
    return f"Confounded: {method.label} {also}differs from {baseline.label} in {parts}."


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
