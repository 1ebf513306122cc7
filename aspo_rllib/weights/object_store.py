"""Weights from the learner to the engines over Ray's object store.

The learner puts buckets of numpy arrays into the store and returns a handle with references to them. Each engine reads
the arrays from shared memory. The driver sees only the handle. On CPUs the bytes are copied once, into the store.
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
# ray.put copies buffers above the first size with several threads, which is faster only above about the second size.
# On two cores, one buffer of 2 MiB took three times as long as two buffers of 1 MiB.
_ONE_THREAD_BYTES, _MANY_THREADS_BYTES = 1 << 20, 1 << 25

# One weight in the store: all its names, its dtype, its shape, and its bytes in pieces.
_Stored = tuple[tuple[str, ...], torch.dtype, torch.Size, list[np.ndarray]]


@dataclass(frozen=True)
class WeightsHandle:
    """One version of the trained weights. Equal handles mean equal weights.

    version: number of updates that led to these weights.
    num_bytes: bytes sent in a sync. A tied weight counts as often as it was sent.
    kind: "full" for all weights, or "adapters" for the LoRA adapters alone; learner and engines then load the base
        model from its folder.
    refs: references to the buckets in the object store. Empty if the weights were sent to the engines directly.
    identity: a unique id; handles with the same version and identity are equal. The version alone is not enough: a run
        that continues from an older checkpoint uses its version numbers again, for different weights.
    """

    version: int
    num_bytes: int = field(compare=False)
    kind: str
    refs: tuple[ray.ObjectRef[Any], ...] = field(default=(), compare=False)
    identity: str = field(default_factory=lambda: uuid4().hex)


def publish(
    weights: Iterable[tuple[tuple[str, ...], Tensor]], version: int, dtype: torch.dtype, kind: str = "full"
) -> WeightsHandle:
    """Put whole tensors, cast to `dtype`, into the object store in buckets of about half a GiB.

    weights: pairs of all names of a tensor and the tensor. Only one bucket of them is in memory at a time.
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
    """The (name, tensor) pairs of a handle. The tensors are views of the store's shared memory: do not write to them.

    A tied weight is returned as the same tensor under several names.
    """
    assert handle.refs, handle
    named = []
    for bucket in ray.get(list(handle.refs)):
        for names, dtype, shape, pieces in bucket:
            tensor = _tensor(_joined(pieces), dtype, shape)
            named += [(name, tensor) for name in names]
    return named


def _pieces(tensor: Tensor) -> list[np.ndarray]:
    """The bytes of a contiguous tensor, in pieces that `ray.put` copies fast. The pieces share the tensor's memory."""
    flat = tensor.view(-1).view(torch.uint8).numpy()
    if not _ONE_THREAD_BYTES < flat.nbytes < _MANY_THREADS_BYTES:
        return [flat]
    return [flat[start : start + _ONE_THREAD_BYTES] for start in range(0, flat.nbytes, _ONE_THREAD_BYTES)]


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The pieces as one array. This copies nothing if they are adjacent in memory, as they are in the store."""
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
