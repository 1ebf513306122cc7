"""How the losses of the tokens become one number: the share of each token."""

import torch
from torch import Tensor

AGGREGATIONS = ("token", "sequence", "sum", "constant")


def check_aggregation(aggregation: str) -> None:
    """Raise ValueError if the aggregation is unknown."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {aggregation!r}: give one of {AGGREGATIONS}")


def aggregation_coefficients(
    loss_mask: Tensor,
    aggregation: str,
    *,
    num_loss_tokens: int,
    num_sequences: int,
    max_completion_tokens: int,
) -> Tensor:
    """Each token's share of the loss, `[B, T]` float64; 0 on padding and for empty completions.

    The counts are those of the whole optimizer step, over all micro-batches and ranks. So the sum of the shares does
    not depend on how the batch of the step is divided.

    aggregation:
        "token": 1 / num_loss_tokens (DAPO).
        "sequence": 1 / (num_sequences * tokens of the completion), the mean over completions of token means (GRPO).
        "sum": 1 / num_sequences, the mean over completions of token sums (LUSPO).
        "constant": 1 / (num_sequences * max_completion_tokens) (Dr. GRPO).

    Raises ValueError on another `aggregation`.
    """
    check_aggregation(aggregation)
    mask = loss_mask.bool()
    denominators = {
        "token": num_loss_tokens,
        "sequence": num_sequences * mask.sum(-1, keepdim=True),
        "sum": num_sequences,
        "constant": num_sequences * max_completion_tokens,
    }
    denominator = torch.as_tensor(denominators[aggregation], device=mask.device)
    return mask.double() / denominator.clamp(min=1)  # a step without any token has the share 0, not 0/0
