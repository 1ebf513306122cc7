"""Decides before the first update whether a learner's largest micro-batch fits its GPU.

If it does not fit, layers are recomputed in the backward pass. If it still does not fit, the run ends. The decision
uses the estimate of `memory`. Without it, a run that is too large would end with an out-of-memory error after hours,
with the first long completions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aspo_rllib.config.placement import engine_sleeps, shares_gpu
from aspo_rllib.learner.memory import learner_memory, load_structure, microbatch_tokens

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

# On an H100 the peak was 5 % above the estimate (45.0 and 42.7 GiB), and fragmentation takes some memory.
USABLE_FRAC = 0.92
# CUDA's context and the libraries' workspaces. A sleeping engine on the same GPU keeps its own context and CUDA graphs.
CONTEXT_BYTES = 1 << 30
SLEEPING_ENGINE_BYTES = 3 << 30
_GIB = 1 << 30


def recomputes_layers(config: ASPOSettings, gpu_bytes: int | None) -> bool:
    """Whether layers are recomputed in the backward pass.

    This is the value of `gradient_checkpointing`. If that is None, layers are recomputed only if the largest
    micro-batch does not fit otherwise.

    gpu_bytes: memory of one GPU. None: the learner is on a CPU, where the free memory is not known.

    Raises ValueError if the micro-batch does not fit at all; the message contains the largest
    `max_tokens_per_microbatch` that fits.
    """
    chosen = config.gradient_checkpointing
    if gpu_bytes is None:
        return bool(chosen)
    available = learner_gpu_bytes(config, gpu_bytes)
    for recomputed in (False, True) if chosen is None else (chosen,):
        if _needed_bytes(config, recomputed, microbatch_tokens(config)) <= USABLE_FRAC * available:
            return recomputed
    raise ValueError(_refusal(config, chosen is not False, available))


def learner_gpu_bytes(config: ASPOSettings, gpu_bytes: int) -> int:
    """The part of a GPU's memory that one learner can use during an update."""
    if not shares_gpu(config):
        return int(min(1.0, config.num_gpus_per_learner) * gpu_bytes) - CONTEXT_BYTES
    if engine_sleeps(config):
        return gpu_bytes - CONTEXT_BYTES - SLEEPING_ENGINE_BYTES
    return int((1 - config.gpu_memory_utilization) * gpu_bytes) - CONTEXT_BYTES


def _needed_bytes(config: ASPOSettings, recomputed: bool, tokens: int) -> int:
    memory = learner_memory(config, load_structure(config), recomputed=recomputed, tokens=tokens)
    return memory.device_bytes(config.cpu_offload)


def _refusal(config: ASPOSettings, recomputed: bool, available: int) -> str:
    wanted, longest = microbatch_tokens(config), config.max_model_len
    needed, least = (_needed_bytes(config, recomputed, tokens) for tokens in (wanted, longest))
    layers = "with layers recomputed" if recomputed else "with gradient_checkpointing=False"
    sizes = f"a micro-batch of {wanted:,} tokens needs about {needed / _GIB:.1f} GiB {layers}"
    usable = int(USABLE_FRAC * available)
    room = f"the learner can use {usable / _GIB:.1f} GiB of its GPU"
    if least > usable:
        return (
            f"max_tokens_per_microbatch={config.max_tokens_per_microbatch}: {sizes}, {room}. Even one rollout of "
            f"max_prompt_tokens + max_completion_tokens = {longest:,} tokens needs {least / _GIB:.1f} GiB; use more "
            "learners, lora, cpu_offload, a smaller model or shorter completions."
        )
    # The estimate is linear in the tokens.
    per_token = (needed - least) / (wanted - longest)
    fits = int(longest + (usable - least) / per_token)
    return (
        f"max_tokens_per_microbatch={config.max_tokens_per_microbatch}: {sizes}, {room}. The largest that fits is "
        f"max_tokens_per_microbatch={fits}."
    )
