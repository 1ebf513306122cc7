"""The inputs of a token weight, masked and computed in log space, in float32 or float64."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # e**20 = 4.9e8 is far above every bound of the losses, and far from overflow in float32


@dataclass(frozen=True)
class TokenInputs:
    """The tokens of one forward pass. All tensors are `[B, T]` and have no gradient.

    A clip bound or cap that the loss does not have is infinite.
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
        """log r, clamped to +-20; 0 on padding."""
        return clamped_log_ratio(self.logprobs, self.old_logprobs, self.loss_mask)

    @cached_property
    def ratio(self) -> Tensor:
        """r; 1 on padding."""
        return self.log_ratio.exp()

    @property
    def positive(self) -> Tensor:
        """True where A > 0."""
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
        """The sum of `[B, T]` values over the tokens of each completion: `[B, 1]`."""
        return torch.where(self.loss_mask.bool(), values, 0.0).sum(-1, keepdim=True)

    def response_mean(self, values: Tensor) -> Tensor:
        """The mean of `[B, T]` values over the tokens of each completion: `[B, 1]`; 0 for an empty completion."""
        return self.response_sum(values) / self.loss_mask.bool().sum(-1, keepdim=True).clamp(min=1)


def zero_padding(values: Tensor, loss_mask: Tensor) -> Tensor:
    """The values in float32 or float64, and 0 on padding, which may contain anything."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(loss_mask.bool(), values, 0.0)  # a product with 0 would keep NaN, in value and gradient


def clamped_log_ratio(numerator: Tensor, denominator: Tensor, loss_mask: Tensor) -> Tensor:
    """numerator - denominator, clamped to +-20; 0 on padding. A difference that is not finite is not changed."""
    difference = zero_padding(numerator, loss_mask) - zero_padding(denominator, loss_mask)
    # A clamp alone would turn inf into 20 and give NaN a gradient of zero.
    return torch.where(difference.isfinite(), difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT), difference)
