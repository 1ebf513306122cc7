"""Checks an iteration's metrics for unusable values. Each message has the value, the limit and what usually helps.

These are pure functions without ray. `rollback` decides what to do about a problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.distributed.tensor import DTensor

NONFINITE_WEIGHTS = "health/nonfinite_weights"


class Watch(NamedTuple):
    """One check: a metric, the config field with its upper limit, and what usually helps.

    limit: None if the metric only has to be finite.
    """

    metric: str
    limit: str | None
    advice: str


_BROKEN_MODEL = "The learner's weights or its activations overflowed: lower lr, or use dtype='float32'."

# Metrics of the policy before the update. They decide whether a checkpoint of that policy is good.
AT_START = (
    Watch("entropy/mean", "max_entropy", f"{_BROKEN_MODEL} If it only rose: lower lr or entropy_coef, raise kl_coef."),
    Watch("kl/sampler", None, _BROKEN_MODEL),
)
# Metrics of the update itself.
OF_UPDATE = (
    Watch(
        "optim/grad_norm",
        None,
        "No optimizer step of the iteration had a finite gradient, so all were skipped. Look for the cause of a NaN "
        f"loss, for example a reward or your own loss function. {_BROKEN_MODEL}",
    ),
    Watch("kl/old", "max_kl", "The policy moved too far in one update: lower lr, num_epochs or the clip bounds."),
    Watch("kl/ref", None, _BROKEN_MODEL),
)


def find_problems(metrics: Mapping[str, float], watches: Sequence[Watch], config: Any) -> list[str]:
    """One message for each metric in `watches` that is not finite or above its limit. Missing metrics are no problem.

    metrics: the metrics of one iteration, by name.
    config: an object with the limits as attributes; None is no limit.
    """
    problems = []
    for metric, field, advice in watches:
        value = metrics.get(metric, 0.0)
        limit = None if field is None else getattr(config, field)
        if not math.isfinite(value):
            problems.append(f"{metric}={value}: expected a finite number. {advice}")
        elif limit is not None and value > limit:
            problems.append(f"{metric}={value:.4g}: expected at most {field}={limit:g}. {advice}")
    return problems


def find_nonfinite_weights(metrics: Mapping[str, float]) -> list[str]:
    """The same check for the weights after an update."""
    count = metrics[NONFINITE_WEIGHTS]
    return [f"{NONFINITE_WEIGHTS}={count:.0f}: expected 0. {_BROKEN_MODEL}"] if count else []


def num_nonfinite_weights(learner: Any) -> int:
    """Number of NaN or inf values in this learner's shards of the policy's weights."""
    shards = (p.to_local() if isinstance(p, DTensor) else p for p in learner.policy.parameters())
    return int(sum((~shard.isfinite()).sum() for shard in shards))
