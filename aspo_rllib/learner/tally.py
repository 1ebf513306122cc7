"""The learner's metrics and their accumulation. A mean stays a numerator and a denominator until all are merged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aspo_rllib.losses import PolicyLoss, kl_penalty
from aspo_rllib.types import UpdateResult

PROBABILITY_BUCKETS = 10
# Upper edges of the buckets of token weights, each included. The first bucket has the masked tokens, whose weight is 0.
WEIGHT_EDGES = (
    *(n / 10 for n in range(21)),  # 0, 0.1, ... 2
    *(n / 4 for n in range(9, 17)),  # 2.25, 2.5, ... 4
    *(5.0, 6.0, 8.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e9),
)

Number = float | Tensor  # a tensor without dimensions


class Tally:
    """Accumulates means (as two sums) and maxima over micro-batches. Tensors stay on their device until read."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Number]] = defaultdict(lambda: [0.0, 0.0])
        self._maxima: dict[str, list[Number]] = defaultdict(list)
        self._histograms: dict[str, Tensor] = {}

    def add(self, name: str, numerator: Number, denominator: Number) -> None:
        self._sums[name][0] += numerator
        self._sums[name][1] += denominator

    def highest(self, name: str, value: Number) -> None:
        self._maxima[name].append(value)

    def count_weights(self, name: str, weights: Tensor) -> None:
        """Add `[N]` token weights to the histogram with the buckets of `WEIGHT_EDGES`."""
        edges = torch.tensor(WEIGHT_EDGES, dtype=weights.dtype, device=weights.device)
        counts = torch.bincount(torch.bucketize(weights, edges[:-1]), minlength=len(WEIGHT_EDGES))
        self._histograms[name] = self._histograms.get(name, 0) + counts

    def histograms(self) -> dict[str, np.ndarray]:
        return {name: counts.cpu().numpy() for name, counts in self._histograms.items()}

    def sums(self) -> dict[str, tuple[float, float]]:
        return {name: (float(n), float(d)) for name, (n, d) in self._sums.items()}

    def maxima(self) -> dict[str, float]:
        return {name: max(float(v) for v in values) for name, values in self._maxima.items()}


def tally_loss(
    tally: Tally,
    out: PolicyLoss,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
) -> None:
    """Add the metrics of ratios and token weights of one micro-batch. Tensors `[B, T]`, advantages `[B]`.

    `clip` counts tokens without a gradient. `cap` counts tokens whose weight is limited by the cap or a clip bound.
    """
    mask = loss_mask.bool()
    positive, negative = mask & (advantages[:, None] > 0), mask & (advantages[:, None] < 0)
    weight, ratio = out.token_weight.detach(), out.ratio.detach()
    tally.add("ratio/mean", ratio[mask].sum(), mask.sum())
    tally.add("kl/old", kl_penalty(old_logprobs, logprobs.detach(), mask).sum(), mask.sum())
    for sign, tokens in (("pos", positive), ("neg", negative)):
        count = tokens.sum()
        tally.add(f"ratio/{sign}_mean", ratio[tokens].sum(), count)
        tally.add(f"weight/{sign}_mean", weight[tokens].sum(), count)
        tally.count_weights(f"weight/{sign}", weight[tokens])
        tally.add(f"clip/{sign}_frac", (weight[tokens] == 0).sum(), count)
        tally.add(f"cap/{sign}_frac", out.held[tokens].sum(), count)
        _tally_by_probability(tally, f"weight_by_prob/{sign}", weight[tokens], old_logprobs[tokens])
    if mask.any():
        tally.highest("ratio/max", ratio[mask].max())


def _tally_by_probability(tally: Tally, name: str, values: Tensor, old_logprobs: Tensor) -> None:
    """Add the means of `[N]` values, grouped by the tokens' old probability: bucket k is [k/10, (k+1)/10)."""
    bucket = (old_logprobs.exp() * PROBABILITY_BUCKETS).long()
    bucket = bucket.clamp(0, PROBABILITY_BUCKETS - 1)  # `long()` turns a NaN into an arbitrary integer
    zeros = torch.zeros(PROBABILITY_BUCKETS, dtype=torch.float64, device=values.device)
    sums = zeros.index_add(0, bucket, values.double())
    counts = zeros.index_add(0, bucket, torch.ones_like(values, dtype=torch.float64))
    for k in range(PROBABILITY_BUCKETS):
        tally.add(f"{name}/{k}", sums[k], counts[k])


def tally_frozen(
    tally: Tally,
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    entropy: Tensor,
    high_entropy: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
) -> None:
    """Add the metrics from before the update: entropy, and how far the engine's logprobs are from the learner's."""
    mask = loss_mask.bool()
    tally.add("entropy/mean", entropy[mask].sum(), mask.sum())
    for sign, tokens in (("pos", mask & (advantages[:, None] > 0)), ("neg", mask & (advantages[:, None] < 0))):
        tally.add(f"entropy/{sign}_mean", entropy[tokens].sum(), tokens.sum())
    tally.add("entropy/high_frac", high_entropy[mask].sum(), mask.sum())
    tally.add("kl/sampler", kl_penalty(sampler_logprobs, old_logprobs, mask).sum(), mask.sum())
    if mask.any():
        tally.highest("sampler/max_abs_dlogp", (old_logprobs - sampler_logprobs)[mask].abs().max())


def merge_updates(results: Sequence[UpdateResult]) -> dict[str, float]:
    """Merge the metrics of all learners into one value each. Sums are added before the division; 0/0 is left out."""
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    for result in results:
        for name, pair in result.sums.items():
            totals[name] += pair
    merged = {name: n / d for name, (n, d) in totals.items() if d}
    for name in {name for result in results for name in result.maxima}:
        merged[name] = max(result.maxima[name] for result in results if name in result.maxima)
    return merged | results[0].values


def merge_histograms(results: Sequence[UpdateResult]) -> dict[str, np.ndarray]:
    """The histograms of all learners, added."""
    names = {name for result in results for name in result.histograms}
    return {name: np.sum([r.histograms[name] for r in results if name in r.histograms], axis=0) for name in names}
