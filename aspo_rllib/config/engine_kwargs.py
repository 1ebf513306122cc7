"""Arguments of vLLM that `engine_kwargs` may not have, because other settings or the package itself set them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

_OURS = "the package sets it itself"
_DISTRIBUTION = "it changes the distribution that is sampled from; use the settings of .sampling()"

RESERVED = {
    "model": "use .llm(model=...)",
    "dtype": "use .llm(dtype=...)",
    "trust_remote_code": "use .llm(trust_remote_code=...)",
    "max_model_len": "it is max_prompt_tokens + max_completion_tokens",
    "max_num_seqs": "use .llm(max_num_seqs=...)",
    "kv_cache_memory_bytes": "use .llm(kv_cache_memory_bytes=...)",
    "gpu_memory_utilization": "use .llm(gpu_memory_utilization=...)",
    "tensor_parallel_size": "use .llm(tensor_parallel_size=...)",
    "seed": "use .debugging(seed=...)",
    "enable_lora": "use .llm(lora=...)",
    "max_loras": "use .llm(lora=...)",
    "max_lora_rank": "use .llm(lora=...)",
    "enable_sleep_mode": "use .llm(sleep=...)",
    "weight_transfer_config": "use .llm(weight_transport=...)",
    "generation_config": _DISTRIBUTION,
    "override_generation_config": _DISTRIBUTION,
    "logits_processors": _DISTRIBUTION,
    "distributed_executor_backend": _OURS,
    "load_format": _OURS,
    "skip_tokenizer_init": _OURS,
    "logprobs_mode": _OURS,
    "worker_extension_cls": _OURS,
    "disable_log_stats": _OURS,
    "use_tqdm_on_load": _OURS,
    "enable_chunked_prefill": _OURS,
}


def check_engine_kwargs(config: ASPOSettings) -> None:
    """Raise ValueError for an argument that is not for `engine_kwargs`. Unknown ones are found by `preflight`."""
    for name in config.engine_kwargs or {}:
        if name in RESERVED:
            raise ValueError(f"engine_kwargs: {name!r} is not expected here: {RESERVED[name]}.")
    if config.engine_kwargs and config.engine != "vllm":
        raise ValueError(
            f"engine_kwargs={config.engine_kwargs!r}: expected None with engine={config.engine!r}; they are for vLLM."
        )
