"""What the KL penalty compares the policy with: the initial model, or what the policy was at the last reset.

Two ways to have it, with the same three methods: a second model, or, under LoRA, the policy's own with other adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from aspo_rllib.lora import adapters
from aspo_rllib.model import Policy


class ModelReference:
    """A second model in memory.

    initial: what the policy was in the beginning, frozen, placed and sharded like the policy.
    """

    def __init__(self, initial: Policy, policy: Policy):
        self._model, self._policy = initial, policy

    @contextmanager
    def in_place(self) -> Iterator[Policy]:
        """The reference, to be scored with inside the context."""
        yield self._model

    def tensors(self) -> dict[str, Tensor]:
        """What distinguishes it from the initial model: to be saved, or written in place. This rank's shards."""
        return self._model.state_dict()

    def reset(self) -> None:
        """Become what the policy is now; both are sharded alike, so every rank copies its own part."""
        _copy(self._policy.state_dict(), self.tensors())


class AdapterReference:
    """The policy's own model, with other adapters put in while it is scored with: no second model in memory.

    The adapters are zero, which is the base model, until the first reset.
    """

    def __init__(self, policy: Policy):
        self._policy = policy
        self._adapters = {name: torch.zeros_like(tensor) for name, tensor in adapters(policy.hf_model).items()}

    @contextmanager
    def in_place(self) -> Iterator[Policy]:
        """The reference, to be scored with inside the context. The policy must not be used meanwhile."""
        trained = {name: tensor.clone() for name, tensor in adapters(self._policy.hf_model).items()}
        _copy(self._adapters, adapters(self._policy.hf_model))
        try:
            yield self._policy
        finally:
            _copy(trained, adapters(self._policy.hf_model))

    def tensors(self) -> dict[str, Tensor]:
        """What distinguishes it from the initial model: to be saved, or written in place. This rank's shards."""
        return self._adapters

    def reset(self) -> None:
        """Become what the policy is now."""
        _copy(adapters(self._policy.hf_model), self._adapters)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
