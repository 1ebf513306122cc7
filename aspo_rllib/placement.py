"""Which device does what, and what follows from it: how weights travel, and whether engines sleep.

A GPU is shared if the only runner and the only learner ask for parts of one that are one together. Ray knows no other
way to say it, and cannot promise the same GPU where a node has several: `preflight` looks at that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

OBJECT_STORE = "object_store"
TRANSPORTS = ("auto", OBJECT_STORE, "nccl", "ipc")
_ENGINES = {"vllm": "vLLM", "transformers": "transformers"}
_WORDS = {OBJECT_STORE: "the object store", "nccl": "NCCL", "ipc": "CUDA IPC"}


def shares_gpu(config: ASPOConfig) -> bool:
    """Whether the runner and the learner live on one GPU."""
    runner, learner = config.num_gpus_per_env_runner, config.num_gpus_per_learner
    alone = config.num_env_runners == 1 and config.num_learners <= 1
    return alone and min(runner, learner) > 0 and round(runner + learner, 4) <= 1  # Ray counts in ten-thousandths


def weight_transport(config: ASPOConfig) -> str | type[Any]:
    """`weight_transport`, or what "auto" means here: a name in TRANSPORTS, or vLLM's TrainerInitInfo of the user's."""
    if config.weight_transport != "auto":
        return config.weight_transport
    if config.engine != "vllm" or config.lora is not None:
        return OBJECT_STORE
    if shares_gpu(config):
        return "ipc"
    return "nccl" if _has_whole_gpus(config) else OBJECT_STORE


def transfer_backend(config: ASPOConfig) -> str | None:
    """The name by which vLLM knows the way that weights take; None: it has no part in it."""
    transport = weight_transport(config)
    if transport == OBJECT_STORE:
        return None
    return transport if isinstance(transport, str) else str(transport.backend)


def engine_sleeps(config: ASPOConfig) -> bool:
    """`sleep`, or whether runner and learner share a GPU."""
    return shares_gpu(config) if config.sleep is None else config.sleep


def _has_whole_gpus(config: ASPOConfig) -> bool:
    """Whether every runner and every learner, a process of its own, has GPUs to itself."""
    return config.num_learners >= 1 and min(config.num_gpus_per_env_runner, config.num_gpus_per_learner) >= 1


# ---- what is legal ---------------------------------------------------------------------------------------------------


def check(config: ASPOConfig) -> None:
    """Raise ValueError for a placement that cannot work."""
    _check_tensor_parallel(config)
    _check_transport(config)
    _check_sleep(config)


def _check_tensor_parallel(config: ASPOConfig) -> None:
    gpus, parallel = config.num_gpus_per_env_runner, config.tensor_parallel_size
    if gpus and parallel != max(1, gpus):
        raise ValueError(
            f"tensor_parallel_size={parallel}: expected num_gpus_per_env_runner={gpus:g}, the GPUs of one engine, or 1 "
            "on a part of one; set both to the same number."
        )


def _check_transport(config: ASPOConfig) -> None:
    transport = weight_transport(config)
    if transport == OBJECT_STORE:
        return
    field = f"weight_transport={config.weight_transport!r}"
    if config.engine != "vllm":
        raise ValueError(f"{field}: expected 'object_store' with engine={config.engine!r}; the others are vLLM's own.")
    if config.lora is not None:
        raise ValueError(f"{field}: expected 'object_store' with lora, where only the small adapters travel.")
    if transport == "nccl" and not _has_whole_gpus(config):
        raise ValueError(
            f"{field}: expected num_learners >= 1 and whole GPUs, got num_learners={config.num_learners}, "
            f"num_gpus_per_env_runner={config.num_gpus_per_env_runner:g} and num_gpus_per_learner="
            f"{config.num_gpus_per_learner:g}; NCCL cannot share a GPU. Take 'auto'."
        )
    if transport == "ipc" and not shares_gpu(config):
        raise ValueError(
            f"{field}: expected one runner and at most one learner on parts of one GPU, got num_env_runners="
            f"{config.num_env_runners} on {config.num_gpus_per_env_runner:g}, num_learners={config.num_learners} on "
            f"{config.num_gpus_per_learner:g}; take 'auto'."
        )


def _check_sleep(config: ASPOConfig) -> None:
    if not engine_sleeps(config):
        return
    if config.max_staleness:
        why = "sleep=True" if config.sleep else "sleep=None, which is True where runner and learner share a GPU"
        raise ValueError(
            f"{why}: expected max_staleness=0, got {config.max_staleness}; an engine that sleeps cannot sample while "
            "the learner learns. Set .llm(sleep=False) if the GPU holds both."
        )
    if config.engine == "vllm" and not config.num_gpus_per_env_runner:
        raise ValueError("sleep=True: expected None or False on CPUs; there vLLM gives no memory back.")


# ---- in words --------------------------------------------------------------------------------------------------------


def describe(config: ASPOConfig) -> str:
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
