"""The environment variables that vLLM reads when it is imported, and the size of its cache on CPUs."""

from __future__ import annotations

import logging
import os

CPU_KV_CACHE_BYTES = 1 << 28

# vLLM reads these when it is imported. Values that the user has set are kept.
_VLLM_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def prepare_vllm(*, batch_invariant: bool = False) -> None:
    """Set vLLM's environment variables. Call this before a process imports vLLM for the first time.

    batch_invariant: whether a token's probabilities must not depend on what else is in the batch; GPUs only.
    """
    if batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    for name, value in _VLLM_DEFAULTS.items():
        os.environ.setdefault(name, value)
    # This is required, and overrides the user: weights are replaced between two steps of an engine in this process.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
