"""Sends weights from the learners directly to the engines with vLLM's weight transfer.

The transfer uses NCCL, CUDA IPC, or a backend that the user registered with vLLM. Learner rank 0 sends and the workers
of every engine receive; the other ranks take part in gathering the shards. vLLM's trainer-side engine decides the order
of the calls and calls the runners through `RunnerClient`. This module imports vLLM and must therefore be imported only
where a transfer is set up.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from importlib import import_module
from importlib.metadata import version
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from aspo_rllib.model.checkpoint_names import CheckpointNames
from aspo_rllib.model.policy import Policy, stream_weights, weight_shapes
from aspo_rllib.weights.object_store import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle


BUCKET_BYTES = 1 << 28  # sender and receivers each have two of them in memory with NCCL
_INIT_INFOS = {
    "nccl": ("vllm.distributed.weight_transfer.nccl_engine", "NCCLTrainerInitInfo"),
    "ipc": ("vllm.distributed.weight_transfer.ipc_engine", "IPCTrainerInitInfo"),
}


class PolicySource(WeightSource):
    """A policy's weights in the engines' dtype and the form of a checkpoint, behind vLLM's interface of trainers."""

    def __init__(self, policy: Policy, dtype: torch.dtype):
        self._policy = policy
        self._dtype = dtype
        shapes = [
            (name, torch.empty(shape, dtype=dtype, device="meta"))
            for names, dtype, shape in weight_shapes(policy, dtype)
            for name in names
        ]
        self._checkpoint_names = CheckpointNames(policy.hf_model, shapes)
        converted = self._checkpoint_names.convert(shapes)
        self._metadata = [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in converted]

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        weights = stream_weights(self._policy, self._dtype)
        named = ((name, tensor) for names, tensor in weights for name in names)
        for name, tensor in self._checkpoint_names.convert(named):
            yield name, tensor.contiguous()


class RunnerClient:
    """The client with the four methods that vLLM's trainer side calls; each call goes to all runners in parallel.

    A call returns when all runners have answered, and raises the error of a runner that failed.

    timeout_s: seconds to wait for the answers. None: no limit.
    handle: the handle of the weights that the runners hold after the next transfer.
    """

    handle: WeightsHandle

    def __init__(
        self,
        runners: Sequence[ActorHandle[Any]],
        workers_per_runner: int,
        group: str,
        timeout_s: float | None,
    ):
        self._runners = runners
        self._timeout_s = timeout_s
        self._workers_per_runner = workers_per_runner
        self._group = group

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        # vLLM numbers the workers of one engine starting at rank_offset. Each runner has its own engine, which does not
        # count the workers of the other runners.
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
    """One learner's end of the connection to a group of runners. All learners must create and use it together.

    transport: "nccl", "ipc", or a subclass of vLLM's TrainerInitInfo whose `backend` is registered in both of vLLM's
        factories. The fields that it shares with NCCL's and IPC's classes are filled in.
    workers_per_runner: `tensor_parallel_size`.
    group: a unique name of this connection, which the runners store.
    timeout_s: seconds to wait for an answer of the runners. None: no limit.
    """

    def __init__(
        self,
        policy: Policy,
        dtype: torch.dtype,
        runners: Sequence[ActorHandle[Any]],
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
        if transport == "ipc" and not hasattr(import_module(_INIT_INFOS["ipc"][0]), _INIT_INFOS["ipc"][1]):
            self._engine = _IPCSender(self._client, self._source)
            return
        init_info = _init_info_class(transport)
        wanted = {f.name for f in fields(init_info)}
        self._engine = WeightTransferTrainerFactory.trainer_init(
            init_info(**{name: value for name, value in known.items() if name in wanted}),
            client=self._client,
            source=self._source,
        )

    def send(self, version: int) -> WeightsHandle:
        """Send the policy's weights to the runners and wait until they have them. A collective operation."""
        num_bytes = sum(_bytes_of(meta) for meta in self._source.metadata())
        self._client.handle = WeightsHandle(version, num_bytes, "full")
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # vLLM reads the weights on other CUDA streams
        self._engine.send_weights()
        return self._client.handle

    def close(self) -> None:
        self._engine.shutdown()


class _IPCSender:
    """CUDA IPC with vLLM 0.26, where the trainer's side is a function and not yet a class."""

    def __init__(self, client: RunnerClient, source: PolicySource):
        self._client = client
        self._source = source
        client.init_weight_transfer_engine({})

    def send_weights(self) -> None:
        from vllm.distributed.weight_transfer import ipc_engine

        how = ipc_engine.IPCTrainerSendWeightsArgs(
            send_mode=lambda info: self._client.update_weights(asdict(info)),
            packed=True,
            packed_buffer_size_bytes=bucket_bytes(self._source.metadata()),
        )
        self._client.start_weight_update()
        ipc_engine.IPCWeightTransferEngine.trainer_send_weights(iter(self._source), how)
        self._client.finish_weight_update()

    def shutdown(self) -> None:
        pass


def bucket_bytes(weights: Sequence[ParamMeta]) -> int:
    """Size of a bucket that holds the largest weight, because CUDA IPC cannot split a weight.

    The embeddings of a 1.5B model take half a GB.
    """
    return max(BUCKET_BYTES, *map(_bytes_of, weights))


def _bytes_of(meta: ParamMeta) -> int:
    return int(math.prod(meta.shape) * meta.dtype.itemsize)


def _init_info_class(transport: str | type[Any]) -> type[Any]:
    if not isinstance(transport, str):
        return transport
    module, name = _INIT_INFOS[transport]
    init_info: type[Any] | None = getattr(import_module(module), name, None)
    if init_info is None:
        raise ValueError(
            f"weight_transport={transport!r}: vLLM {version('vllm')} does not support this transport; expected vLLM "
            "0.27 or newer. Use weight_transport='object_store'."
        )
    return init_info


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
