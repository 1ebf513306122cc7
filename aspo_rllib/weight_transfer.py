"""Weights from the learners straight into the engines: vLLM's own weight transfer, over NCCL, CUDA IPC or a user's.

Learner rank 0 sends, every engine's workers receive; the other ranks take part in the gathering. What is called when is
for vLLM's trainer-side engine to know: it drives the runners through `RunnerClient`. Imports vLLM, so that it is itself
imported only where a transfer is set up.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from aspo_rllib.model import Policy, stream_weights, weight_shapes
from aspo_rllib.weight_sync import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.env_runner import VLLMEnvRunner

BUCKET_BYTES = 1 << 28  # NCCL has two of them under way, on both sides
_INIT_INFOS = {
    "nccl": ("vllm.distributed.weight_transfer.nccl_engine", "NCCLTrainerInitInfo"),
    "ipc": ("vllm.distributed.weight_transfer.ipc_engine", "IPCTrainerInitInfo"),
}


class PolicySource(WeightSource):
    """A policy's weights as vLLM's trainer side asks for them, in the engines' type."""

    def __init__(self, policy: Policy, dtype: torch.dtype):
        self._policy = policy
        self._dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(name, dtype, tuple(shape))
            for names, dtype, shape in weight_shapes(self._policy, self._dtype)
            for name in names
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for names, tensor in stream_weights(self._policy, self._dtype):
            for name in names:
                yield name, tensor


class RunnerClient:
    """vLLM's four calls, each made to all runners at once; returns when all have answered, raises what one raised.

    timeout_s: how long to wait for them; None: for ever.
    handle: what the runners hold after the next transfer.
    """

    handle: WeightsHandle

    def __init__(
        self,
        runners: Sequence[ActorHandle[VLLMEnvRunner]],
        workers_per_runner: int,
        group: str,
        timeout_s: float | None,
    ):
        self._runners = runners
        self._timeout_s = timeout_s
        self._workers_per_runner = workers_per_runner
        self._group = group

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        # vLLM numbers the workers of one engine from rank_offset on; these are engines that know nothing of each other.
        infos = [dict(init_info) for _ in self._runners]
        if "rank_offset" in init_info:
            for number, info in enumerate(infos):
                info["rank_offset"] += number * self._workers_per_runner
        self._call([methodcaller("join_transfer", self._group, info) for info in infos])

    def start_weight_update(self) -> None:
        self._call_all(methodcaller("start_transfer"))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._call_all(methodcaller("receive", update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call_all(methodcaller("finish_transfer", self.handle))

    def _call_all(self, call: Callable[[Any], None]) -> None:
        self._call([call] * len(self._runners))

    def _call(self, calls: Sequence[Callable[[Any], None]]) -> None:
        answers = [runner.apply.remote(call) for runner, call in zip(self._runners, calls, strict=True)]
        ray.get(answers, timeout=self._timeout_s)


class Sender:
    """One learner's end of the connection to a group of runners; made and used on every learner at once.

    transport: "nccl", "ipc", or a subclass of vLLM's TrainerInitInfo whose `backend` is registered in both of vLLM's
        factories. Of its fields, those that NCCL's and IPC's have are filled in.
    workers_per_runner: `tensor_parallel_size`.
    group: a name of this connection, for the runners.
    timeout_s: how long to wait for an answer of the runners; None: for ever.
    """

    def __init__(
        self,
        policy: Policy,
        dtype: torch.dtype,
        runners: Sequence[ActorHandle[VLLMEnvRunner]],
        *,
        transport: str | type[Any],
        workers_per_runner: int,
        group: str,
        rank: int,
        timeout_s: float | None,
    ):
        self._client = RunnerClient(runners, workers_per_runner, group, timeout_s)
        self._source = PolicySource(policy, dtype)
        known = {
            "rank": rank,
            "master_address": ray.util.get_node_ip_address(),
            "master_port": _free_port(),
            "world_size": 1 + len(runners) * workers_per_runner,
            "packed": True,
            "packed_buffer_size_bytes": bucket_bytes(self._source.metadata()),
        }
        init_info = _init_info_class(transport)
        wanted = {f.name for f in fields(init_info)}
        self._engine = WeightTransferTrainerFactory.trainer_init(
            init_info(**{name: value for name, value in known.items() if name in wanted}),
            client=self._client,
            source=self._source,
        )

    def send(self, version: int) -> WeightsHandle:
        """Bring the policy's weights to the runners; returns when they have them. Collective."""
        num_bytes = sum(_bytes_of(meta) for meta in self._source.metadata())
        self._client.handle = WeightsHandle(version, num_bytes, "full")
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # vLLM reads the weights on streams of its own
        self._engine.send_weights()
        return self._client.handle

    def close(self) -> None:
        self._engine.shutdown()


def bucket_bytes(weights: Sequence[ParamMeta]) -> int:
    """Room for the largest weight: CUDA IPC sends none in parts, and the embeddings of a 1.5B model take half a GB."""
    return max(BUCKET_BYTES, *map(_bytes_of, weights))


def _bytes_of(meta: ParamMeta) -> int:
    return int(math.prod(meta.shape) * meta.dtype.itemsize)


def _init_info_class(transport: str | type[Any]) -> type[Any]:
    if not isinstance(transport, str):
        return transport
    module, name = _INIT_INFOS[transport]
    init_info: type[Any] = getattr(import_module(module), name)
    return init_info


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
