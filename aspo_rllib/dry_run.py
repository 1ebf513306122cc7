"""What a run would do, need and find, in a few lines for people, without starting it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from aspo_rllib import resources
from aspo_rllib.memory import (
    EngineMemory,
    LearnerMemory,
    engine_memory,
    learner_memory,
    load_structure,
    shared_gpu_bytes,
)
from aspo_rllib.placement import engine_sleeps, shares_gpu

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

GIB = 1 << 30


def describe_run(config: ASPOConfig, gpu_bytes: int) -> str:
    """The plan, the memory of learners and engines, and the resources that the run asks for.

    gpu_bytes: memory of one GPU, which the config does not know.

    Raises ValueError for a config that is not valid.
    """
    bundles = resources.asked_bundles(config)
    asked = resources.total(bundles)
    return (
        f"{config.plan()}\n{_memory(config, gpu_bytes)}\n"
        f"resources  {resources.describe(asked)}, as {resources.describe_bundles(bundles)}"
    )


def _memory(config: ASPOConfig, gpu_bytes: int) -> str:
    try:
        policy = load_structure(config)
    except OSError as error:
        reason = str(error).splitlines()[0]
        return f"memory     no estimate: the model's config cannot be read ({reason})"
    num_parameters = sum(p.numel() for p in policy.parameters())
    engine = engine_memory(config, policy, gpu_bytes)
    learner = learner_memory(config, policy)
    return (
        f"memory     estimates, not compared with any GPU; {num_parameters:,} parameters\n"
        f"  {_learners(config, learner, gpu_bytes)}\n"
        f"  {_engines(config, engine, gpu_bytes)}"
        f"{_shared_gpu(config, learner, engine, gpu_bytes) if shares_gpu(config) else ''}"
    )


def _shared_gpu(config: ASPOConfig, learner: LearnerMemory, engine: EngineMemory, gpu_bytes: int) -> str:
    sampling, updating = shared_gpu_bytes(config, learner, engine)
    most = max(sampling, updating)
    sleeps = "the engine sleeps" if engine_sleeps(config) else "beside the engine"
    verdict = " (TOO MUCH)" if most > gpu_bytes else ""
    return (
        f"\n  1 x shared GPU {_gib(most)} GiB of {_gib(gpu_bytes)}{verdict}: sampling {_gib(sampling)}, beside the "
        f"learner's weights and optimizer; updating {_gib(updating)}, {sleeps}"
    )


def _learners(config: ASPOConfig, memory: LearnerMemory, gpu_bytes: int) -> str:
    parts = ", ".join(f"{f.name.removesuffix('_bytes')} {_gib(getattr(memory, f.name))}" for f in fields(memory))
    needed = memory.device_bytes(config.cpu_offload)
    where = "" if shares_gpu(config) else _share(needed, config.num_gpus_per_learner, gpu_bytes)
    offloaded = "; the first four in host memory" if config.cpu_offload else ""
    return f"{max(1, config.num_learners)} x learner  {_gib(needed)} GiB{where}: {parts}{offloaded}"


def _engines(config: ASPOConfig, memory: EngineMemory, gpu_bytes: int) -> str:
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
    """Of the GPU, or of the part of it, that each worker has."""
    if not gpus:
        return " of host memory"
    available = min(1.0, gpus) * gpu_bytes
    return f" of {_gib(available)}" + (" (TOO MUCH)" if needed > available else "")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.3g}"
