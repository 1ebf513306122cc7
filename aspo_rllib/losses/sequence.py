"""Token weights that are one number for a whole response, made of the ratios of all its tokens."""

import math

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import LOG_RATIO_LIMIT, TokenInputs

_VESPO_LOWEST = math.log(1e-8)  # where the official code ends log W below


def gspo(x: TokenInputs) -> Tensor:
    """GSPO, arXiv 2507.18071 eq. 5 and 7: one ratio s = exp(mean log r) for the whole response, which is kept
    or clipped as one. With "sequence" aggregation this is exactly the paper's gradient. LUSPO (2602.05261)
    multiplies each response's loss with its length, which is the aggregation "sum"."""
    s = x.response_mean(x.log_ratio).exp()
    return s * torch.where(x.positive, s <= x.upper, s >= x.lower)


def gmpo(x: TokenInputs) -> Tensor:
    """GMPO, arXiv 2507.20673, its clipped objective: the geometric mean of ratios clipped on the pessimistic
    side; a clipped token counts in the mean and gets no gradient. Exact with "sequence" aggregation. The
    bounds are distances of *log* r from 0: r is clipped to (e**-clip_low, e**clip_high)."""
    inside = torch.where(x.positive, x.log_ratio <= x.clip_high, x.log_ratio >= -x.clip_low)
    clipped = torch.where(x.positive, x.log_ratio.clamp(max=x.clip_high), x.log_ratio.clamp(min=-x.clip_low))
    return x.response_mean(clipped).exp() * inside


def topr(x: TokenInputs) -> Tensor:
    """TOPR, arXiv 2503.14286: positives weigh 1, negatives clip(R, 0, 1), R = exp(sum log r) being the ratio of
    the whole completion. It vanishes for negatives thousands of tokens long; see `topr_token`."""
    return torch.where(x.positive, 1.0, x.response_sum(x.log_ratio).clamp(-LOG_RATIO_LIMIT, 0.0).exp())


def vespo(
    x: TokenInputs,
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
) -> Tensor:
    """VESPO, arXiv 2602.10693: w = W**k exp(lambda (1 - W)) with W = exp(sum log r), the ratio of the whole
    completion to the policy that sampled. The values are the defaults of the official code."""
    log_ratio = x.response_sum(x.log_ratio).clamp(_VESPO_LOWEST, LOG_RATIO_LIMIT)
    power = torch.where(x.positive, k_positive, k_negative)
    decay = torch.where(x.positive, lambda_positive, lambda_negative)
    return (power * log_ratio + decay * (1 - log_ratio.exp())).exp()
