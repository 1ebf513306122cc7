"""Groups trials into methods: the trials of a method have equal hyper-parameters except for the seed."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aspo_rllib.config.plan import model_name
from aspo_rllib.report.results import Trial

_NOT_A_METHOD = {"seed"}
_MAX_VALUE_LENGTH = 30
_MAX_LABEL_LENGTH = 32
_FUNCTION_OR_CLASS = re.compile(r"<(?:function|class) '?([^ ']+?)'?>")


@dataclass(frozen=True, eq=False)
class Method:
    """Trials that differ only in their seeds.

    Attributes:
        label: short, and unique in the experiment: the loss, with the settings that distinguish it from other methods
            of the same loss: "aspo", "grpo clip_high=0.4".
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
        return self._by_seed(lambda trial: trial.final(metric, last))

    def areas_by_seed(self, metric: str) -> dict[int, float]:
        """The means over training (see `Trial.area`) by seed, as `finals_by_seed` has the final values."""
        return self._by_seed(lambda trial: trial.area(metric))

    def _by_seed(self, value_of: Callable[[Trial], float | None]) -> dict[int, float]:
        values = defaultdict(list)
        for trial in self.trials:
            if trial.seed is not None and (value := value_of(trial)) is not None:
                values[trial.seed].append(value)
        return {seed: float(np.mean(values[seed])) for seed in sorted(values)}


def group_methods(
    trials: Sequence[Trial], baseline: str | None = None, named: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Method]:
    """The methods of an experiment, the baseline first and the others by label.

    baseline: a method's label. None: "grpo", or else the first label that starts with it, or else the first label.
    named: label -> the settings of its method. If several labels fit a method, the one with the most settings counts.

    Raises ValueError if no method has the baseline's label, or if one label fits several methods.
    """
    names = _differing(trials)
    members = defaultdict(list)
    for trial in trials:
        members[_key({name: trial.config.get(name) for name in names})].append(trial)
    groups = list(members.values())
    configs = [group[0].config for group in groups]
    given = [_given_name(config, named or {}) for config in configs]
    for name, count in Counter(filter(None, given)).items():
        if count > 1:
            raise ValueError(f"methods[{name!r}] fits {count} methods: add settings that distinguish them, of {names}.")
    labels = _unique([name or _label(config, configs, names) for name, config in zip(given, configs, strict=True)])
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


def _given_name(config: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> str | None:
    fitting = [
        name
        for name, settings in named.items()
        if all(_key(config.get(field)) == _key(value) for field, value in settings.items())
    ]
    return max(fitting, key=lambda name: len(named[name]), default=None)


def _label(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> str:
    same_loss = [other for other in configs if other.get("loss") == config.get("loss")]
    telling = [name for name in differing if len({_key(other.get(name)) for other in same_loss}) > 1]
    # None is the method's default, which the label leaves out.
    settings = [f"{name}={_clipped(config[name])}" for name in telling if config.get(name) is not None]
    loss = [_clipped(config["loss"])] if "loss" in config else []
    label = " ".join(loss + settings) or "all trials"
    # The table of differing settings has the settings that the label leaves out.
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
