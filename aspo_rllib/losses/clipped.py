"""Token weights with hard masks: a token beyond a bound has no gradient. r = pi_theta / pi_old of a token."""

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs


def aspo(x: TokenInputs) -> Tensor:
    """ASPO, arXiv 2510.06062.

    Tokens with A > 0 have the weight 1/r instead of r (the flip). For both signs of A the weight is limited to c, and
    the gradient is kept (soft dual clip). PPO's hard masks use r, not 1/r.
    """
    flipped = (-x.log_ratio).exp().clamp(max=x.weight_cap) * (x.ratio <= x.upper)
    plain = x.ratio.clamp(max=x.weight_cap) * (x.ratio >= x.lower)
    return torch.where(x.positive, flipped, plain)


def _ppo_mask(x: TokenInputs) -> Tensor:
    """True where PPO-clip with the hard dual clip c keeps a gradient."""
    return torch.where(x.positive, x.ratio <= x.upper, (x.ratio >= x.lower) & (x.ratio <= x.weight_cap))


def grpo(x: TokenInputs) -> Tensor:
    """PPO-clip, arXiv 1707.06347 eq. 7, with the dual clip of arXiv 1912.09729: w = r inside the clip range.

    GRPO (2402.03300), DAPO (2503.14476) and Dr. GRPO (2503.20783) differ only in their rows of `LOSSES`.
    """
    return x.ratio * _ppo_mask(x)


def no_is(x: TokenInputs) -> Tensor:
    """The ablation of ASPO without importance sampling: w = 1, with GRPO's mask."""
    return torch.ones_like(x.ratio) * _ppo_mask(x)


def positive_mean(x: TokenInputs) -> Tensor:
    """The other ablation of ASPO: w of tokens with A > 0 is the mean r of their completion, with GRPO's mask."""
    return torch.where(x.positive, x.response_mean(x.ratio), x.ratio) * _ppo_mask(x)


def dppo(x: TokenInputs, *, delta: float = 0.15) -> Tensor:
    """DPPO, arXiv 2602.04879, with binary total variation.

    w = r. A token with A > 0 is masked if its *probability* has risen by more than delta, a token with A < 0 if it has
    fallen by more than delta. The paper's runs with total variation have delta = 0.15 and do not truncate r. The paper
    compares with the policy that sampled.
    """
    shift = x.logprobs.exp() - x.old_logprobs.exp()
    return x.ratio * torch.where(x.positive, shift <= delta, shift >= -delta)


def double_sided(x: TokenInputs) -> Tensor:
    """Direct double-sided importance sampling of GLM-5, arXiv 2602.15763 eq. 3-5.

    w = r strictly inside the clip range and 0 outside of it, for both signs of A. r is the ratio to the policy that
    sampled.
    """
    return x.ratio * ((x.ratio > x.lower) & (x.ratio < x.upper))


def sequence_masked(x: TokenInputs, *, delta: float = 0.5) -> Tensor:
    """GRPO with the off-policy sequence mask of DeepSeek-V3.2, arXiv 2512.02556.

    A completion with A < 0 has the weight 0 if its mean log(pi_old / pi_theta) is above delta. The report gives no
    delta; 0.5 is the starting value in TRL's documentation. r is the ratio to the policy that sampled.
    """
    drifted = ~x.positive & (x.response_mean(-x.log_ratio) > delta)
    return grpo(x) * ~drifted
