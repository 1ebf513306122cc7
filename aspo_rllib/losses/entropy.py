"""Settings that depend on the entropy of a token."""

import torch
from torch import Tensor


def entropy_class(entropy: Tensor, loss_mask: Tensor, quantile: float = 0.8) -> Tensor:
    """True for high-entropy tokens (Archer, arXiv 2507.15778); `[B, T]` bool, False on padding.

    A high-entropy token has an entropy above the `quantile` of the entropies in its own completion.
    """
    values = torch.where(loss_mask.bool(), entropy.detach().float(), torch.nan)
    return values > torch.nanquantile(values, quantile, dim=-1, keepdim=True)


def by_entropy_class(high_entropy: Tensor, low: float, high: float) -> Tensor:
    """A value per token: `high` where `high_entropy` is True, else `low`; `[B, T]` float64.

    The preset archer2 has `by_entropy_class(m, 0.2, 0.4)` for both clip bounds, and `by_entropy_class(m, 0.001, 0.0)`
    for the KL coefficient.
    """
    return torch.where(high_entropy, high, torch.full_like(high_entropy, low, dtype=torch.float64))
