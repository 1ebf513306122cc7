"""Estimates the GPU memory of a run from the model's config alone, without loading weights or allocating memory.

Parameters, optimizer state and gradients are counted exactly. Activations are counted by running the real decoder on
the meta device and adding up the tensors that autograd would keep. The other parts are sums of a few known terms. On an
H100 the peaks were up to 5 % higher (docs/benchmarks.md); the tests compare the estimate with measurements on CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface

from aspo_rllib.config.placement import engine_sleeps
from aspo_rllib.config.vllm_environment import CPU_KV_CACHE_BYTES
from aspo_rllib.internals import attention_implementation, storage_key
from aspo_rllib.model.layers import decoder_layers, decoder_of, recompute_layers
from aspo_rllib.model.logprobs import TILES
from aspo_rllib.model.packing import SEQUENCE_ATTENTION
from aspo_rllib.model.policy import Policy, load_policy

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

# A rough estimate of vLLM's memory for the activations of a prefill, the logits and CUDA graphs.
ENGINE_OVERHEAD_BYTES = 2 << 30
_MASTER_BYTES = 4  # float32
# The part of a layer's activations that compiled code keeps; kernel fusion avoids the rest. With this value the
# estimates and the measured peaks on an H100 are 32.4 and 31.0 GiB for a compiled Qwen3-0.6B, and 63.5 and 62.1 GiB
# for a Qwen3-1.7B.
COMPILED_ACTIVATIONS_FRAC = 0.65


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes of one learner while it takes an optimizer step.

    Attributes:
        weights_bytes, optimizer_bytes, gradients_bytes, reference_bytes: float32, this learner's shard. They are in
            host memory with `cpu_offload`.
        copies_bytes: weights in the compute dtype or gathered from other learners, and gradients before they are
            reduced.
        activations_bytes: tensors kept for the backward pass of the largest micro-batch.
        logprobs_bytes: hidden states at the head, their gradients, and tiles of logits.
    """

    weights_bytes: int
    optimizer_bytes: int
    gradients_bytes: int
    reference_bytes: int
    copies_bytes: int
    activations_bytes: int
    logprobs_bytes: int

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay allocated between updates."""
        return self.weights_bytes + self.optimizer_bytes + self.reference_bytes

    def device_bytes(self, cpu_offload: bool) -> int:
        """Bytes on the device during an optimizer step."""
        offloaded = self.weights_bytes + self.optimizer_bytes + self.gradients_bytes + self.reference_bytes
        total: int = sum(getattr(self, f.name) for f in fields(self))
        return total - (offloaded if cpu_offload else 0)


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of one vLLM engine on each of its devices, and the number of tokens in its KV cache."""

    weights_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int

    @property
    def kv_tokens(self) -> int:
        """Number of tokens that fit the KV cache. 0 means that the weights alone are too large."""
        return max(0, self.kv_cache_bytes) // self.kv_bytes_per_token


def load_structure(config: ASPOSettings) -> Policy:
    """The config's model with its parameters on the meta device. Raises OSError if its config.json cannot be read."""
    return load_policy(config.base_model, trust_remote_code=config.trust_remote_code, lora=config.lora, meta=True)


def learner_memory(
    config: ASPOSettings, policy: Policy, *, recomputed: bool | None = None, tokens: int | None = None
) -> LearnerMemory:
    """Estimate the memory of each learner.

    policy: from `load_structure`. The function changes its dtype, attention and layers.
    recomputed: whether layers are recomputed in the backward pass. None: as set by `gradient_checkpointing`.
    tokens: number of tokens of one forward pass. None: as many as the config allows.
    """
    recomputed = bool(config.gradient_checkpointing) if recomputed is None else recomputed
    tokens = microbatch_tokens(config) if tokens is None else tokens
    learners = max(1, config.num_learners)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    trainable_bytes = _shard_bytes(trainable, learners)
    weights_bytes = _shard_bytes(policy.parameters(), learners)
    reference_bytes = 0
    if config.method.kl_coef > 0:
        reference_bytes = weights_bytes if config.lora is None else trainable_bytes
    return LearnerMemory(
        weights_bytes=weights_bytes,
        optimizer_bytes=2 * trainable_bytes,
        gradients_bytes=trainable_bytes,
        reference_bytes=reference_bytes,
        copies_bytes=_copies_bytes(config, policy),
        logprobs_bytes=_logprobs_bytes(config, policy, tokens),
        activations_bytes=_activations_bytes(config, policy, tokens, recomputed),
    )


def engine_memory(config: ASPOSettings, policy: Policy, gpu_bytes: int) -> EngineMemory:
    """Estimate the memory of each engine on each of its GPUs. `gpu_bytes` has no effect for engines on CPUs."""
    model, size = policy.hf_model.config.get_text_config(), _compute_dtype(config).itemsize
    parallel = config.tensor_parallel_size
    head_dim = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
    heads = max(1, (getattr(model, "num_key_value_heads", None) or model.num_attention_heads) // parallel)
    weights_bytes = sum(p.numel() for p in policy.parameters()) * size // parallel
    kv_cache_bytes = config.kv_cache_memory_bytes
    if kv_cache_bytes is None and config.num_gpus_per_env_runner:
        kv_cache_bytes = int(config.gpu_memory_utilization * gpu_bytes) - weights_bytes - ENGINE_OVERHEAD_BYTES
    return EngineMemory(
        weights_bytes=weights_bytes,
        kv_cache_bytes=CPU_KV_CACHE_BYTES if kv_cache_bytes is None else kv_cache_bytes,
        kv_bytes_per_token=2 * model.num_hidden_layers * heads * head_dim * size,
    )


def shared_gpu_bytes(config: ASPOSettings, learner: LearnerMemory, engine: EngineMemory) -> tuple[int, int]:
    """Bytes on a GPU that runner and learner share: while the engine samples, and while the learner updates."""
    awake = engine.weights_bytes + max(0, engine.kv_cache_bytes) + ENGINE_OVERHEAD_BYTES
    beside_update = 0 if engine_sleeps(config) else awake
    return awake + learner.kept_bytes, beside_update + learner.device_bytes(cpu_offload=False)


def microbatch_tokens(config: ASPOSettings) -> int:
    """Number of tokens in the largest possible forward pass of one learner."""
    rollouts = -(-config.minibatch_prompts * config.group_size // max(1, config.num_learners))
    return max(config.max_model_len, min(config.max_tokens_per_microbatch, rollouts * config.max_model_len))


# ---- weights --------------------------------------------------------------------------------------------------------


def _compute_dtype(config: ASPOSettings) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def _shard_bytes(parameters: Iterable[Tensor], learners: int) -> int:
    """Bytes of the first learner's master weights. FSDP2 shards along the first dimension and rounds up."""
    return sum(-(-p.shape[0] // learners) * (p.numel() // p.shape[0]) for p in parameters) * _MASTER_BYTES


def _copies_bytes(config: ASPOSettings, policy: Policy) -> int:
    """Bytes of gathered or cast weights and of gradients in use.

    With FSDP2 the root's weights stay gathered. One layer's weights are gathered while it runs, and the next layer's
    weights are prefetched at the same time.
    """
    layers = [list(layer.parameters()) for layer in decoder_layers(policy.hf_model)]
    inside = {p for layer in layers for p in layer}
    root = [p for p in policy.parameters() if p not in inside]
    size = _compute_dtype(config).itemsize
    if config.num_learners < 2:
        casts = _numel(inside) * size if size < _MASTER_BYTES else 0  # autocast caches all casts of a forward pass
        # From the second micro-batch on, a new gradient exists at the same time as the one that it is added to.
        return casts + max((p.numel() for p in policy.parameters() if p.requires_grad), default=0) * _MASTER_BYTES
    largest = max(_numel(layer) for layer in layers)
    gradients = max(_numel(p for p in group if p.requires_grad) for group in (root, *layers))
    return (_numel(root) + 2 * largest) * size + gradients * (size + _MASTER_BYTES)


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


# ---- activations ----------------------------------------------------------------------------------------------------


def _logprobs_bytes(config: ASPOSettings, policy: Policy, tokens: int) -> int:
    head: Tensor = policy.hf_model.get_output_embeddings().weight
    vocabulary, width = head.shape
    rows, columns = TILES["cuda" if config.num_gpus_per_learner else "cpu"]
    size = _compute_dtype(config).itemsize
    tile = min(rows, tokens) * min(columns, vocabulary) * (2 * 4 + size)
    return tokens * width * (2 * size + 4) + tile


def _activations_bytes(config: ASPOSettings, policy: Policy, tokens: int, recomputed: bool) -> int:
    """Bytes that the decoder keeps for the backward pass, plus one layer for its recomputation or its gradients."""
    policy.to(_compute_dtype(config))
    hf_model = policy.hf_model
    if attention_implementation(hf_model) == SEQUENCE_ATTENTION:
        hf_model.set_attn_implementation(_ATTENTION)
    decoder = decoder_of(hf_model)
    copies = _copied_tokens(config, tokens)
    kept = _kept_bytes(decoder, tokens, copies)
    if config.learner_is_compiled:
        kept = int(kept * COMPILED_ACTIVATIONS_FRAC)
    one_layer = kept // len(decoder_layers(hf_model))
    if recomputed:
        recompute_layers(hf_model)
        kept = _kept_bytes(decoder, tokens, copies)
    return kept + one_layer


def _copied_tokens(config: ASPOSettings, tokens: int) -> int:
    """Number of tokens in attention for `tokens` of whole groups. It is larger if prompts are shared."""
    if config.layout != "shared":
        return tokens
    prompt, completion = config.max_prompt_tokens, config.max_completion_tokens
    group = prompt + config.group_size * completion
    return tokens * config.group_size * (prompt + completion) // group


def _kept_bytes(decoder: nn.Module, tokens: int, copies: int) -> int:
    """Bytes that autograd keeps in a forward pass over `tokens` tokens, without the parameters.

    copies: number of tokens in attention.
    """
    parameters = {storage_key(p) for p in decoder.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        if (key := storage_key(tensor)) not in parameters:
            kept[key] = tensor.untyped_storage()  # the reference keeps the key unique
        return tensor

    input_ids = torch.zeros(1, tokens, dtype=torch.int64, device="meta")
    sequences = {}
    if copies != tokens:
        places = torch.zeros(max(copies, tokens), dtype=torch.int64, device="meta")
        sequences = {"copied_from": places[:copies], "first_copies": places[:tokens]}
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = decoder(input_ids=input_ids, use_cache=False, **sequences).last_hidden_state
    keep(output)
    return sum(storage.nbytes() for storage in kept.values())


class _FlashAttention(torch.autograd.Function):
    """The shapes and saved tensors of flash attention. Torch's own on the meta device would keep all token pairs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out


def _estimate_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    copied_from: Tensor | None = None,
    first_copies: Tensor | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers, which copies shared prompts in the same way as `sequence_attention`."""
    if copied_from is not None:
        query, key, value = (x.index_select(2, copied_from) for x in (query, key, value))
    out = _FlashAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out if first_copies is None else out.index_select(1, first_copies), None


_ATTENTION = "aspo_estimate"
AttentionInterface.register(_ATTENTION, _estimate_attention)
