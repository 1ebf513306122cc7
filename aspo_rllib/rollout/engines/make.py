"""Creates the engine that a config selects, and tries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from aspo_rllib.config import placement
from aspo_rllib.config.eval_sets import set_configs
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.config.vllm_environment import CPU_KV_CACHE_BYTES
from aspo_rllib.rollout.engines.engine import Engine, EngineError


def engine_seed(base_seed: int, worker_index: int) -> int:
    """The seed of a runner's own random stream, in [0, 2**31). Mixed, not added: seed 0 of runner 2 is not seed 1 of
    runner 1."""
    return int(np.random.SeedSequence([base_seed, worker_index]).generate_state(1)[0] % 2**31)


def make_engine(config: ASPOSettings, seed: int) -> Engine:
    """Start the engine of one env runner, for training and every evaluation set.

    seed: seed of requests that are submitted without their own seed.
    """
    served = (config, *set_configs(config).values())
    settings: dict[str, Any] = {
        "dtype": config.dtype,
        "max_model_len": max(c.max_model_len for c in served),
        "max_num_seqs": config.max_num_seqs,
        "seed": seed,
        "trust_remote_code": config.trust_remote_code,
        "lora": config.lora,
    }
    # Each engine is imported only where it is used.
    if config.engine == "transformers":
        from aspo_rllib.rollout.engines.hf_engine import TransformersEngine

        return TransformersEngine(config.base_model, **settings)
    from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine

    on_cpu = not config.num_gpus_per_env_runner
    with placement.turn_on_shared_gpu(config):
        return VLLMEngine(
            config.base_model,
            kv_cache_memory_bytes=config.kv_cache_memory_bytes or (CPU_KV_CACHE_BYTES if on_cpu else None),
            gpu_memory_utilization=config.gpu_memory_utilization,
            tensor_parallel_size=config.tensor_parallel_size,
            can_sleep=placement.engine_sleeps(config),
            transfer_backend=placement.transfer_backend(config),
            finds_texts=any(c.stop for c in served),
            engine_kwargs=config.engine_kwargs,
            batch_invariant=config.deterministic and not on_cpu,
            **settings,
        )


def start_engine(make: Callable[[], Engine], config: ASPOSettings) -> Engine:
    """Make an engine and let it generate two tokens. Raises EngineError, with the engine's reason, if it cannot."""
    with engine_errors("cannot start", config):
        engine = make()
    with engine_errors("cannot answer its first request", config):
        # With a seed of its own, the request takes nothing from the engine's random stream.
        prompt_ids = np.ones(1, np.int32)
        engine.submit("first", prompt_ids, temperature=1.0, top_p=1.0, max_tokens=2, stop_token_ids=(), seed=0)
        while engine.busy:
            engine.step()
    return engine


@contextmanager
def engine_errors(trouble: str, config: ASPOSettings) -> Iterator[None]:
    """Raise any error of the block as an EngineError that names the engine, the model and the reason."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip()}"
        raise EngineError(
            f"engine={config.engine!r} {trouble} with llm_model={config.llm_model!r}: {reason}"
        ) from error
