"""Token weights that single out the tokens whose covariance of logprob and advantage drives the entropy down.

Both are of arXiv 2505.22617. The covariance of a token is (A - mean A) (log pi_theta - mean log pi_theta), the means
being over all tokens of the forward pass, as in the official code. So these two depend on how the optimizer step is
cut into micro-batches, which no other loss does.
"""

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs


def kl_cov(x: TokenInputs, *, fraction: float = 0.002, coef: float = 1.0) -> Tensor:
    """KL-Cov: w = r without any clip, and the `fraction` of tokens with the highest covariance, at least one, pay
    `coef` |log r| on top, whose gradient is that of w = r - coef sign(log r) / A. 0.002 is the official 7B script's
    value, 0.0002 that for 32B."""
    covariance = _covariance(x)
    count = max(1, int(fraction * int(x.loss_mask.sum())))
    highest = covariance.flatten().topk(min(count, covariance.numel())).indices
    chosen = torch.zeros_like(covariance, dtype=torch.bool).flatten().index_fill(0, highest, True).view_as(covariance)
    chosen &= x.advantages != 0  # a weight cannot express the penalty there: it is multiplied with A
    return x.ratio - torch.where(chosen, coef * x.log_ratio.sign() / x.advantages, 0.0)


def clip_cov(
    x: TokenInputs, *, fraction: float = 0.0002, covariance_low: float = 1.0, covariance_high: float = 5.0
) -> Tensor:
    """Clip-Cov: PPO-clip without a dual clip, and the `fraction` of tokens, at least one, drawn at random among those
    whose covariance lies between the two bounds has no gradient. The draw is seeded with the number of tokens, so
    that a run can be repeated."""
    inside = torch.where(x.positive, x.ratio <= x.upper, x.ratio >= x.lower)
    covariance = _covariance(x)
    candidates = inside & (covariance > covariance_low) & (covariance < covariance_high)
    places = candidates.flatten().nonzero().squeeze(1)
    num_tokens = int(x.loss_mask.sum())
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(num_tokens))
    drawn = places[order[: max(1, int(fraction * num_tokens))].to(places.device)]
    kept = torch.ones_like(inside).flatten().index_fill(0, drawn, False).view_as(inside)
    return x.ratio * (inside & kept)


def _covariance(x: TokenInputs) -> Tensor:
    """`[B, T]`; -inf on padding."""
    mask = x.loss_mask.bool()
    count = mask.sum().clamp(min=1)

    def centred(values: Tensor) -> Tensor:
        return values - torch.where(mask, values, 0.0).sum() / count

    return torch.where(mask, centred(x.advantages) * centred(x.logprobs), -torch.inf)
