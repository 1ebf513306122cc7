"""The reference model of the KL penalty: the initial model, or a copy of the policy at the last reset.

There are two classes with the same three methods: a second model in memory, or, for LoRA, the policy's own model with
other adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from aspo_rllib.model.lora import adapters
from aspo_rllib.model.policy import Policy


class ModelReference:
    """A reference that is a second model in memory.

    initial: a frozen copy of the initial policy, on the same device and sharded like the policy.
    """

    def __init__(self, initial: Policy, policy: Policy):
        self._model, self._policy = initial, policy

    @contextmanager
    def in_place(self) -> Iterator[Policy]:
        """A context with the reference as a policy that can compute logprobs."""
        yield self._model

    def tensors(self) -> dict[str, Tensor]:
        """The tensors in which the reference differs from the initial model, as this rank's shards."""
        return self._model.state_dict()

    def reset(self) -> None:
        """Copy the present policy. Both are sharded in the same way, so that every rank copies its own shards."""
        _copy(self._policy.state_dict(), self.tensors())


class AdapterReference:
    """A reference without a second model in memory: the policy's own model, with other adapters while it is used.

    Until the first reset these adapters are zero, so that the reference is the base model.
    """

    def __init__(self, policy: Policy):
        self._policy = policy
        self._adapters = {name: torch.zeros_like(tensor) for name, tensor in adapters(policy.hf_model).items()}

    @contextmanager
    def in_place(self) -> Iterator[Policy]:
        """A context with the reference as a policy that can compute logprobs. Do not use the policy inside it."""
        trained = {name: tensor.clone() for name, tensor in adapters(self._policy.hf_model).items()}
        _copy(self._adapters, adapters(self._policy.hf_model))
        try:
            yield self._policy
        finally:
            _copy(trained, adapters(self._policy.hf_model))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors in which the reference differs from the initial model, as this rank's shards."""
        return self._adapters

    def reset(self) -> None:
        """Copy the present policy."""
        _copy(adapters(self._policy.hf_model), self._adapters)


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
