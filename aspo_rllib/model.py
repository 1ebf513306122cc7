"""Any Hugging Face causal LM as a policy: load, shard, and score completions. torch and transformers only.

Logits exist in this room alone, and only for a chunk of completion positions at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

LOGPROB_CHUNK_TOKENS = 4096


@dataclass(frozen=True)
class TokenBatch:
    """Rows of prompt + completion, right-padded.

    input_ids: `[B, L]` int64; completion_targets: `[B, L]` bool, where a completion token stands.
    loss_mask: `[B, T]` bool, the completions alone, left-aligned (T = longest completion).
    """

    input_ids: Tensor
    completion_targets: Tensor
    loss_mask: Tensor


def pad_rows(prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray], device) -> TokenBatch:
    """Lay rollouts out as right-padded rows. With causal attention nothing real ever looks at the padding."""
    lengths = [(len(p), len(c)) for p, c in zip(prompt_ids, completion_ids, strict=True)]
    width = max(p + c for p, c in lengths)
    input_ids = np.zeros((len(lengths), width), dtype=np.int64)
    targets = np.zeros((len(lengths), width), dtype=bool)
    loss_mask = np.zeros((len(lengths), max(c for _, c in lengths)), dtype=bool)
    for row, (p, c) in enumerate(lengths):
        input_ids[row, :p] = prompt_ids[row]
        input_ids[row, p : p + c] = completion_ids[row]
        targets[row, p : p + c] = True
        loss_mask[row, :c] = True
    return TokenBatch(*(torch.from_numpy(a).to(device) for a in (input_ids, targets, loss_mask)))


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution: `[N, V]`, `[N]` -> `[N]`, `[N]` float32."""
    logprobs = logits.float().log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


class Policy(nn.Module):
    """A causal LM that answers with the log-probabilities of given completions.

    Sharding wraps this module, not the Hugging Face one, so that one forward covers the decoder and the head.
    """

    def __init__(self, hf_model: PreTrainedModel):
        super().__init__()
        self.hf_model = hf_model

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the completion tokens under softmax(logits / temperature).

        Returns two `[B, T]` float32 tensors, zero where `batch.loss_mask` is False.
        """
        hidden = self.hf_model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        # The state at position t-1 predicts the token at t.
        is_target = batch.completion_targets[:, 1:]
        hidden_at, targets = hidden[:, :-1][is_target], batch.input_ids[:, 1:][is_target]

        chunks = [
            self._score(h, t, temperature)
            for h, t in zip(hidden_at.split(LOGPROB_CHUNK_TOKENS), targets.split(LOGPROB_CHUNK_TOKENS), strict=True)
        ]
        logprobs, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        empty = torch.zeros(batch.loss_mask.shape, dtype=torch.float32, device=hidden.device)
        return empty.masked_scatter(batch.loss_mask, logprobs), empty.masked_scatter(batch.loss_mask, entropy)

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        def head(h: Tensor) -> tuple[Tensor, Tensor]:
            return token_logprobs(self.hf_model.get_output_embeddings()(h) / temperature, targets)

        # Recomputed in backward: the logits of all chunks together would outweigh everything else.
        return checkpoint(head, hidden, use_reentrant=False) if torch.is_grad_enabled() else head(hidden)


def load_policy(model: str, *, trust_remote_code: bool = False) -> Policy:
    """Load a causal LM with float32 weights, the optimizer's master copy.

    Raises ValueError if the model's head does more than a matrix product, which `Policy` would not reproduce.
    """
    hf_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=trust_remote_code)
    for field in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(hf_model.config, field, None)
        if value not in (None, 1, 1.0):
            raise ValueError(f"llm_model={model!r}: its config has {field}={value}, which is not supported.")
    hf_model.train()
    return Policy(hf_model)


def decoder_layers(hf_model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's list of layers, whatever the architecture calls it."""
    lists = [m for m in hf_model.get_decoder().children() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(hf_model).__name__}: no list of decoder layers to shard by.")
    return max(lists, key=len)


def shard_policy(policy: Policy, compute_dtype: torch.dtype) -> None:
    """FSDP2 over the default process group, layer by layer: compute in `compute_dtype`, master and reduction fp32.

    Gradients are summed over ranks, not averaged: the loss's denominators are global already.
    """
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in decoder_layers(policy.hf_model):
        fully_shard(layer, mp_policy=precision)
    fully_shard(policy, mp_policy=precision)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def full_weights(policy: Policy) -> dict[str, Tensor]:
    """Checkpoint name -> whole tensor on the CPU. Collective: every rank calls, rank 0 gets them, others get {}.

    Tied weights appear under each of their names: engines keep copies of their own.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(policy.hf_model, options=options)
    if weights:
        for alias, name in (policy.hf_model._tied_weights_keys or {}).items():
            if policy.hf_model.config.tie_word_embeddings:
                weights[alias] = weights[name]
    return weights
