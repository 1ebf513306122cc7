"""Any Hugging Face causal LM as a policy: load it, score completions, give its weights back.

torch and transformers only. Its parts have rooms of their own: `packing` (layouts), `logprobs` (the head), `layers`,
`sharding` (FSDP2), `lora`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from aspo_rllib.logprobs import linear_logprobs
from aspo_rllib.lora import add_lora, base_name, is_adapter, merged_weight
from aspo_rllib.packing import SEQUENCE_ATTENTION, TokenBatch, use_attention
from aspo_rllib.sharding import awaits_weights


class Policy(nn.Module):
    """A causal LM that answers with the log-probabilities of given completions.

    Sharding wraps this module, not the Hugging Face one, so that one forward covers the decoder and the head.
    """

    def __init__(self, hf_model: PreTrainedModel):
        super().__init__()
        self.hf_model = hf_model

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the completion tokens under softmax(logits / temperature).

        Returns two `[B, T]` float32 tensors, zero where `batch.loss_mask` is False, whatever the batch's layout.
        """
        decoder = self.hf_model.get_decoder()
        hidden = decoder(input_ids=batch.input_ids, use_cache=False, **batch.sequences).last_hidden_state
        hidden_at = hidden.flatten(0, 1)[batch.predictors]

        # Within this module's forward FSDP has the head's weight whole, and takes its gradient like any other.
        weight = self.hf_model.get_output_embeddings().weight
        logprobs, entropy = linear_logprobs(hidden_at, weight, batch.targets, temperature)
        empty = logprobs.new_zeros(batch.loss_mask.shape)
        return empty.masked_scatter(batch.loss_mask, logprobs), empty.masked_scatter(batch.loss_mask, entropy)


def load_policy(
    model: str, *, trust_remote_code: bool = False, lora: dict[str, Any] | None = None, meta: bool = False
) -> Policy:
    """Load a causal LM with float32 weights, the optimizer's master copy.

    lora: keywords of peft.LoraConfig; only the adapters are trainable then.
    meta: only the structure, its parameters on the meta device, for ranks that get rank 0's weights (`shard_policy`).
    Raises ValueError if the model's head does more than a matrix product, which `Policy` would not reproduce.
    """
    options = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    if meta:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            hf_model = AutoModelForCausalLM.from_config(config, **options)
    else:
        hf_model = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True, **options)
    _check_head(hf_model, model)
    use_attention(hf_model, SEQUENCE_ATTENTION)
    if lora is not None:
        add_lora(hf_model, lora)
    return Policy(hf_model.eval())  # dropout would move the ratio away from 1 before the first step


def _check_head(hf_model: PreTrainedModel, model: str) -> None:
    for field in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(hf_model.config, field, None)
        if value not in (None, 1, 1.0):
            raise ValueError(f"llm_model={model!r}: its config has {field}={value}, which is not supported.")
    if hf_model.get_output_embeddings().bias is not None:
        raise ValueError(f"llm_model={model!r}: its language-model head has a bias, which is not supported.")


def stream_weights(policy: Policy, dtype: torch.dtype = torch.float32) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every name that a checkpoint has for a weight, and the whole weight, where the policy is, one at a time.

    Never is more than one of them gathered. Collective: every rank iterates to the end, and gets them all. Tied weights
    have several names: engines keep copies of their own. Adapters are merged into the base model's weights.

    dtype: that of floating-point weights. A weight that needs neither gathering nor a cast is the policy's own memory.
    """
    state = policy.hf_model.state_dict()
    with torch.no_grad():
        for names, stored_name in _checkpoint_names(policy, state).items():
            tensor = merged_weight(policy.hf_model, state, stored_name)
            yield names, tensor.to(dtype) if tensor.is_floating_point() else tensor


def weight_shapes(
    policy: Policy, dtype: torch.dtype = torch.float32
) -> list[tuple[tuple[str, ...], torch.dtype, torch.Size]]:
    """Names, type and shape of what `stream_weights` gives, without gathering anything."""
    state = policy.hf_model.state_dict()
    return [
        (names, dtype if state[stored_name].is_floating_point() else state[stored_name].dtype, state[stored_name].shape)
        for names, stored_name in _checkpoint_names(policy, state).items()
    ]


def _checkpoint_names(policy: Policy, state: Mapping[str, Tensor]) -> dict[tuple[str, ...], str]:
    """All names of a weight in a checkpoint without adapters -> its name in the policy's state dict."""
    hf_model = policy.hf_model
    tied = hf_model._tied_weights_keys if hf_model.config.tie_word_embeddings else None
    aliases = dict(tied or {})
    names = {base_name(name): name for name in state if not is_adapter(name)}
    assert names.keys() >= set(aliases.values()), aliases
    return {
        (name, *(alias for alias in aliases if aliases[alias] == name)): stored_name
        for name, stored_name in names.items()
        if name not in aliases
    }


def full_weights(policy: Policy) -> dict[str, Tensor]:
    """Checkpoint name -> whole tensor on the CPU. Collective: every rank calls, rank 0 gets them, others get {}.

    Names and merging are those of `stream_weights`.
    """
    weights: dict[str, Tensor] = {}
    for names, tensor in stream_weights(policy):
        if not awaits_weights():
            weights |= dict.fromkeys(names, tensor.cpu())
    return weights
