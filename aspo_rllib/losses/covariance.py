"""Token weights that treat tokens with a high covariance of logprob and advantage differently.

The update on these tokens lowers the entropy most (arXiv 2505.22617). The covariance of a token is
(A - mean A) (log pi_theta - mean log pi_theta). The means are over all tokens of the forward pass, as in the official
code. So these two losses, unlike all others, depend on how the optimizer step is divided into micro-batches.
"""

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs


def kl_cov(x: TokenInputs, *, fraction: float = 0.002, coef: float = 1.0) -> Tensor:
    """KL-Cov: w = r without any clip, and a penalty on the tokens with the highest covariance.

    The penalty is `coef` |log r|, and with it the gradient is that of w = r - coef sign(log r) / A.

    fraction: the share of tokens that get the penalty, at least one token. 0.002 is the value of the official 7B
        script; the script for 32B has 0.0002.
    """
    covariance = _covariance(x)
    count = max(1, int(fraction * int(x.loss_mask.sum())))
    highest = covariance.flatten().topk(min(count, covariance.numel())).indices
    chosen = torch.zeros_like(covariance, dtype=torch.bool).flatten().index_fill(0, highest, True).view_as(covariance)
    chosen &= x.advantages != 0  # at A = 0 a weight has no effect and cannot express the penalty
    return x.ratio - torch.where(chosen, coef * x.log_ratio.sign() / x.advantages, 0.0)


def clip_cov(
    x: TokenInputs, *, fraction: float = 0.0002, covariance_low: float = 1.0, covariance_high: float = 5.0
) -> Tensor:
    """Clip-Cov: PPO-clip without a dual clip, and without the gradient of some randomly chosen tokens.

    The tokens are chosen among those whose covariance lies between the two bounds. The choice is seeded with the number
    of tokens, so that a run can be repeated.

    fraction: the number of chosen tokens as a share of all tokens; at least one token is chosen.
    """
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
    """The covariance of each token, `[B, T]`; -inf on padding."""
    mask = x.loss_mask.bool()
    count = mask.sum().clamp(min=1)

    def centred(values: Tensor) -> Tensor:
        return values - torch.where(mask, values, 0.0).sum() / count

    return torch.where(mask, centred(x.advantages) * centred(x.logprobs), -torch.inf)
