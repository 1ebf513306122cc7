"""Any Hugging Face causal LM as a policy: load it, score completions, give its weights back.

torch and transformers only. Its parts have rooms of their own: `packing` (layouts), `logprobs` (the head), `layers`,
`sharding` (FSDP2), `lora`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from aspo_rllib.logprobs import linear_logprobs
from aspo_rllib.lora import add_lora, merged_weights
from aspo_rllib.packing import TokenBatch, use_sequence_attention


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
        # The state at position t-1 predicts the token at t.
        is_target = batch.completion_targets[:, 1:]
        hidden_at, targets = hidden[:, :-1][is_target], batch.input_ids[:, 1:][is_target]

        # Within this module's forward FSDP has the head's weight whole, and takes its gradient like any other.
        weight = self.hf_model.get_output_embeddings().weight
        logprobs, entropy = linear_logprobs(hidden_at, weight, targets, temperature)
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
    use_sequence_attention(hf_model)
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


def full_weights(policy: Policy) -> dict[str, Tensor]:
    """Checkpoint name -> whole tensor on the CPU. Collective: every rank calls, rank 0 gets them, others get {}.

    Tied weights appear under each of their names: engines keep copies of their own. Adapters are merged into the base
    model's weights.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = cast(dict[str, Tensor], get_model_state_dict(policy.hf_model, options=options))
    weights = merged_weights(policy.hf_model, state)
    if weights:
        for alias, name in (policy.hf_model._tied_weights_keys or {}).items():
            if policy.hf_model.config.tie_word_embeddings:
                weights[alias] = weights[name]
    return weights
