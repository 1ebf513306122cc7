"""Any Hugging Face causal LM as a policy: loads it, computes logprobs of completions, and exports its weights.

The module needs only torch and transformers. Its parts are in modules of their own: `packing` (layouts), `logprobs`
(the head), `layers`, `sharding` (FSDP2) and `lora`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aspo_rllib.internals import attention_implementation, tied_weights
from aspo_rllib.model.head import logit_shape
from aspo_rllib.model.layers import compile_layers, decoder_of
from aspo_rllib.model.loading import load_causal_lm, load_structure
from aspo_rllib.model.logprobs import TILE_MATH, compiled_tile_math, linear_logprobs
from aspo_rllib.model.lora import add_lora, base_name, is_adapter, merged_weight
from aspo_rllib.model.packing import SEQUENCE_ATTENTION, TokenBatch, use_attention


class Policy(nn.Module):
    """A causal LM that computes the log-probabilities of given completions.

    Sharding wraps this module and not the Hugging Face module, so that one forward covers the decoder and the head.

    plain_attention: the attention implementation that transformers chose for the model.
    logit_shape: how the model makes logits of the products of its head.
    """

    def __init__(self, hf_model: PreTrainedModel):
        super().__init__()
        self.hf_model = hf_model
        self.plain_attention = attention_implementation(hf_model)
        self.logit_shape = logit_shape(hf_model)
        self.tile_math = TILE_MATH

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the completion tokens under softmax(logits / temperature).

        Returns two `[B, T]` float32 tensors for any layout of the batch. They are 0 where `batch.loss_mask` is False.
        """
        decoder = decoder_of(self.hf_model)
        hidden = decoder(input_ids=batch.input_ids, use_cache=False, **batch.sequences).last_hidden_state
        hidden_at = hidden.flatten(0, 1)[batch.predictors]

        # Within this module's forward, FSDP has gathered the head's weight, and it reduces its gradient as any other.
        weight = self.hf_model.get_output_embeddings().weight
        logprobs, entropy = linear_logprobs(
            hidden_at, weight, batch.targets, temperature, self.logit_shape, self.tile_math
        )
        empty = logprobs.new_zeros(batch.loss_mask.shape)
        return empty.masked_scatter(batch.loss_mask, logprobs), empty.masked_scatter(batch.loss_mask, entropy)


def load_policy(
    model: str, *, trust_remote_code: bool = False, lora: dict[str, Any] | None = None, meta: bool = False
) -> Policy:
    """Load a causal LM with float32 weights, the optimizer's master copy.

    lora: keywords of peft.LoraConfig. Only the adapters are trainable then.
    meta: load only the structure, with parameters on the meta device, for ranks that get rank 0's weights in
        `shard_policy`.

    Raises ValueError if weights are missing in the checkpoint, or if the model's head does more than `LogitShape` can
    describe.
    """
    load = load_structure if meta else load_causal_lm
    hf_model = load(model, dtype=torch.float32, trust_remote_code=trust_remote_code)
    if lora is not None:
        add_lora(hf_model, lora)
    try:
        policy = Policy(hf_model.eval())  # with dropout the ratio would differ from 1 before the first step
    except ValueError as error:
        raise ValueError(f"llm_model={model!r}: {error}") from error
    use_attention(hf_model, SEQUENCE_ATTENTION)
    return policy


def compile_policy(policy: Policy, device: torch.device) -> None:
    """Compile the decoder's layers and, for GPUs, the arithmetic on logits, once for all batch sizes.

    Call it before `recompute_layers`, and before the policy is moved to `device` or sharded.
    """
    compile_layers(policy.hf_model)
    if device.type == "cuda":  # on CPUs a tile stays in the cache, so that single operations are as fast
        policy.tile_math = compiled_tile_math()


def stream_weights(policy: Policy, dtype: torch.dtype = torch.float32) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield each full weight on the policy's device, with all names that a checkpoint has for it.

    Collective: every rank must iterate to the end, and gets all weights. At most one weight is gathered at a time. Tied
    weights have several names, because engines have separate copies. Adapters are merged into the base model's weights.

    dtype: the dtype of floating-point weights. A weight that needs no gathering and no cast shares the policy's memory.
    """
    state = policy.hf_model.state_dict()
    with torch.no_grad():
        for names, stored_name in _checkpoint_names(policy, state).items():
            tensor = merged_weight(policy.hf_model, state, stored_name)
            yield names, tensor.to(dtype) if tensor.is_floating_point() else tensor


def weight_shapes(
    policy: Policy, dtype: torch.dtype = torch.float32
) -> list[tuple[tuple[str, ...], torch.dtype, torch.Size]]:
    """Names, dtype and shape of the weights of `stream_weights`, without gathering them."""
    state = policy.hf_model.state_dict()
    return [
        (names, dtype if state[stored_name].is_floating_point() else state[stored_name].dtype, state[stored_name].shape)
        for names, stored_name in _checkpoint_names(policy, state).items()
    ]


def _checkpoint_names(policy: Policy, state: Mapping[str, Tensor]) -> dict[tuple[str, ...], str]:
    """All names of a weight in a checkpoint without adapters -> its name in the policy's state dict."""
    hf_model = policy.hf_model
    aliases = tied_weights(hf_model)
    names = {base_name(name): name for name in state if not is_adapter(name)}
    assert names.keys() >= set(aliases.values()), aliases
    return {
        (name, *(alias for alias in aliases if aliases[alias] == name)): stored_name
        for name, stored_name in names.items()
        if name not in aliases
    }
