"""The placement of runners and learners on devices, and what follows from it: weight transport and engines' sleep.

The only runner and the only learner share a GPU if each asks for a part of a GPU and the parts add up to at most one.
Ray has no other way to request this, and does not guarantee the same GPU if a node has several: `doctor.preflight`
checks that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from aspo_rllib.config.fields.llm import OBJECT_STORE

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

_ENGINES = {"vllm": "vLLM", "transformers": "transformers"}
_WORDS = {OBJECT_STORE: "the object store", "nccl": "NCCL", "ipc": "CUDA IPC"}


def shares_gpu(config: ASPOSettings) -> bool:
    """Whether the runner and the learner share one GPU."""
    runner, learner = config.num_gpus_per_env_runner, config.num_gpus_per_learner
    alone = config.num_env_runners == 1 and config.num_learners <= 1
    return alone and min(runner, learner) > 0 and round(runner + learner, 4) <= 1  # Ray's resolution is 0.0001


def weight_transport(config: ASPOSettings) -> str | type[Any]:
    """The resolved `weight_transport`, after "auto": a name in `fields.llm.TRANSPORTS`, or the user's own class."""
    if config.weight_transport != "auto":
        return config.weight_transport
    if config.engine != "vllm" or config.lora is not None:
        return OBJECT_STORE
    if shares_gpu(config):
        return "ipc"
    return "nccl" if _has_whole_gpus(config) else OBJECT_STORE


def transfer_backend(config: ASPOSettings) -> str | None:
    """vLLM's name of the transport; None if weights do not use vLLM's weight transfer."""
    transport = weight_transport(config)
    if transport == OBJECT_STORE:
        return None
    return transport if isinstance(transport, str) else str(transport.backend)


def engine_sleeps(config: ASPOSettings) -> bool:
    """The resolved `sleep`: if it is None, engines sleep if runner and learner share a GPU."""
    return shares_gpu(config) if config.sleep is None else config.sleep


@contextmanager
def turn_on_shared_gpu(config: ASPOSettings) -> Iterator[None]:
    """A lock around allocating memory of a GPU that runner and learner share; both start at the same time.

    vLLM measures the free memory before and after its start, and takes the difference as its own use. Without the lock
    it would also count memory that the learner allocates meanwhile.
    """
    if not shares_gpu(config):
        yield
        return
    name = f"aspo_rllib_gpu_{os.getuid()}_{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield


def _has_whole_gpus(config: ASPOSettings) -> bool:
    """Whether every runner and every learner is a separate process with at least one GPU of its own."""
    return config.num_learners >= 1 and min(config.num_gpus_per_env_runner, config.num_gpus_per_learner) >= 1


# ---- what is legal ---------------------------------------------------------------------------------------------------


def check(config: ASPOSettings) -> None:
    """Raise ValueError for a placement that cannot work."""
    _check_tensor_parallel(config)
    _check_transport(config)
    _check_sleep(config)


def _check_tensor_parallel(config: ASPOSettings) -> None:
    gpus, parallel = config.num_gpus_per_env_runner, config.tensor_parallel_size
    if gpus and parallel != max(1, gpus):
        raise ValueError(
            f"tensor_parallel_size={parallel}: expected num_gpus_per_env_runner={gpus:g}, the GPUs of one engine, or 1 "
            "on a part of a GPU. Set both to the same number."
        )


def _check_transport(config: ASPOSettings) -> None:
    transport = weight_transport(config)
    if transport == OBJECT_STORE:
        return
    field = f"weight_transport={config.weight_transport!r}"
    if config.engine != "vllm":
        raise ValueError(f"{field}: expected 'object_store' with engine={config.engine!r}; the others need vLLM.")
    if config.lora is not None:
        raise ValueError(f"{field}: expected 'object_store' with lora, where only the small adapters are sent.")
    if transport == "nccl" and not _has_whole_gpus(config):
        raise ValueError(
            f"{field}: expected num_learners >= 1 and whole GPUs, got num_learners={config.num_learners}, "
            f"num_gpus_per_env_runner={config.num_gpus_per_env_runner:g} and num_gpus_per_learner="
            f"{config.num_gpus_per_learner:g}; NCCL cannot share a GPU. Use 'auto'."
        )
    if transport == "ipc" and not shares_gpu(config):
        raise ValueError(
            f"{field}: expected one runner and at most one learner on parts of one GPU, got num_env_runners="
            f"{config.num_env_runners} on {config.num_gpus_per_env_runner:g}, num_learners={config.num_learners} on "
            f"{config.num_gpus_per_learner:g}. Use 'auto'."
        )


def _check_sleep(config: ASPOSettings) -> None:
    if not engine_sleeps(config):
        return
    if config.max_staleness:
        why = "sleep=True" if config.sleep else "sleep=None, which is True if runner and learner share a GPU"
        raise ValueError(
            f"{why}: expected max_staleness=0, got {config.max_staleness}; an engine that sleeps cannot sample during "
            "an update. Set .llm(sleep=False) if the GPU has memory for both."
        )
    if config.engine == "vllm" and not config.num_gpus_per_env_runner:
        raise ValueError("sleep=True: expected None or False on CPUs, where vLLM does not release memory.")


# ---- in words --------------------------------------------------------------------------------------------------------


def describe(config: ASPOSettings) -> str:
    """ "4 vLLM runners on 2 GPUs each (tensor parallel), 4 FSDP2 learners on 1 GPU each, weights by NCCL"."""
    runner = f"{_ENGINES[config.engine]} runner"
    learner = "FSDP2 learner" if config.num_learners > 1 else "learner"
    if shares_gpu(config):
        workers = f"1 {runner} and 1 {learner} share 1 GPU"
        workers += " (the engine sleeps during the update)" if engine_sleeps(config) else ""
    else:
        parallel = " (tensor parallel)" if config.tensor_parallel_size > 1 else ""
        workers = (
            f"{_placed(config.num_env_runners, runner, config.num_gpus_per_env_runner)}{parallel}, "
            f"{_placed(max(1, config.num_learners), learner, config.num_gpus_per_learner)}"
        )
    transport = transfer_backend(config) or OBJECT_STORE
    return f"{workers}, weights by {_WORDS.get(transport, transport)}"


def _placed(count: int, kind: str, gpus: float) -> str:
    """ "2 vLLM runners on 1 GPU each", "1 learner on CPU"."""
    each = " each" if count > 1 else ""
    device = f"{gpus:g} GPU{'s' if gpus > 1 else ''}{each}" if gpus else "CPU"
    return f"{count} {kind}{'s' if count > 1 else ''} on {device}"
