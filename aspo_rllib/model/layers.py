"""The layers of a decoder of any architecture: finds them, recomputes them in the backward pass, compiles them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def has_attention_only(config: PreTrainedConfig) -> bool:
    """Whether a model's cache has only keys and values. That of linear attention or of a state-space model has more."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def decoder_of(hf_model: PreTrainedModel) -> nn.Module:
    """The part of a model from token ids to the last hidden state, without the language-model head.

    Raises ValueError if the model has no such part.
    """
    decoder = hf_model.get_decoder()
    if decoder is hf_model:  # transformers does not know the decoder of some classes (Llama 4's text model)
        decoder = getattr(hf_model, "model", None)
    if not isinstance(decoder, nn.Module):
        raise ValueError(f"{type(hf_model).__name__} has no decoder apart from its head, which is not supported.")
    return decoder


def decoder_layers(hf_model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's list of layers, under any name.

    Raises ValueError if there is none.
    """
    lists = [m for m in decoder_of(hf_model).children() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(hf_model).__name__}: no list of decoder layers to shard by.")
    return max(lists, key=len)


def recompute_layers(hf_model: PreTrainedModel) -> None:
    """Keep only the input of each layer for the backward pass, and run the layer again there."""
    # The switch of transformers has no effect in eval mode, in which policies train (no dropout). A replaced forward
    # does not change the names of parameters, and runs inside FSDP's hooks, which gather the layer for both runs.
    for layer in decoder_layers(hf_model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_layers(hf_model: PreTrainedModel) -> None:
    """Compile the forward of each layer with torch.compile; equal layers share the compiled code.

    Call it before `recompute_layers` and before sharding.
    """
    # The numbers of tokens and rollouts differ between micro-batches. Without dynamic=True the second micro-batch would
    # be compiled again, and so would later ones for some of these numbers.
    for layer in decoder_layers(hf_model):
        layer.forward = torch.compile(layer.forward, dynamic=True)
