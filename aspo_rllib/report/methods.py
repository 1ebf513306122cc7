"""Groups trials into methods: the trials of a method have equal hyper-parameters except for the seed."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aspo_rllib.config.plan import model_name
from aspo_rllib.report.results import Trial

_NOT_A_METHOD = {"seed"}
_MAX_VALUE_LENGTH = 30
_MAX_LABEL_LENGTH = 60
_FUNCTION_OR_CLASS = re.compile(r"<(?:function|class) '?([^ ']+?)'?>")


@dataclass(frozen=True, eq=False)
class Method:
    """Trials that differ only in their seeds.

    Attributes:
        label: short, and unique in the experiment: "aspo", "grpo clip_high=0.4".
        settings: this method's values of the fields that differ between methods.
    """

    label: str
    settings: dict[str, Any]
    trials: tuple[Trial, ...]

    def finals(self, metric: str, last: int) -> list[float]:
        """The final value of every trial that has one (see `Trial.final`)."""
        values = [trial.final(metric, last) for trial in self.trials]
        return [value for value in values if value is not None]

    def finals_by_seed(self, metric: str, last: int) -> dict[int, float]:
        """The final values by seed. Trials with the same seed are averaged; trials without a seed are left out."""
        values = defaultdict(list)
        for trial in self.trials:
            if trial.seed is not None and (value := trial.final(metric, last)) is not None:
                values[trial.seed].append(value)
        return {seed: float(np.mean(values[seed])) for seed in sorted(values)}


def group_methods(trials: Sequence[Trial], baseline: str | None = None) -> list[Method]:
    """The methods of an experiment, the baseline first and the others by label.

    baseline: a method's label. None: "grpo", or else the first label that starts with it, or else the first label.
    Raises ValueError if no method has this label.
    """
    names = _differing(trials)
    members = defaultdict(list)
    for trial in trials:
        members[_key({name: trial.config.get(name) for name in names})].append(trial)
    groups = list(members.values())
    labels = _unique([_label(group[0].config, names) for group in groups])
    methods = [
        Method(label, {name: group[0].config.get(name) for name in names}, tuple(group))
        for label, group in zip(labels, groups, strict=True)
    ]
    methods.sort(key=lambda m: m.label)
    if baseline is None:
        first = min(methods, key=lambda m: (m.label != "grpo", not m.label.startswith("grpo")))
    elif baseline in labels:
        first = next(m for m in methods if m.label == baseline)
    else:
        raise ValueError(f"baseline={baseline!r}: expected one of {sorted(labels)}.")
    return [first, *(m for m in methods if m is not first)]


def common_settings(trials: Sequence[Trial]) -> dict[str, Any]:
    """The fields that are equal in all trials."""
    differing = {*_differing(trials), *_NOT_A_METHOD}
    return {name: value for name, value in sorted(trials[0].config.items()) if name not in differing}


def short(value: Any) -> str:
    """A setting as short text: 0.0001, [0.9, 0.999], the name of a function."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, str):
        return str(value)
    found = _FUNCTION_OR_CLASS.fullmatch(value)
    return found[1].rpartition(".")[2] if found else model_name(value)


def _differing(trials: Sequence[Trial]) -> list[str]:
    names = {name for trial in trials for name in trial.config} - _NOT_A_METHOD
    differing = {name for name in names if len({_key(trial.config.get(name)) for trial in trials}) > 1}
    return sorted(differing, key=lambda name: (name != "loss", name))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _label(config: dict[str, Any], differing: Sequence[str]) -> str:
    # None is the method's default, which needs no mention.
    settings = [
        f"{name}={_clipped(config[name])}" for name in differing if name != "loss" and config.get(name) is not None
    ]
    loss = [_clipped(config["loss"])] if "loss" in config else []
    label = " ".join(loss + settings) or "all trials"
    # The table of differing settings has the rest.
    return label if len(label) <= _MAX_LABEL_LENGTH else " ".join([*loss, "…"])


def _clipped(value: Any) -> str:
    text = short(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else "…" + text[1 - _MAX_VALUE_LENGTH :]


def _unique(labels: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    unique = []
    for label in labels:
        seen[label] += 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return unique
