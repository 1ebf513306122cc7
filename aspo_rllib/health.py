"""Numbers gone bad, in words: what an iteration's metrics say is wrong, its value, the limit, what usually helps.

Pure functions, and no ray. What is done about it stands in `rollback`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch.distributed.tensor import DTensor

from aspo_rllib.types import RolloutGroup

NONFINITE_WEIGHTS = "health/nonfinite_weights"


class BadNumbersError(RuntimeError):
    """The numbers of a run are no longer worth going on with. A restart from a checkpoint may meet them again."""


class Watch(NamedTuple):
    """A metric, the config's field with its upper limit (None: it only has to be finite), and what usually helps."""

    metric: str
    limit: str | None
    advice: str


_BROKEN_MODEL = "The learner's weights, or what they compute, overflowed: lower lr, or use dtype='float32'."

# Of the policy that an update starts from: they say whether a checkpoint of it is any good.
AT_START = (
    Watch("entropy/mean", "max_entropy", f"{_BROKEN_MODEL} If it only rose: lower lr or entropy_coef, raise kl_coef."),
    Watch("kl/sampler", None, _BROKEN_MODEL),
)
# Of the update itself.
OF_UPDATE = (
    Watch(
        "optim/grad_norm",
        None,
        "No optimizer step of the iteration had a finite gradient, so all were skipped. Look for what makes the loss "
        f"NaN: a reward, a loss function of your own. {_BROKEN_MODEL}",
    ),
    Watch("kl/old", "max_kl", "The policy moved too far in one update: lower lr, num_epochs or the clip bounds."),
    Watch("kl/ref", None, _BROKEN_MODEL),
)


def find_problems(metrics: Mapping[str, float], watches: Sequence[Watch], config: Any) -> list[str]:
    """A sentence or two for each watched metric that is not finite, or above its limit; those not there are fine.

    metrics: of one iteration, by name.
    config: what has the limits, as attributes; None is no limit.
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
    """The same for the weights that an update left behind."""
    count = metrics[NONFINITE_WEIGHTS]
    return [f"{NONFINITE_WEIGHTS}={count:.0f}: expected 0. {_BROKEN_MODEL}"] if count else []


def num_nonfinite_weights(learner: Any) -> int:
    """How many NaN or inf the learner's share of the policy's weights holds."""
    shards = (p.to_local() if isinstance(p, DTensor) else p for p in learner.policy.parameters())
    return int(sum((~shard.isfinite()).sum() for shard in shards))


def check_completions(groups: Sequence[RolloutGroup]) -> None:
    """Raise BadNumbersError if most of the completions that these groups miss had broken log-probabilities."""
    nonfinite, missing = sum(g.num_nonfinite for g in groups), sum(g.num_ungraded for g in groups)
    if 2 * nonfinite > missing:
        raise BadNumbersError(
            f"sampler/nonfinite={nonfinite}: the engine gave log-probabilities that are NaN or inf for so many of "
            f"{missing + sum(len(g.rollouts) for g in groups)} completions that there is nothing to go on with. The "
            "weights hold NaN or inf, or overflow in the engine's dtype: look at llm_model, or use dtype='float32'."
        )
