"""FSDP2 for any policy: rank 0 has the weights, every rank keeps its shard, and rank 0 gets them back as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from aspo_rllib.internals import set_default_group
from aspo_rllib.model.layers import decoder_layers
from aspo_rllib.model.policy import Policy, stream_weights

T = TypeVar("T")


def awaits_weights() -> bool:
    """Whether this process is a rank that `shard_policy` will send rank 0's weights, so that it need not load any."""
    return dist.is_initialized() and dist.get_rank() > 0


def agree(decide: Callable[[], T]) -> T:
    """What rank 0's `decide` returns, on every rank; its error is raised on every rank. Collective.

    For what only the rank that has the weights can decide.
    """
    outcome: list[tuple[T | None, ValueError | None]] = [(None, None)]
    if not awaits_weights():
        try:
            outcome = [(decide(), None)]
        except ValueError as refusal:
            outcome = [(None, refusal)]
    dist.broadcast_object_list(outcome, src=0, device=_default_device())
    decision, error = outcome[0]
    if error is not None:
        raise error
    assert decision is not None
    return decision


def shard_policy(
    policy: Policy,
    compute_dtype: torch.dtype,
    *,
    device: torch.device | str | None = None,
    cpu_offload: bool = False,
) -> None:
    """FSDP2 over the default process group, layer by layer: compute in `compute_dtype`, master and reduction fp32.

    The weights are rank 0's; other ranks' parameters may be on the meta device. Gradients are summed over ranks, not
    averaged: the loss's denominators are global already. Collective.

    device: where to compute; None: the current CUDA device under nccl, else the CPU.
    cpu_offload: keep parameters, gradients and optimizer state in host memory between uses.
    """
    device = torch.device(device) if device is not None else _default_device()
    if cpu_offload:
        _serve_cpu_tensors()
    source = {} if awaits_weights() else policy.state_dict()
    replace_parameters(policy, lambda p: p.to("meta"))

    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda") if cpu_offload else OffloadPolicy(),
    }
    for layer in decoder_layers(policy.hf_model):
        fully_shard(layer, **options)
    # By default the root (embeddings, head) stays whole until the backward pass, which a frozen policy never has.
    frozen = not any(p.requires_grad for p in policy.parameters())
    fully_shard(policy, reshard_after_forward=True if frozen else None, **options)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum

    replace_parameters(policy, lambda p: torch.empty_like(p, device="cpu" if cpu_offload else device))
    set_model_state_dict(
        policy, source, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
    )
    _broadcast_buffers(policy, device)


def _serve_cpu_tensors() -> None:
    """Make the default process group reduce CPU tensors as well, by gloo: under nccl alone the norm of offloaded
    gradients, which lie on the CPU, has no backend. Collective."""
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        # RLlib makes the group and takes no backends; torch has no public way to give an existing one another.
        set_default_group(dist.new_group(backend=f"cpu:gloo,{backends}"))


def _default_device() -> torch.device:
    if "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def replace_parameters(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace each parameter by `make` of it. Shared ones stay shared: `Module.to_empty` would untie embeddings."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in made:
                made[parameter] = nn.Parameter(make(parameter.detach()), requires_grad=parameter.requires_grad)
            setattr(owner, name, made[parameter])


def _broadcast_buffers(policy: Policy, device: torch.device) -> None:
    """Give every rank rank 0's buffers: rotary frequencies, say, which no state dict holds."""
    for owner in policy.modules():
        for name, buffer in list(owner.named_buffers(recurse=False, remove_duplicate=False)):
            on_device = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            dist.broadcast(on_device, src=0)
            setattr(owner, name, on_device)


def full_weights(policy: Policy) -> dict[str, Tensor]:
    """Checkpoint name -> whole tensor on the CPU. Collective: every rank calls, rank 0 gets them, others get {}.

    Names and merging are those of `stream_weights`.
    """
    weights: dict[str, Tensor] = {}
    for names, tensor in stream_weights(policy):
        if not awaits_weights():
            weights |= dict.fromkeys(names, tensor.cpu())
    return weights
