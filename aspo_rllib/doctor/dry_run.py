"""Describes a run without starting it: its plan, its memory, and the resources that it needs."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from aspo_rllib.config.placement import engine_sleeps, shares_gpu
from aspo_rllib.config.plan import describe_plan
from aspo_rllib.doctor import resources
from aspo_rllib.learner.memory import (
    EngineMemory,
    LearnerMemory,
    engine_memory,
    learner_memory,
    load_structure,
    shared_gpu_bytes,
)
from aspo_rllib.learner.memory_fit import recomputes_layers

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

GIB = 1 << 30


def describe_run(config: ASPOSettings, gpu_bytes: int) -> str:
    """The plan, the memory of learners and engines, and the resources that the run asks for.

    gpu_bytes: memory of one GPU, which is not in the config.

    Raises ValueError for a config that is not valid.
    """
    bundles = resources.asked_bundles(config)
    asked = resources.total(bundles)
    return (
        f"{describe_plan(config)}\n{_memory(config, gpu_bytes)}\n"
        f"resources  {resources.describe(asked)}, as {resources.describe_bundles(bundles)}"
    )


def _memory(config: ASPOSettings, gpu_bytes: int) -> str:
    try:
        policy = load_structure(config)
    except OSError as error:
        reason = str(error).splitlines()[0]
        return f"memory     no estimate: the model's config cannot be read ({reason})"
    num_parameters = sum(p.numel() for p in policy.parameters())
    engine = engine_memory(config, policy, gpu_bytes)
    recomputed, trouble = _layers(config, gpu_bytes)
    learner = learner_memory(config, policy, recomputed=recomputed)
    return (
        f"memory     estimates; {num_parameters:,} parameters\n"
        f"  {_learners(config, learner, gpu_bytes)}\n"
        f"{trouble}"
        f"  {_engines(config, engine, gpu_bytes)}"
        f"{_shared_gpu(config, learner, engine, gpu_bytes) if shares_gpu(config) else ''}"
    )


def _layers(config: ASPOSettings, gpu_bytes: int) -> tuple[bool, str]:
    """Whether the learners recompute their layers, and a line of output about it."""
    try:
        recomputed = recomputes_layers(config, gpu_bytes if config.num_gpus_per_learner else None)
    except ValueError as error:
        return config.gradient_checkpointing is not False, f"  {error}\n"
    if recomputed and config.gradient_checkpointing is None:
        return True, "  layers are recomputed in the backward pass: the largest micro-batch does not fit otherwise\n"
    return recomputed, ""


def _shared_gpu(config: ASPOSettings, learner: LearnerMemory, engine: EngineMemory, gpu_bytes: int) -> str:
    sampling, updating = shared_gpu_bytes(config, learner, engine)
    most = max(sampling, updating)
    sleeps = "the engine sleeps" if engine_sleeps(config) else "beside the engine"
    verdict = " (TOO MUCH)" if most > gpu_bytes else ""
    return (
        f"\n  1 x shared GPU {_gib(most)} GiB of {_gib(gpu_bytes)}{verdict}: sampling {_gib(sampling)}, beside the "
        f"learner's weights and optimizer; updating {_gib(updating)}, {sleeps}"
    )


def _learners(config: ASPOSettings, memory: LearnerMemory, gpu_bytes: int) -> str:
    parts = ", ".join(f"{f.name.removesuffix('_bytes')} {_gib(getattr(memory, f.name))}" for f in fields(memory))
    needed = memory.device_bytes(config.cpu_offload)
    where = "" if shares_gpu(config) else _share(needed, config.num_gpus_per_learner, gpu_bytes)
    offloaded = "; the first four in host memory" if config.cpu_offload else ""
    return f"{max(1, config.num_learners)} x learner  {_gib(needed)} GiB{where}: {parts}{offloaded}"


def _engines(config: ASPOSettings, memory: EngineMemory, gpu_bytes: int) -> str:
    needed = memory.weights_bytes + max(0, memory.kv_cache_bytes)
    gpus = config.num_gpus_per_env_runner / config.tensor_parallel_size
    where = "" if shares_gpu(config) else _share(needed, gpus, gpu_bytes)
    if memory.kv_tokens < config.max_model_len:
        room = f"TOO SMALL for one rollout of {config.max_model_len:,} tokens"
    else:
        room = f"{memory.kv_tokens // config.max_model_len} of the longest rollouts at once"
    return (
        f"{config.num_env_runners} x engine   {_gib(needed)} GiB{where}: weights {_gib(memory.weights_bytes)}, "
        f"KV cache {_gib(memory.kv_cache_bytes)} = {memory.kv_tokens:,} tokens, {room}"
    )


def _share(needed: int, gpus: float, gpu_bytes: int) -> str:
    """The memory that each worker has: that of its GPU, or of its part of a GPU."""
    if not gpus:
        return " of host memory"
    available = min(1.0, gpus) * gpu_bytes
    return f" of {_gib(available)}" + (" (TOO MUCH)" if needed > available else "")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.3g}"
