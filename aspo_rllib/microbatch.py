"""One forward pass's share of a TrainBatch as tensors, with everything that stays fixed during an update."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from aspo_rllib.losses import aggregation_coefficients, clip_bounds
from aspo_rllib.packing import Layout, TokenBatch
from aspo_rllib.types import Minibatch, TrainBatch


@dataclass
class Microbatch:
    """What one forward pass and its loss need. `[B, T]` unless said otherwise.

    loss_mask: the completions' tokens that count; unlike `tokens.loss_mask` all False in a stand-in for no rollouts.
    coefficients: each token's share of the optimizer step's loss.
    old_logprobs, high_entropy: filled in, which makes it frozen, before the update's first step or during it.
    ref_logprobs: filled in before the first step if there is a reference.
    """

    tokens: TokenBatch
    advantages: Tensor  # [B]
    loss_mask: Tensor
    coefficients: Tensor
    sampler_logprobs: Tensor
    old_logprobs: Tensor = field(init=False)
    high_entropy: Tensor = field(init=False)
    ref_logprobs: Tensor | None = None
    is_frozen: bool = False

    def by_entropy(self, low_entropy: float, high_entropy: float | None) -> float | Tensor:
        """A setting per token: `high_entropy`, where there is one, on the high-entropy tokens."""
        return low_entropy if high_entropy is None else clip_bounds(self.high_entropy, low_entropy, high_entropy)


def build_microbatch(
    batch: TrainBatch,
    rows: np.ndarray,
    minibatch: Minibatch,
    *,
    layout: Layout,
    aggregation: str,
    max_completion_tokens: int,
    device: torch.device | str,
) -> Microbatch:
    """The tensors of these rows of `batch`.

    Without rows: a token that counts for nothing, for a learner that takes part in the others' collectives.
    """
    stand_in = [np.zeros(1, np.int64)]
    tokens = layout(
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
    )
