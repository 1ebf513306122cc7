"""What a token weight may look at. Everything is masked and computed in log space, in fp32 at least."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # e**20 = 4.9e8: far beyond every bound of the losses, far from overflow in fp32


@dataclass(frozen=True)
class TokenInputs:
    """The tokens of one forward pass, all `[B, T]` and without gradient; clip bounds and cap may be floats.

    Where a loss has no clip bound or no cap, it is infinite.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    loss_mask: Tensor
    clip_low: float | Tensor = math.inf
    clip_high: float | Tensor = math.inf
    weight_cap: float = math.inf

    @cached_property
    def log_ratio(self) -> Tensor:
        """log r, clamped to +-20; 0 on padding, whatever it held."""
        return clamped_log_ratio(self.logprobs, self.old_logprobs, self.loss_mask)

    @cached_property
    def ratio(self) -> Tensor:
        """r; 1 on padding."""
        return self.log_ratio.exp()

    @property
    def positive(self) -> Tensor:
        """Where A > 0."""
        return self.advantages > 0

    @property
    def lower(self) -> Tensor:
        """The lower edge of the clip range of r."""
        return torch.as_tensor(1 - self.clip_low, dtype=self.logprobs.dtype, device=self.logprobs.device)

    @property
    def upper(self) -> Tensor:
        """The upper edge of the clip range of r."""
        return torch.as_tensor(1 + self.clip_high, dtype=self.logprobs.dtype, device=self.logprobs.device)

    def response_sum(self, values: Tensor) -> Tensor:
        """The sum of `[B, T]` values over each response's unmasked tokens: `[B, 1]`."""
        return torch.where(self.loss_mask.bool(), values, 0.0).sum(-1, keepdim=True)

    def response_mean(self, values: Tensor) -> Tensor:
        """The mean of `[B, T]` values over each response's unmasked tokens: `[B, 1]`; 0 if it has none."""
        return self.response_sum(values) / self.loss_mask.bool().sum(-1, keepdim=True).clamp(min=1)


def zero_padding(values: Tensor, loss_mask: Tensor) -> Tensor:
    """In fp32 at least, 0 on padding."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(loss_mask.bool(), values, 0.0)  # a product would keep NaN, in value and gradient


def clamped_log_ratio(numerator: Tensor, denominator: Tensor, loss_mask: Tensor) -> Tensor:
    """numerator - denominator, clamped to +-20, 0 on padding; a non-finite difference stays what it is."""
    difference = zero_padding(numerator, loss_mask) - zero_padding(denominator, loss_mask)
    # A bare clamp would turn inf into 20 and give NaN a gradient of zero.
    return torch.where(difference.isfinite(), difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT), difference)
