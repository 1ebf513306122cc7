"""Weights from the learner to the engines over Ray's object store, and the check that they arrived.

The learner puts buckets of numpy arrays and hands out references; each engine reads them from shared memory. The driver
only ever sees the handle. On CPUs the bytes are copied once, into that memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
from torch import Tensor

BUCKET_BYTES = 1 << 29
# ray.put starts threads for each buffer beyond the first size, which pays from about the second on: on two cores 2 MiB
# took three times as long as in two pieces.
_ONE_THREAD_BYTES, _MANY_THREADS_BYTES = 1 << 20, 1 << 25

# What the store holds of a weight: all its names, type, shape, and its bytes in pieces.
_Stored = tuple[tuple[str, ...], torch.dtype, torch.Size, list[np.ndarray]]


@dataclass(frozen=True)
class WeightsHandle:
    """One version of what training changes. Equal handles mean equal weights.

    num_bytes: of a sync, a tied weight counted as often as it was sent.
    kind: "full", all weights, or "adapters", those of LoRA alone: every end has the base model from its folder.
    refs: where the object store has them; none if they went to the engines on another way.
    identity: by which handles are compared. Versions are not enough: after going back to a checkpoint they come again.
    """

    version: int
    num_bytes: int = field(compare=False)
    kind: str
    refs: tuple[ray.ObjectRef[Any], ...] = field(default=(), compare=False)
    identity: str = field(default_factory=lambda: uuid4().hex)


class SyncDriftError(RuntimeError):
    """After a sync, engine and learner disagree about the log-probabilities of the same tokens.

    `on_bad_numbers` does not catch it: the learner's weights are good, and a rollback would send older ones to the same
    engines by the same way. A trial that Tune restarts has new engines.
    """


def publish(
    weights: Iterable[tuple[tuple[str, ...], Tensor]], version: int, dtype: torch.dtype, kind: str = "full"
) -> WeightsHandle:
    """Put whole tensors, cast to `dtype`, into the object store in buckets of about half a GiB.

    weights: all names of each tensor, and it. They are taken from the iterator one bucket at a time.
    """
    refs: list[ray.ObjectRef[Any]] = []
    bucket: list[_Stored] = []
    bucket_bytes = num_bytes = 0
    for names, tensor in weights:
        tensor = (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        bucket.append((names, tensor.dtype, tensor.shape, _pieces(tensor)))
        bucket_bytes += tensor.nbytes
        num_bytes += tensor.nbytes
        if bucket_bytes >= BUCKET_BYTES:
            refs.append(ray.put(bucket))
            bucket, bucket_bytes = [], 0
    if bucket:
        refs.append(ray.put(bucket))
    return WeightsHandle(version, num_bytes, kind, tuple(refs))


def fetch(handle: WeightsHandle) -> list[tuple[str, Tensor]]:
    """Name -> tensor, reading the store's shared memory without a copy: do not write to them.

    Tied weights are one tensor under several names.
    """
    assert handle.refs, handle
    named = []
    for bucket in ray.get(list(handle.refs)):
        for names, dtype, shape, pieces in bucket:
            tensor = _tensor(_joined(pieces), dtype, shape)
            named += [(name, tensor) for name in names]
    return named


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


def _pieces(tensor: Tensor) -> list[np.ndarray]:
    """A contiguous tensor's bytes, in pieces that `ray.put` copies at full speed; they share its memory."""
    flat = tensor.view(-1).view(torch.uint8).numpy()
    if not _ONE_THREAD_BYTES < flat.nbytes < _MANY_THREADS_BYTES:
        return [flat]
    return [flat[start : start + _ONE_THREAD_BYTES] for start in range(0, flat.nbytes, _ONE_THREAD_BYTES)]


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The bytes in one array. The store has the pieces one after the other, and then nothing is copied."""
    first = pieces[0]
    starts = [piece.__array_interface__["data"][0] - first.__array_interface__["data"][0] for piece in pieces]
    ends = np.cumsum([piece.nbytes for piece in pieces])
    if starts != [0, *ends[:-1]]:
        return np.concatenate(pieces)
    return np.lib.stride_tricks.as_strided(first, shape=(int(ends[-1]),), strides=(1,), writeable=False)


def _tensor(flat: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(flat).view(dtype).view(shape)
