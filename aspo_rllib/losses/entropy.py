"""Settings that differ by the entropy of a token."""

import torch
from torch import Tensor


def entropy_class(entropy: Tensor, loss_mask: Tensor, quantile: float = 0.8) -> Tensor:
    """True for the high-entropy tokens: those above the `quantile` of the unmasked token entropies of their
    own response (Archer, arXiv 2507.15778). `[B, T]` bool, False on padding."""
    values = torch.where(loss_mask.bool(), entropy.detach().float(), torch.nan)
    return values > torch.nanquantile(values, quantile, dim=-1, keepdim=True)


def by_entropy_class(high_entropy: Tensor, low: float, high: float) -> Tensor:
    """A bound per entropy class: `high` where `high_entropy`, else `low`; `[B, T]` float64. archer2 is
    `by_entropy_class(m, 0.2, 0.4)` for both clip bounds and `by_entropy_class(m, 0.001, 0.0)` as KL coefficient."""
    return torch.where(high_entropy, high, torch.full_like(high_entropy, low, dtype=torch.float64))
