"""A decoder's layers, whatever the architecture: find them, recompute them in the backward pass, compile them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel


def decoder_layers(hf_model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's list of layers, whatever the architecture calls it.

    Raises ValueError if there is none.
    """
    lists = [m for m in hf_model.get_decoder().children() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(hf_model).__name__}: no list of decoder layers to shard by.")
    return max(lists, key=len)


def recompute_layers(hf_model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass, and run the layer again there."""
    # Not transformers' own switch: it does nothing in eval mode, in which policies train (no dropout). Replacing the
    # forward leaves parameter names alone and stays inside FSDP's hooks, which gather the layer for both runs.
    for layer in decoder_layers(hf_model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(hf_model: PreTrainedModel) -> None:
    """torch.compile each layer's forward; equal layers share the compiled code.

    To be called before `recompute_layers` and before sharding.
    """
    for layer in decoder_layers(hf_model):
        layer.forward = torch.compile(layer.forward)
