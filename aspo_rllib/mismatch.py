"""The engine never samples from quite the probabilities that the learner computes: how far off, and what to do.

sampler_ratio = pi_old / mu: the learner's probability of a sampled token over the engine's. In exact arithmetic it is
1; in bf16, with other kernels or with stale weights it is not, and the gradient is biased unless it is weighed in.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
CORRECTIONS = ("truncated", "masked")
LEVELS = ("token", "sequence")


def sampler_ratio(old_logprobs: Tensor, sampler_logprobs: Tensor, loss_mask: Tensor, level: str) -> Tensor:
    """pi_old / mu per token, or of the whole completion for each of its tokens: `[B, T]`, 1 on padding.

    level: "token", or "sequence": the product over the completion, unbiased but of a variance that grows with length.
    """
    difference = torch.where(loss_mask, old_logprobs - sampler_logprobs, 0.0)
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True).expand_as(difference)
    ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return torch.where(loss_mask, ratio, 1.0)


def correction_weights(ratio: Tensor, correction: str, cap: float) -> Tensor:
    """What the loss of each token is multiplied with: `[B, T]`.

    "truncated": min(ratio, cap), truncated importance sampling.
    "masked": the ratio where it lies in [1/cap, cap], else 0: a token that far off teaches nothing (IcePop).
    """
    if correction == "truncated":
        return ratio.clamp(max=cap)
    return torch.where(outside(ratio, cap), 0.0, ratio)


def outside(ratio: Tensor, cap: float) -> Tensor:
    """Where the ratio leaves [1/cap, cap]."""
    return (ratio > cap) | (ratio < 1 / cap)
