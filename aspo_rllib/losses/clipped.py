"""Token weights with hard masks: a token beyond a bound has no gradient. r = pi_theta / pi_old of a token."""

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs


def aspo(x: TokenInputs) -> Tensor:
    """ASPO, arXiv 2510.06062. Positives weigh 1/r instead of r (the flip); both sides are capped at c with
    their gradient kept (soft dual clip); PPO's hard masks are tested on the unflipped r."""
    flipped = (-x.log_ratio).exp().clamp(max=x.weight_cap) * (x.ratio <= x.upper)
    plain = x.ratio.clamp(max=x.weight_cap) * (x.ratio >= x.lower)
    return torch.where(x.positive, flipped, plain)


def _ppo_mask(x: TokenInputs) -> Tensor:
    """True where PPO-clip with the hard dual clip c keeps a gradient."""
    return torch.where(x.positive, x.ratio <= x.upper, (x.ratio >= x.lower) & (x.ratio <= x.weight_cap))


def grpo(x: TokenInputs) -> Tensor:
    """PPO-clip, arXiv 1707.06347 eq. 7, with the dual clip of 1912.09729: w = r inside the clip range.
    GRPO (2402.03300), DAPO (2503.14476) and Dr. GRPO (2503.20783) differ only in their rows of `LOSSES`."""
    return x.ratio * _ppo_mask(x)


def no_is(x: TokenInputs) -> Tensor:
    """ASPO's ablation without importance sampling: w = 1 under GRPO's mask."""
    return torch.ones_like(x.ratio) * _ppo_mask(x)


def positive_mean(x: TokenInputs) -> Tensor:
    """ASPO's other ablation: positive tokens weigh the mean r of their response, under GRPO's mask."""
    return torch.where(x.positive, x.response_mean(x.ratio), x.ratio) * _ppo_mask(x)


def dppo(x: TokenInputs, *, delta: float = 0.15) -> Tensor:
    """DPPO, arXiv 2602.04879, binary total variation: w = r, masked where the token's *probability* has moved
    outward by more than delta: 0.15 in the paper's TV runs, where r is not truncated either. The paper
    measures the move from the policy that sampled."""
    shift = x.logprobs.exp() - x.old_logprobs.exp()
    return x.ratio * torch.where(x.positive, shift <= delta, shift >= -delta)


def double_sided(x: TokenInputs) -> Tensor:
    """Direct double-sided importance sampling of GLM-5, arXiv 2602.15763 eq. 3-5: w = r strictly inside the
    clip range and 0 outside of it, on both sides whatever the sign of A. r is taken to the policy that sampled."""
    return x.ratio * ((x.ratio > x.lower) & (x.ratio < x.upper))


def sequence_masked(x: TokenInputs, *, delta: float = 0.5) -> Tensor:
    """GRPO with the off-policy sequence mask of DeepSeek-V3.2, arXiv 2512.02556: a completion with A < 0 counts
    for nothing when its mean log(pi_old / pi_theta) is above delta. The report gives no delta; 0.5 is the value
    that TRL's documentation starts from. r is taken to the policy that sampled."""
    drifted = ~x.positive & (x.response_mean(-x.log_ratio) > delta)
    return grpo(x) * ~drifted
