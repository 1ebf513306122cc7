"""Measures and corrects the mismatch between the engine's probabilities and the learner's.

sampler_ratio = pi_old / mu is the learner's probability of a sampled token divided by the engine's. In exact arithmetic
it is 1. With bf16, different kernels or stale weights it is not, and the gradient is biased unless it is corrected.

As in verl, TRL and SkyRL, the correction multiplies only the policy's term of the loss, because the KL and the entropy
bonus regularise the policy wherever it samples. Completions that "masked" excludes still count in the baseline of their
group: the driver computes the baseline from rewards, before any learner has computed pi_old. The baseline is therefore
unbiased for the distribution that was sampled, and a group with many excluded tokens only has a smaller gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def sampler_ratio(old_logprobs: Tensor, sampler_logprobs: Tensor, loss_mask: Tensor, level: str) -> Tensor:
    """pi_old / mu for each token, `[B, T]`, 1 on padding.

    level: "token" for each token's own ratio; "sequence" for the product over the whole completion, which is unbiased
        but has a variance that grows with the length; or "geometric" for the geometric mean over the completion, which
        measures the typical mismatch of its tokens and does not grow with the length.
    """
    difference = torch.where(loss_mask, old_logprobs - sampler_logprobs, 0.0)
    if level != "token":
        total = difference.sum(-1, keepdim=True)
        length = loss_mask.sum(-1, keepdim=True).clamp(min=1) if level == "geometric" else 1
        difference = (total / length).expand_as(difference)
    ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return torch.where(loss_mask, ratio, 1.0)


def correction_weights(ratio: Tensor, correction: str, floor: float | None, cap: float) -> Tensor:
    """The factors by which the policy's loss of each token is multiplied, `[B, T]`.

    correction: "truncated" limits the ratio to `cap` from above, and to `floor` from below if it is not None, which is
        truncated importance sampling. "masked" gives the ratio inside the band and 0 outside of it, which excludes
        tokens with a large mismatch (IcePop).
    """
    if correction == "truncated":
        return ratio.clamp(min=floor, max=cap)
    return torch.where(outside(ratio, floor, cap), 0.0, ratio)


def outside(ratio: Tensor, floor: float | None, cap: float) -> Tensor:
    """Boolean mask of the tokens whose ratio is outside the band [floor, cap]. If floor is None, it is 1 / cap."""
    return (ratio > cap) | (ratio < (1 / cap if floor is None else floor))
