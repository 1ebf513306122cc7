"""FSDP2 for any policy: rank 0 brings the weights, every rank keeps its shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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

from aspo_rllib.layers import decoder_layers

if TYPE_CHECKING:
    from aspo_rllib.model import Policy


def awaits_weights() -> bool:
    """Whether this process is a rank that `shard_policy` will send rank 0's weights, so that it need not load any."""
    return dist.is_initialized() and dist.get_rank() > 0


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


def _default_device() -> torch.device:
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def replace_parameters(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace each parameter by `make` of it. Shared ones stay shared: `Module.to_empty` would untie embeddings."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                if parameter not in made:
                    made[parameter] = nn.Parameter(make(parameter.detach()), requires_grad=parameter.requires_grad)
                owner._parameters[name] = made[parameter]


def _broadcast_buffers(policy: Policy, device: torch.device) -> None:
    """Give every rank rank 0's buffers: rotary frequencies, say, which no state dict holds."""
    for owner in policy.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                on_device = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
                dist.broadcast(on_device, src=0)
                owner._buffers[name] = on_device
