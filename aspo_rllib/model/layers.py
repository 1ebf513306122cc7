"""A decoder's layers, whatever the architecture: find them, recompute them in the backward pass, compile them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def has_attention_only(config: PreTrainedConfig) -> bool:
    """Whether a model's cache has keys and values alone. That of linear attention or of a state space has more."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def decoder_of(hf_model: PreTrainedModel) -> nn.Module:
    """The part from token ids to the last hidden state, without the language-model head.

    Raises ValueError if there is none.
    """
    decoder = hf_model.get_decoder()
    if decoder is hf_model:  # classes of which transformers knows no better (Llama 4's text model)
        decoder = getattr(hf_model, "model", None)
    if not isinstance(decoder, nn.Module):
        raise ValueError(f"{type(hf_model).__name__} has no decoder apart from its head, which is not supported.")
    return decoder


def decoder_layers(hf_model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's list of layers, whatever the architecture calls it.

    Raises ValueError if there is none.
    """
    lists = [m for m in decoder_of(hf_model).children() if isinstance(m, nn.ModuleList)]
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
    # dynamic: the numbers of tokens and of rollouts differ from one micro-batch to the next. Without it the second
    # micro-batch would be compiled anew, and others whenever a number meets another one of a condition.
    for layer in decoder_layers(hf_model):
        layer.forward = torch.compile(layer.forward, dynamic=True)
