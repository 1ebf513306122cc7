"""What a run will need of GPU memory, estimated from the model's config alone: nothing is loaded or allocated.

Parameters, optimizer state and gradients are counted exactly. Activations are counted by running the real decoder on
the meta device and adding up what autograd would keep; the rest are sums of a few known terms. None of it has been
compared with a GPU; `tests/test_dry_run.py` compares it with measurements on CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface

from aspo_rllib.layers import decoder_layers, recompute_layers
from aspo_rllib.logprobs import TILES
from aspo_rllib.model import Policy, load_policy
from aspo_rllib.packing import SEQUENCE_ATTENTION
from aspo_rllib.placement import engine_sleeps

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

# A guess: what vLLM takes for the activations of a prefill, its logits and CUDA graphs.
ENGINE_OVERHEAD_BYTES = 2 << 30
_MASTER_BYTES = 4  # float32


@dataclass(frozen=True)
class LearnerMemory:
    """Bytes of one learner while it takes an optimizer step.

    Attributes:
        weights_bytes, optimizer_bytes, gradients_bytes, reference_bytes: float32, this learner's shard. They lie in
            host memory with `cpu_offload`.
        copies_bytes: weights in the compute type or gathered from other learners, and gradients on their way back.
        activations_bytes: what the backward pass needs, for the largest micro-batch.
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
        """What stays between updates."""
        return self.weights_bytes + self.optimizer_bytes + self.reference_bytes

    def device_bytes(self, cpu_offload: bool) -> int:
        """All that lies on the device."""
        offloaded = self.weights_bytes + self.optimizer_bytes + self.gradients_bytes + self.reference_bytes
        total: int = sum(getattr(self, f.name) for f in fields(self))
        return total - (offloaded if cpu_offload else 0)


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of one vLLM engine on each of its devices, and the tokens that its KV cache holds."""

    weights_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int

    @property
    def kv_tokens(self) -> int:
        """How many tokens the KV cache holds; 0: the weights alone are too large."""
        return max(0, self.kv_cache_bytes) // self.kv_bytes_per_token


def load_structure(config: ASPOConfig) -> Policy:
    """The config's model, its parameters on the meta device; raises OSError where its config.json is out of reach."""
    return load_policy(config.base_model, trust_remote_code=config.trust_remote_code, lora=config.lora, meta=True)


def learner_memory(config: ASPOConfig, policy: Policy) -> LearnerMemory:
    """What each learner needs.

    policy: as `load_structure` gives it; its type and attention are changed.
    """
    learners = max(1, config.num_learners)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    trainable_bytes = _shard_bytes(trainable, learners)
    weights_bytes = _shard_bytes(policy.parameters(), learners)
    reference_bytes = 0
    if config.method.kl_coef > 0:
        reference_bytes = weights_bytes if config.lora is None else trainable_bytes
    tokens = microbatch_tokens(config)
    return LearnerMemory(
        weights_bytes=weights_bytes,
        optimizer_bytes=2 * trainable_bytes,
        gradients_bytes=trainable_bytes,
        reference_bytes=reference_bytes,
        copies_bytes=_copies_bytes(config, policy),
        logprobs_bytes=_logprobs_bytes(config, policy, tokens),
        activations_bytes=_activations_bytes(config, policy, tokens),
    )


def engine_memory(config: ASPOConfig, policy: Policy, gpu_bytes: int) -> EngineMemory:
    """What each engine needs on each of its GPUs; on CPUs `gpu_bytes` counts for nothing."""
    from aspo_rllib.env_runner import CPU_KV_CACHE_BYTES

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


def shared_gpu_bytes(config: ASPOConfig, learner: LearnerMemory, engine: EngineMemory) -> tuple[int, int]:
    """What a GPU that runner and learner share holds while the engine samples, and while the learner updates."""
    awake = engine.weights_bytes + max(0, engine.kv_cache_bytes) + ENGINE_OVERHEAD_BYTES
    beside_update = 0 if engine_sleeps(config) else awake
    return awake + learner.kept_bytes, beside_update + learner.device_bytes(cpu_offload=False)


def microbatch_tokens(config: ASPOConfig) -> int:
    """Tokens of the largest possible forward pass of one learner."""
    rollouts = -(-config.minibatch_prompts * config.group_size // max(1, config.num_learners))
    return max(config.max_model_len, min(config.max_tokens_per_microbatch, rollouts * config.max_model_len))


# ---- weights --------------------------------------------------------------------------------------------------------


def _compute_dtype(config: ASPOConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


def _shard_bytes(parameters: Iterable[Tensor], learners: int) -> int:
    """Master weights of the first learner: FSDP2 cuts along the first dimension and rounds up."""
    return sum(-(-p.shape[0] // learners) * (p.numel() // p.shape[0]) for p in parameters) * _MASTER_BYTES


def _copies_bytes(config: ASPOConfig, policy: Policy) -> int:
    """The root's weights stay gathered, a layer's come and go, the next one's are under way meanwhile."""
    layers = [list(layer.parameters()) for layer in decoder_layers(policy.hf_model)]
    inside = {p for layer in layers for p in layer}
    root = [p for p in policy.parameters() if p not in inside]
    size = _compute_dtype(config).itemsize
    if config.num_learners < 2:
        casts = _numel(inside) * size if size < _MASTER_BYTES else 0  # autocast keeps those of a whole forward pass
        # From the second micro-batch on a new gradient stands beside the one it is added to.
        return casts + max((p.numel() for p in policy.parameters() if p.requires_grad), default=0) * _MASTER_BYTES
    largest = max(_numel(layer) for layer in layers)
    gradients = max(_numel(p for p in group if p.requires_grad) for group in (root, *layers))
    return (_numel(root) + 2 * largest) * size + gradients * (size + _MASTER_BYTES)


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


# ---- activations ----------------------------------------------------------------------------------------------------


def _logprobs_bytes(config: ASPOConfig, policy: Policy, tokens: int) -> int:
    head: Tensor = policy.hf_model.get_output_embeddings().weight
    vocabulary, width = head.shape
    rows, columns = TILES["cuda" if config.num_gpus_per_learner else "cpu"]
    size = _compute_dtype(config).itemsize
    tile = min(rows, tokens) * min(columns, vocabulary) * (2 * 4 + size)
    return tokens * width * (2 * size + 4) + tile


def _activations_bytes(config: ASPOConfig, policy: Policy, tokens: int) -> int:
    """What the decoder keeps for the backward pass, and one layer more: run again, or its gradients on their way."""
    policy.to(_compute_dtype(config))
    hf_model = policy.hf_model
    if hf_model.config._attn_implementation == SEQUENCE_ATTENTION:
        hf_model.set_attn_implementation(_ATTENTION)
    decoder = hf_model.get_decoder()
    copies = _copied_tokens(config, tokens)
    kept = _kept_bytes(decoder, tokens, copies)
    one_layer = kept // len(decoder_layers(hf_model))
    if config.gradient_checkpointing:
        recompute_layers(hf_model)
        kept = _kept_bytes(decoder, tokens, copies)
    return kept + one_layer


def _copied_tokens(config: ASPOConfig, tokens: int) -> int:
    """Tokens that attention sees of so many of whole groups; more than those where prompts are shared."""
    if config.layout != "shared":
        return tokens
    prompt, completion = config.max_prompt_tokens, config.max_completion_tokens
    group = prompt + config.group_size * completion
    return tokens * config.group_size * (prompt + completion) // group


def _kept_bytes(decoder: nn.Module, tokens: int, copies: int) -> int:
    """What autograd keeps of a forward pass over so many tokens, the parameters not counted.

    copies: tokens in attention.
    """
    parameters = {p.untyped_storage()._cdata for p in decoder.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage  # holding it keeps the key its own
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
    """The shapes and saved tensors of flash attention. On the meta device torch would keep all pairs of tokens."""

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
    """transformers' attention interface, and prompts that are copied as in `sequence_attention`."""
    if copied_from is not None:
        query, key, value = (x.index_select(2, copied_from) for x in (query, key, value))
    out = _FlashAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out if first_copies is None else out.index_select(1, first_copies), None


_ATTENTION = "aspo_estimate"
AttentionInterface.register(_ATTENTION, _estimate_attention)
