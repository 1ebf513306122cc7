"""Weights from the learner to the engines over Ray's object store, and the check that they arrived.

The learner puts buckets of numpy arrays and hands out references; each engine reads them from shared memory. The driver
only ever sees the handle.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

BUCKET_BYTES = 1 << 29


@dataclass(frozen=True)
class WeightsHandle:
    """References to one version of what training changes. Equal handles mean equal weights.

    kind: "full", all weights, or "adapters", those of LoRA alone: every end has the base model from its folder.
    """

    refs: tuple[ray.ObjectRef[Any], ...]
    version: int
    num_bytes: int
    kind: str


class SyncDriftError(RuntimeError):
    """After a sync, engine and learner disagree about the log-probabilities of the same tokens.

    `on_bad_numbers` does not catch it: the learner's weights are good, and a rollback would send older ones to the same
    engines by the same way. A trial that Tune restarts has new engines.
    """


def publish(weights: dict[str, Tensor], version: int, dtype: torch.dtype, kind: str = "full") -> WeightsHandle:
    """Put whole CPU tensors, cast to `dtype`, into the object store in buckets of about half a GiB."""
    refs, bucket, bucket_bytes, total = [], [], 0, 0
    for name, tensor in weights.items():
        array = _to_numpy(tensor.to(dtype) if tensor.is_floating_point() else tensor)
        bucket.append((name, array, str(dtype) if tensor.is_floating_point() else None))
        bucket_bytes += array.nbytes
        total += array.nbytes
        if bucket_bytes >= BUCKET_BYTES:
            refs.append(ray.put(bucket))
            bucket, bucket_bytes = [], 0
    if bucket:
        refs.append(ray.put(bucket))
    return WeightsHandle(refs=tuple(refs), version=version, num_bytes=total, kind=kind)


def fetch(handle: WeightsHandle) -> list[tuple[str, Tensor]]:
    """Name -> tensor, reading the store's shared memory without a copy: do not write to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return [
            (name, _to_torch(array, dtype)) for bucket in ray.get(list(handle.refs)) for name, array, dtype in bucket
        ]


def drift(learner_logprobs: list[np.ndarray], engine_logprobs: list[np.ndarray]) -> float:
    """Largest absolute difference over all probe tokens, in nats; inf if any is not finite."""
    differences = [np.abs(a - b) for a, b in zip(learner_logprobs, engine_logprobs, strict=True)]
    worst = float(np.concatenate(differences).max(initial=0.0))  # numpy's max keeps a NaN, Python's may lose it
    return worst if np.isfinite(worst) else float("inf")


def check_drift(value: float, limit: float, version: int) -> None:
    """Raise SyncDriftError if the engines do not hold the learner's weights."""
    if value > limit:
        raise SyncDriftError(
            f"After syncing weights_version {version}, the engine's logprobs differ from the learner's by up to "
            f"{value:.3g} nats (max_sync_drift={limit:g}). The engine holds stale or wrong weights; if it is only "
            "rounding, raise max_sync_drift or use dtype='float32'."
        )


def _to_numpy(tensor: Tensor) -> np.ndarray:
    # numpy has no bfloat16: ship its bits.
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _to_torch(array: np.ndarray, dtype: str | None) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "torch.bfloat16" else tensor
