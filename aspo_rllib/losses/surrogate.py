"""Makes a differentiable loss of a token weight."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs, zero_padding


class PolicyLoss(NamedTuple):
    """The loss and its parts. All but `loss` are `[B, T]` and detached.

    loss: a differentiable scalar.
    token_weight: 0 on padding.
    ratio: 1 on padding.
    held: True where the weight is not 0 and equals a bound: the cap, or an edge of the clip range.
    """

    loss: Tensor
    token_weight: Tensor
    ratio: Tensor
    held: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    loss: Callable[[TokenInputs], Tensor],
    coefficients: Tensor,
    clip_low: float | Tensor | None,
    clip_high: float | Tensor | None,
    weight_cap: float | None,
) -> PolicyLoss:
    """The surrogate sum(coefficients * -A * w), whose gradient is sum(coefficients * -A * w * grad logprobs).

    The computation is in float32, or in float64 for float64 inputs. Padding may contain anything. A value that is not
    finite at an unmasked token makes the loss NaN, and the learner then skips the step.

    advantages: `[B]` or `[B, T]`; all other tensors are `[B, T]`.
    loss: a token weight.
    clip_low, clip_high, weight_cap: None for a loss that has no such bound.

    Raises ValueError on shapes that do not match.
    """
    if advantages.shape == logprobs.shape[:1]:
        advantages = advantages.unsqueeze(-1).expand(logprobs.shape)
    tensors = {"old_logprobs": old_logprobs, "advantages": advantages, "loss_mask": loss_mask}
    for name, tensor in tensors.items():
        if tensor.shape != logprobs.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, logprobs {tuple(logprobs.shape)}")
    mask = loss_mask.bool()
    logprobs = zero_padding(logprobs, mask)

    def bound(value: float | Tensor | None) -> Tensor:
        return torch.as_tensor(math.inf if value is None else value, dtype=logprobs.dtype, device=logprobs.device)

    with torch.no_grad():
        inputs = TokenInputs(
            logprobs=logprobs.detach(),
            old_logprobs=zero_padding(old_logprobs, mask).to(logprobs),
            advantages=zero_padding(advantages, mask).to(logprobs),
            loss_mask=mask,
            clip_low=bound(clip_low),
            clip_high=bound(clip_high),
            weight_cap=math.inf if weight_cap is None else weight_cap,
        )
        token_weight = torch.where(mask & (inputs.advantages != 0), loss(inputs), 0.0).to(logprobs)
        # A comparison with NaN is False, so that a weight function may return 0 for a token whose ratio is NaN.
        token_weight = torch.where(inputs.log_ratio.isfinite(), token_weight, torch.nan)
        scale = 0.0 - inputs.advantages * token_weight  # a unary minus would give -0.0 for every masked token
        held = (token_weight == inputs.weight_cap) | (token_weight == inputs.lower) | (token_weight == inputs.upper)
    carrier = (logprobs - logprobs.detach()).exp()  # its value is 1 and its gradient is that of logprobs
    loss_value = (coefficients.to(logprobs) * scale * carrier).sum()
    return PolicyLoss(loss_value, token_weight, inputs.ratio, held & (token_weight != 0))
