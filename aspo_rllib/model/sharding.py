"""FSDP2 for any policy: rank 0 loads the weights, every rank keeps its shard, and rank 0 can gather them again."""

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
    """Whether this process will receive rank 0's weights from `shard_policy`, and therefore need not load any."""
    return dist.is_initialized() and dist.get_rank() > 0


def agree(decide: Callable[[], T]) -> T:
    """Return the result of rank 0's `decide` on every rank, or raise its ValueError on every rank. Collective.

    It is for decisions that need the weights, which only rank 0 has.
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
    """Shard a policy with FSDP2 over the default process group, layer by layer. Collective.

    The master weights and the reduction of gradients are float32. All ranks get the weights of rank 0; the parameters
    of other ranks may be on the meta device. Gradients are summed over ranks and not averaged, because the denominators
    of the loss are already global.

    compute_dtype: the dtype of the forward and the backward pass.
    device: the device for computation. None: the current CUDA device under nccl, else the CPU.
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
    # By default the root (embeddings, head) stays gathered until the backward pass, but a frozen policy has none.
    frozen = not any(p.requires_grad for p in policy.parameters())
    fully_shard(policy, reshard_after_forward=True if frozen else None, **options)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo does not support scaled sums

    replace_parameters(policy, lambda p: torch.empty_like(p, device="cpu" if cpu_offload else device))
    set_model_state_dict(
        policy, source, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
    )
    _broadcast_buffers(policy, device)


def _serve_cpu_tensors() -> None:
    """Add gloo to the default process group, so that it can reduce CPU tensors. Collective.

    Offloaded gradients are on the CPU. With nccl alone, no backend could reduce their norm.
    """
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        # RLlib makes the group and has no argument for backends. torch has no public way to add one to a group.
        set_default_group(dist.new_group(backend=f"cpu:gloo,{backends}"))


def _default_device() -> torch.device:
    if "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def replace_parameters(module: nn.Module, make: Callable[[Tensor], Tensor]) -> None:
    """Replace each parameter by `make` of it. Unlike `Module.to_empty`, this keeps tied embeddings tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in made:
                made[parameter] = nn.Parameter(make(parameter.detach()), requires_grad=parameter.requires_grad)
            setattr(owner, name, made[parameter])


def _broadcast_buffers(policy: Policy, device: torch.device) -> None:
    """Send the buffers of rank 0 to every rank. Some, such as rotary frequencies, are in no state dict."""
    for owner in policy.modules():
        for name, buffer in list(owner.named_buffers(recurse=False, remove_duplicate=False)):
            on_device = torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device)
            dist.broadcast(on_device, src=0)
            setattr(owner, name, on_device)


def full_weights(policy: Policy) -> dict[str, Tensor]:
    """Checkpoint name -> full tensor on the CPU, on rank 0; other ranks get {}. Collective.

    Names and merged adapters are as in `stream_weights`.
    """
    weights: dict[str, Tensor] = {}
    for names, tensor in stream_weights(policy):
        if not awaits_weights():
            weights |= dict.fromkeys(names, tensor.cpu())
    return weights
