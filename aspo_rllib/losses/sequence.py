"""Token weights that depend on the ratios of all tokens of the completion."""

import math

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import LOG_RATIO_LIMIT, TokenInputs

_VESPO_LOWEST = math.log(1e-8)  # the lower limit of log W in the official code


def gspo(x: TokenInputs) -> Tensor:
    """GSPO, arXiv 2507.18071 eq. 5 and 7: one ratio s = exp(mean log r) for a completion, clipped as a whole.

    With the aggregation "sequence" this is exactly the gradient of the paper. LUSPO (arXiv 2602.05261) multiplies the
    loss of each completion by its length, which is the aggregation "sum".
    """
    s = x.response_mean(x.log_ratio).exp()
    return s * torch.where(x.positive, s <= x.upper, s >= x.lower)


def gmpo(x: TokenInputs) -> Tensor:
    """GMPO, arXiv 2507.20673, the clipped objective: the geometric mean of clipped ratios.

    Ratios are clipped from above for A > 0 and from below for A < 0. A clipped token counts in the mean and has no
    gradient. The bounds are distances of *log* r from 0: r is clipped to (e**-clip_low, e**clip_high). With the
    aggregation "sequence" this is exactly the gradient of the paper.
    """
    inside = torch.where(x.positive, x.log_ratio <= x.clip_high, x.log_ratio >= -x.clip_low)
    clipped = torch.where(x.positive, x.log_ratio.clamp(max=x.clip_high), x.log_ratio.clamp(min=-x.clip_low))
    return x.response_mean(clipped).exp() * inside


def topr(x: TokenInputs) -> Tensor:
    """TOPR, arXiv 2503.14286: w = 1 for A > 0, and clip(R, 0, 1) for A < 0.

    R = exp(sum log r) is the ratio of the whole completion. For completions of thousands of tokens it can be almost 0;
    see `topr_token`.
    """
    return torch.where(x.positive, 1.0, x.response_sum(x.log_ratio).clamp(-LOG_RATIO_LIMIT, 0.0).exp())


def vespo(
    x: TokenInputs,
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
) -> Tensor:
    """VESPO, arXiv 2602.10693: w = W**k exp(lambda (1 - W)).

    W = exp(sum log r) is the ratio of the whole completion to the policy that sampled. The default values are those of
    the official code.
    """
    log_ratio = x.response_sum(x.log_ratio).clamp(_VESPO_LOWEST, LOG_RATIO_LIMIT)
    power = torch.where(x.positive, k_positive, k_negative)
    decay = torch.where(x.positive, lambda_positive, lambda_negative)
    return (power * log_ratio + decay * (1 - log_ratio.exp())).exp()
