"""The rows of a TrainBatch for one forward pass, as tensors, with the values that stay fixed during an update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from aspo_rllib.losses import aggregation_coefficients, by_entropy_class
from aspo_rllib.model.packing import Pack, TokenBatch
from aspo_rllib.types import Minibatch, TrainBatch

Setting = TypeVar("Setting", bound=float | None)


@dataclass
class Microbatch:
    """The tensors of one forward pass and its loss. Their shape is `[B, T]` unless stated otherwise.

    loss_mask: True for the completion tokens that count. Unlike `tokens.loss_mask` it is all False in the placeholder
        of an empty micro-batch.
    coefficients: each token's share of the optimizer step's loss.
    policy_coefficients: the same for the policy's term of the loss, multiplied by the sampler correction if there is
        one.
    old_logprobs, high_entropy: set before the update's first step or during it; `is_frozen` is True afterwards.
    ref_logprobs: set before the first step if there is a reference.
    share_of_step: 1 / the number of micro-batches in this learner's optimizer step.
    """

    tokens: TokenBatch
    advantages: Tensor  # [B]
    loss_mask: Tensor
    coefficients: Tensor
    sampler_logprobs: Tensor
    share_of_step: float
    policy_coefficients: Tensor = field(init=False)
    old_logprobs: Tensor = field(init=False)
    high_entropy: Tensor = field(init=False)
    ref_logprobs: Tensor | None = None
    is_frozen: bool = False

    def __post_init__(self) -> None:
        self.policy_coefficients = self.coefficients

    def by_entropy(self, low_entropy: Setting, high_entropy: float | None) -> Setting | Tensor:
        """A setting's value per token: `high_entropy` (if not None) on high-entropy tokens, else `low_entropy`."""
        if low_entropy is None or high_entropy is None:
            return low_entropy
        return by_entropy_class(self.high_entropy, low_entropy, high_entropy)


def build_microbatch(
    batch: TrainBatch,
    rows: np.ndarray,
    minibatch: Minibatch,
    *,
    pack: Pack,
    aggregation: str,
    max_completion_tokens: int,
    device: torch.device | str,
) -> Microbatch:
    """Build the tensors of these rows of `batch`.

    If `rows` is empty, the result has one placeholder token that does not count in the loss: the learner must still
    take part in the collectives of the other learners.
    """
    stand_in = [np.zeros(1, np.int64)]
    tokens = pack(
        [batch.prompt_ids[i] for i in rows] or stand_in, [batch.completion_ids[i] for i in rows] or stand_in, device
    )
    loss_mask = tokens.loss_mask if len(rows) else torch.zeros_like(tokens.loss_mask)
    sampler_logprobs = np.zeros(loss_mask.shape, np.float32)
    for row, i in enumerate(rows):
        sampler_logprobs[row, : len(batch.sampler_logprobs[i])] = batch.sampler_logprobs[i]
    advantages = batch.advantages[rows] if len(rows) else np.zeros(1, np.float32)
    return Microbatch(
        tokens=tokens,
        advantages=torch.from_numpy(advantages).to(device),
        loss_mask=loss_mask,
        coefficients=aggregation_coefficients(
            loss_mask,
            aggregation,
            num_loss_tokens=minibatch.num_loss_tokens,
            num_sequences=minibatch.num_sequences,
            max_completion_tokens=max_completion_tokens,
        ),
        sampler_logprobs=torch.from_numpy(sampler_logprobs).to(device),
        share_of_step=1 / len(minibatch.microbatches),
    )
