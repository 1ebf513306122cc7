"""Token weights without hard masks: beyond a bound the weight is limited or decays, and the token keeps a gradient."""

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs


def cispo(x: TokenInputs) -> Tensor:
    """CISPO of MiniMax-M1, arXiv 2506.13585 eq. 4-5: w = r, clamped to the clip range. No token is masked."""
    return x.ratio.clamp(min=x.lower, max=x.upper)


def gppo(x: TokenInputs) -> Tensor:
    """GPPO of Klear-Reasoner, arXiv 2508.07629: the weight of a clipped token is the edge of the clip range, not 0.

    As in the official code, PPO's hard dual clip remains: tokens with A < 0 and r > c have no gradient.
    """
    return _clip_edges(x, low=1.0, high=1.0)


def ce_gppo(x: TokenInputs, *, beta_low: float = 0.75, beta_high: float = 1.0) -> Tensor:
    """CE-GPPO, arXiv 2509.20712: GPPO with scaled edges.

    beta_low is the factor for A < 0 below the clip range, and beta_high that for A > 0 above it. The default values are
    those of the official 7B script. The script for 1.5B has beta_low = 0.5.
    """
    return _clip_edges(x, low=beta_low, high=beta_high)


def _clip_edges(x: TokenInputs, *, low: float, high: float) -> Tensor:
    above = torch.where(x.ratio > x.upper, high * x.upper, x.ratio)
    below = torch.where(x.ratio < x.lower, low * x.lower, x.ratio) * (x.ratio <= x.weight_cap)
    return torch.where(x.positive, above, below)


def topr_token(x: TokenInputs) -> Tensor:
    """TOPR with the ratio of the token instead of the completion: w = clip(r, 0, 1) for A < 0."""
    return torch.where(x.positive, 1.0, x.ratio.clamp(max=1.0))


def sapo(x: TokenInputs, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> Tensor:
    """SAPO, arXiv 2511.20347: a soft gate instead of a clip, w = 4 r s (1 - s) with s = sigmoid(tau (r - 1))."""
    z = torch.where(x.positive, tau_positive * (x.ratio - 1), tau_negative * (x.ratio - 1))
    return 4 * x.ratio * torch.sigmoid(z) * torch.sigmoid(-z)  # sigmoid(-z) is 1 - s without cancellation


def dgpo(x: TokenInputs, *, n: float = 1.0, m: float = 2.0) -> Tensor:
    """DGPO, arXiv 2603.14389: beyond the clip range the weight decays and does not drop to 0.

    For A < 0 and r below lower = 1 - clip_low, w = r (r / lower)**n. For A > 0 and r above upper = 1 + clip_high,
    w = r (upper / r)**(1/m).
    """
    above = torch.where(x.ratio > x.upper, x.ratio ** (1 - 1 / m) * x.upper ** (1 / m), x.ratio)
    below = torch.where(x.ratio < x.lower, x.ratio * (x.ratio / x.lower) ** n, x.ratio)
    return torch.where(x.positive, above, below)


def maspo(
    x: TokenInputs,
    *,
    sigma: float = 1.0,
    alpha: float = 0.3,
    sigma_limit: float = 10.0,
    beta_positive: float = 0.03,
    beta_negative: float = 0.03,
    advantage_limits: tuple[float, float] = (0.1, 10.0),
) -> Tensor:
    """MASPO, arXiv 2602.17550: w = r exp(-(r - 1)**2 / (2 s**2)) for r > 1 with A > 0 and r < 1 with A < 0, else w = r.

    The width s is sigma / pi_old**alpha, limited to [sigma, sigma_limit], times a factor that depends on A. Rare tokens
    have a larger width. The factor grows with A for A > 0, falls with |A| for A < 0, and is limited to
    `advantage_limits`.
    """
    width = (sigma * (-alpha * x.old_logprobs).exp()).clamp(sigma, sigma_limit)
    of_positives = (1 + beta_positive * x.advantages).clamp(*advantage_limits)
    of_negatives = (1 / (1 - beta_negative * x.advantages)).clamp(*advantage_limits)
    width = width * torch.where(x.positive, of_positives, of_negatives)
    gate = (-((x.ratio - 1) / width).square() / 2).exp()
    outward = torch.where(x.positive, x.ratio > 1, x.ratio < 1)
    return torch.where(outward, gate * x.ratio, x.ratio)
