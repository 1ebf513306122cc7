"""Brings the learner's weights to the runners and checks that they have arrived. Runs on the driver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, log
from operator import attrgetter, methodcaller
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
from ray.actor import ActorHandle

from aspo_rllib.config.fields.llm import OBJECT_STORE
from aspo_rllib.config.placement import weight_transport
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.weights import object_store
from aspo_rllib.weights.object_store import WeightsHandle

PROBE_PROMPTS = 8
_ROUNDING = 0.01  # relative error of a weight; bfloat16 rounds to 0.4 %
_NAMED_WEIGHTS = 3
PROBE_TOKENS = 4  # tests prefill (the first token) and decoding with the KV cache (the others)


class Learners(Protocol):
    """The methods of the learner group that a transport calls."""

    def weights(self) -> WeightsHandle: ...

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None: ...

    def send(self) -> WeightsHandle: ...

    def on_all(self, func: Callable[[Any], Any]) -> list[Any]: ...


class Runners(Protocol):
    """The methods of the runner pool that a transport calls."""

    asleep: bool

    def load(self, handle: WeightsHandle) -> None: ...

    def call(self, func: Callable[[Any], Any]) -> dict[int, Any]: ...

    def actors(self, runners: Sequence[int]) -> list[ActorHandle[Any]]: ...


class Transport(Protocol):
    """Moves weights from the learners to the runners."""

    def send(self) -> WeightsHandle:
        """Load the learner's weights into every runner in service, and wait until all have them."""


class ObjectStore:
    """The learner puts the weights into Ray's object store and the runners read them. Works across machines."""

    def __init__(self, learners: Learners, runners: Runners):
        self._learners = learners
        self._runners = runners

    def send(self) -> WeightsHandle:
        handle = self._learners.weights()
        self._runners.load(handle)
        return handle


class VLLMTransfer:
    """The learners send directly to the engines with vLLM's weight transfer, without a copy in between.

    A new connection is set up when the set of runners in service has changed, or when one of them was restarted. A
    runner that restarts between two transfers gets its weights over the object store. An error during a transfer ends
    the run, because the learners cannot cancel a broadcast that has started.
    """

    def __init__(self, learners: Learners, runners: Runners):
        self._learners = learners
        self._runners = runners
        self._group = ""
        self._members: list[int] = []

    def send(self) -> WeightsHandle:
        # This call also detects runners that have died: a broadcast waits forever for a missing receiver.
        groups = self._runners.call(attrgetter("transfer_group"))
        members = sorted(groups)
        if not members:  # all runners are restarting and will load this handle afterwards
            return self._learners.weights()
        if members != self._members or set(groups.values()) != {self._group}:
            self._group, self._members = uuid4().hex, members
            self._learners.connect(self._group, self._runners.actors(members))
        handle = self._learners.send()
        self._runners.asleep = False
        return handle


def make_transport(config: ASPOSettings, learners: Learners, runners: Runners) -> Transport:
    """The transport that the config sets, or else the one that fits its placement."""
    made = ObjectStore if weight_transport(config) == OBJECT_STORE else VLLMTransfer
    return made(learners, runners)


class SyncDriftError(RuntimeError):
    """After a sync, engine and learner compute different log-probabilities for the same tokens.

    `on_bad_numbers` does not handle this error: the learner's weights are correct, and a rollback would only send older
    weights to the same engines with the same transport. A trial that Tune restarts has new engines.
    """


class EngineMismatchError(RuntimeError):
    """Engine and learner disagree about the first batch, before any update: one of them computes the model wrongly."""


def check_first_batch(kl: float, config: ASPOSettings) -> None:
    """Raise EngineMismatchError if the first batch's `kl/sampler` is more than rounding and `top_p` make it."""
    limit = max({"float32": 0.02, "bfloat16": 0.1}[config.dtype], config.max_sync_drift or 0.0) - log(config.top_p)
    if kl > limit:
        raise EngineMismatchError(
            f"kl/sampler={kl:.3g} in the first iteration, before any update: expected at most {limit:.2g}. With the "
            f"same weights engine={config.engine!r} and the learner give tokens different probabilities, so one of "
            f"them does not compute llm_model={config.llm_model!r} as transformers does; learning rate and weight "
            "sync have no part in it. Try the other engine, 'vllm' or 'transformers', or layout='padded'."
        )


def check_engines(
    learners: Learners, runners: Runners, prompts: Sequence[np.ndarray], config: ASPOSettings, version: int
) -> float | None:
    """Compare the engines in service with the learners after a sync; returns what `probe_drift` does.

    Raises SyncDriftError, with the weights that differ most, if an engine does not hold the learners' weights.
    """
    worst = probe_drift(learners, runners, prompts, config)
    if worst is not None:
        check_drift(worst, config.sync_drift_limit, version, lambda: weight_errors_of(runners, learners.weights()))
    return worst


def probe_drift(
    learners: Learners, runners: Runners, prompts: Sequence[np.ndarray], config: ASPOSettings
) -> float | None:
    """Let every engine in service complete some of the prompts, and compare its logprobs with the learners'.

    Returns the largest difference in nats, or None if no runner answered because all are restarting.
    """
    prompts = prompts[:PROBE_PROMPTS]
    max_tokens = min(PROBE_TOKENS, config.max_completion_tokens)
    drifts = []
    for samples in runners.call(methodcaller("probe", prompts, max_tokens)).values():
        completions = [s.completion_ids for s in samples]
        scores = learners.on_all(methodcaller("score", prompts, completions))[0]
        drifts.append(drift(scores, [s.sampler_logprobs for s in samples]))
    return max(drifts) if drifts else None


def drift(learner_logprobs: list[np.ndarray], engine_logprobs: list[np.ndarray]) -> float:
    """Largest absolute difference over all probe tokens, in nats; inf if any is not finite."""
    differences = [np.abs(a - b) for a, b in zip(learner_logprobs, engine_logprobs, strict=True)]
    worst = float(np.concatenate(differences).max(initial=0.0))  # unlike Python's max, this keeps a NaN
    return worst if np.isfinite(worst) else float("inf")


def check_drift(
    value: float, limit: float, version: int, weight_errors: Callable[[], Mapping[str, float]] = dict
) -> None:
    """Raise SyncDriftError if the engines do not hold the learner's weights.

    weight_errors: called before the error is raised. Returns the relative error of the engine's weights by name.
    """
    if value > limit:
        raise SyncDriftError(
            f"After syncing weights_version {version}, the engine's logprobs differ from the learner's by up to "
            f"{value:.3g} nats (max_sync_drift={limit:g}). {describe_weight_errors(weight_errors())} If the difference "
            "is only rounding, raise max_sync_drift or use dtype='float32'."
        )


def describe_weight_errors(errors: Mapping[str, float]) -> str:
    """A sentence with the weights that differ most."""
    size = {name: error if error == error else inf for name, error in errors.items()}  # a NaN is the worst
    wrong = sorted((name for name in size if size[name] > _ROUNDING), key=size.__getitem__, reverse=True)
    if wrong:
        named = ", ".join(f"{name} ({size[name]:.1%})" for name in wrong[:_NAMED_WEIGHTS])
        return f"The engine holds wrong values in {len(wrong)} of {len(errors)} weights, most of all in {named}."
    if errors:
        return (
            f"The {len(errors)} weights that can be compared are those of the learner: the engine computes the model "
            "in another way, or what it derives from its weights is stale. Try engine='transformers'."
        )
    return "The engine holds stale or wrong weights."


def weight_errors_of(runners: Runners, handle: WeightsHandle) -> dict[str, float]:
    """The largest relative error of every weight over all engines in service, by the weight's name."""
    if handle.kind != "full":
        return {}

    def compare(runner: Any) -> dict[str, float]:
        weights = object_store.fetch(handle)
        errors: dict[str, float] = runner.on_engine_thread(lambda sampler: sampler.engine.weight_errors(weights))
        return errors

    found: dict[str, float] = {}
    for errors in runners.call(compare).values():
        found |= {name: max(error, found.get(name, 0.0)) for name, error in errors.items()}
    return found
