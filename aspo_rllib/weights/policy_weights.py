"""Exports a learner's weights to the object store or directly to the engines, and loads published weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from aspo_rllib.config.placement import weight_transport
from aspo_rllib.config.vllm_environment import prepare_vllm
from aspo_rllib.model.lora import adapter_weights, load_adapters
from aspo_rllib.model.policy import Policy, stream_weights
from aspo_rllib.model.sharding import awaits_weights
from aspo_rllib.watchdog import patience_s
from aspo_rllib.weights import object_store
from aspo_rllib.weights.object_store import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config.settings import ASPOSettings
    from aspo_rllib.weights.vllm_transfer import Sender


class PolicyWeights:
    """The trained weights of a policy: all weights, or only its adapters. All methods are collective operations."""

    def __init__(self, policy: Policy, config: ASPOSettings):
        self._policy = policy
        self._config = config
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._kind = "full" if config.lora is None else "adapters"
        self._sender: Sender | None = None

    def publish(self, version: int) -> WeightsHandle | None:
        """Put the weights into the object store; rank 0 returns the handle, other ranks return None."""
        weights: Iterable[tuple[tuple[str, ...], Tensor]]
        if self._kind == "full":
            weights = stream_weights(self._policy, self._dtype)
        else:
            weights = (((name,), tensor) for name, tensor in adapter_weights(self._policy.hf_model).items())
        if awaits_weights():
            deque(weights, maxlen=0)
            return None
        return object_store.publish(weights, version, self._dtype, self._kind)

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None:
        """Set up vLLM's weight transfer to these runners. This closes any earlier connection.

        group: a unique name of this connection, which the runners store.
        """
        prepare_vllm()
        from aspo_rllib.weights.vllm_transfer import Sender  # imports vLLM

        if self._sender is not None:
            self._sender.close()
        self._sender = Sender(
            self._policy,
            self._dtype,
            runners,
            transport=weight_transport(self._config),
            workers_per_runner=self._config.tensor_parallel_size,
            group=group,
            rank=dist.get_rank() if dist.is_initialized() else 0,
            timeout_s=patience_s(self._config.stage_timeout_s),
        )

    def send(self, version: int) -> WeightsHandle:
        """Send the weights to the runners of the last `connect`; the runners hold the handle that rank 0 returns."""
        assert self._sender is not None
        return self._sender.send(version)

    def load(self, handle: WeightsHandle) -> None:
        """Replace the weights by published ones.

        Raises ValueError if the handle has adapters but all weights are trained, or if it has all weights but only
        adapters are trained.
        """
        if handle.kind != self._kind:
            raise ValueError(f"handle.kind={handle.kind!r}: expected {self._kind!r} with lora={self._config.lora!r}.")
        named = {name: tensor.clone().float() for name, tensor in object_store.fetch(handle)}
        if self._kind == "full":
            set_model_state_dict(self._policy.hf_model, dict(named), options=StateDictOptions(full_state_dict=True))
        else:
            load_adapters(self._policy.hf_model, named)
