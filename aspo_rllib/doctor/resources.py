"""Checks whether the Ray cluster has the resources of a run, before the run waits for them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import ray
from ray.autoscaler.sdk import request_resources
from ray.tune import PlacementGroupFactory

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

Bundle = Mapping[str, float]
_POLL_S = 1.0


def asked_bundles(config: ASPOSettings) -> list[Bundle]:
    """The bundles of the trial's placement group: the algorithm, its env runners, its learners.

    Raises ValueError for a config that is not valid.
    """
    request = config.algo_class.default_resource_request(config)
    assert isinstance(request, PlacementGroupFactory)
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in request.bundles]


def cluster_nodes() -> list[Bundle]:
    """All resources, free and in use, of each living node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def shortage(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> str | None:
    """The reason why these nodes can never hold these bundles, in words; None if they can.

    Each bundle must fit on one node. Resources that other jobs use now count as free, because Tune waits for them.
    """
    asked, had = total(bundles), total(nodes)
    missing = [name for name in asked if asked[name] > had[name]]
    if missing:
        return "; ".join(f"asks for {_amount(asked, name)}, the cluster has {had[name]:g}" for name in missing)
    for bundle, count in _counted(bundles):
        places = sum(_times(bundle, node) for node in nodes)
        if places < count:
            return f"asks for {count} x {describe(bundle)} on one node each, the cluster can hold {places}"
    return None


def require_resources(bundles: Sequence[Bundle], wait_s: float = 0.0) -> None:
    """Return when the connected cluster can hold the bundles.

    wait_s: seconds to wait for nodes that are still starting, >= 0. If it is not 0, an autoscaler is asked for them.

    Raises RuntimeError if resources are missing after `wait_s`; the message names them.
    """
    if wait_s:
        request_resources(bundles=[dict(bundle) for bundle in bundles])
    deadline = time.monotonic() + wait_s
    try:
        while (missing := shortage(bundles, cluster_nodes())) is not None:
            if time.monotonic() >= deadline:
                raise RuntimeError(f"This run {missing}.")
            time.sleep(_POLL_S)
    finally:
        if wait_s:
            request_resources(bundles=[])  # from now on the trial's placement group requests them


def fit_cpus(config: ASPOSettings, nodes: Sequence[Bundle]) -> str | None:
    """Lower `num_cpus_per_env_runner` if that alone makes the run fit on these nodes; returns a line about it.

    GPUs of clouds often come with four CPUs. Below the config's number only grading becomes slower.

    nodes: all resources of each node.
    """
    asked = config.num_cpus_per_env_runner
    if shortage(asked_bundles(config), nodes) is None:
        return None
    for cpus in range(math.ceil(asked) - 1, 0, -1):
        config.num_cpus_per_env_runner = cpus
        if shortage(asked_bundles(config), nodes) is None:
            return f"cpus        {cpus} per engine, not {asked:g}: the machine has no more"
    config.num_cpus_per_env_runner = asked
    return None


def total(bundles: Iterable[Bundle]) -> Counter[str]:
    """The sum of bundles, or of the resources of nodes."""
    amounts: Counter[str] = Counter()
    for bundle in bundles:
        amounts.update(bundle)
    return amounts


def describe(bundle: Bundle) -> str:
    """A bundle as text: "1 CPU + 0.5 GPU"."""
    return " + ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def describe_bundles(bundles: Sequence[Bundle]) -> str:
    """Bundles as text: "1 x (1 CPU), 4 x (8 CPU + 1 GPU)"."""
    return ", ".join(f"{count} x ({describe(bundle)})" for bundle, count in _counted(bundles))


def _counted(bundles: Iterable[Bundle]) -> list[tuple[Bundle, int]]:
    counts = Counter(tuple(sorted(bundle.items())) for bundle in bundles)
    return [(dict(items), count) for items, count in counts.items()]


def _times(bundle: Bundle, node: Bundle) -> int:
    """How many times a bundle fits on an empty node."""
    return min(int(node.get(name, 0) / amount) for name, amount in bundle.items())


def _amount(asked: Mapping[str, float], name: str) -> str:
    return f"{asked[name]:g} {name}{'s' if name in ('CPU', 'GPU') and asked[name] != 1 else ''}"
