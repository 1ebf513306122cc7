"""A learner's weights on their way out, to the object store or straight to the engines, and back in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from aspo_rllib import weight_sync
from aspo_rllib.lora import adapter_weights, load_adapters
from aspo_rllib.model import Policy, stream_weights
from aspo_rllib.placement import weight_transport
from aspo_rllib.sharding import awaits_weights
from aspo_rllib.vllm_engine import prepare_vllm
from aspo_rllib.watchdog import patience_s
from aspo_rllib.weight_sync import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config import ASPOConfig
    from aspo_rllib.weight_transfer import Sender


class PolicyWeights:
    """What training changes of a policy: all weights, or its adapters. All methods are collective."""

    def __init__(self, policy: Policy, config: ASPOConfig):
        self._policy = policy
        self._config = config
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._kind = "full" if config.lora is None else "adapters"
        self._sender: Sender | None = None

    def publish(self, version: int) -> WeightsHandle | None:
        """Put them into the object store; rank 0 returns the handle."""
        weights: Iterable[tuple[tuple[str, ...], Tensor]]
        if self._kind == "full":
            weights = stream_weights(self._policy, self._dtype)
        else:
            weights = (((name,), tensor) for name, tensor in adapter_weights(self._policy.hf_model).items())
        if awaits_weights():
            deque(weights, maxlen=0)
            return None
        return weight_sync.publish(weights, version, self._dtype, self._kind)

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None:
        """Set up vLLM's weight transfer to these runners, in place of any earlier one.

        group: a name of this connection, for the runners.
        """
        prepare_vllm()
        from aspo_rllib.weight_transfer import Sender  # imports vLLM

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
        """Send them to the runners of the last `connect`; rank 0's handle is what the runners hold."""
        assert self._sender is not None
        return self._sender.send(version)

    def load(self, handle: WeightsHandle) -> None:
        """Replace them by what was published.

        Raises ValueError for adapters where all weights are trained, and the other way round.
        """
        if handle.kind != self._kind:
            raise ValueError(f"handle.kind={handle.kind!r}: expected {self._kind!r} with lora={self._config.lora!r}.")
        named = {name: tensor.clone().float() for name, tensor in weight_sync.fetch(handle)}
        if self._kind == "full":
            set_model_state_dict(self._policy.hf_model, dict(named), options=StateDictOptions(full_state_dict=True))
        else:
            load_adapters(self._policy.hf_model, named)
