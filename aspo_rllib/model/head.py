"""Finds out what a model computes between its decoder and its logits, by a test of its own forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aspo_rllib.model.layers import decoder_of
from aspo_rllib.model.logprobs import LogitShape

_SMALL, _LARGE = 1e-3, 1e6  # a soft cap hardly changes the first, and limits the second
_BETWEEN = (-30.0, -3.0, -0.4, 0.7, 5.0, 40.0)


def logit_shape(hf_model: PreTrainedModel) -> LogitShape:
    """The scale and the soft cap of a model's logits. The parameters of the model may be on the meta device.

    The config is not sufficient: `logits_scaling` is a divisor in one class and a factor in another, caps have several
    names, and classes use the same field for different things.

    Raises ValueError if the head does more than a matrix product, a scale and a soft cap.
    """
    name = type(hf_model).__name__
    head = hf_model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise ValueError(f"{name} has no language-model head with a single weight, which is not supported.")
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{name}'s language-model head has a bias, which is not supported.")
    products = torch.tensor([_SMALL, _LARGE, *_BETWEEN], dtype=torch.float64)
    logits = _logits_of(hf_model, head, products)
    shape = LogitShape()
    if logits is not None:
        scale = _rounded(float(logits[0]) / _SMALL)
        top = float(logits[1])
        shape = LogitShape(scale, None if abs(top - scale * _LARGE) < 1e-4 * abs(top) else _rounded(top))
    if logits is None or not torch.allclose(_by_shape(products, shape), logits, rtol=1e-5, atol=1e-7):
        raise ValueError(
            f"{name}: its head does more than multiply by a matrix, scale and softly cap the logits, which is not "
            "supported."
        )
    return shape


def _logits_of(hf_model: PreTrainedModel, head: nn.Module, products: Tensor) -> Tensor | None:
    """The logits that the forward pass makes of these products of head and hidden state; None if it ignores them."""
    decoder = decoder_of(hf_model)
    # In some classes the decoder is inside another module, for example one that also encodes images.
    bodies = {decoder, *(m for m in hf_model.children() if decoder in m.modules() and head not in m.modules())}
    with ExitStack() as stack:
        for body in bodies:
            stack.enter_context(_answering(body, lambda *_, **__: _Output(products[None, None])))
        stack.enter_context(_answering(head, lambda hidden: hidden))
        try:
            with torch.no_grad():
                logits = hf_model(input_ids=torch.zeros(1, 1, dtype=torch.int64)).logits
        except Exception as error:  # the class needs more from its decoder than a hidden state
            raise ValueError(
                f"{type(hf_model).__name__}: its head cannot be examined ({type(error).__name__}: {error}), which is "
                "not supported."
            ) from error
    if logits.is_meta or logits.shape != (1, 1, len(products)):
        return None
    found: Tensor = logits[0, 0].double()
    return found


class _Output:
    """A decoder's output in any form that transformers has: only the hidden state, all other fields are None."""

    def __init__(self, last_hidden_state: Tensor):
        self.last_hidden_state = last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """A context in which the module's forward is `answer`."""
    own = module.__dict__.get("forward")
    module.forward = answer
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _rounded(value: float) -> float:
    """The value without the rounding errors of the model's float32 arithmetic."""
    return float(f"{value:.7g}")


def _by_shape(products: Tensor, shape: LogitShape) -> Tensor:
    scaled = products * shape.scale
    return scaled if shape.cap is None else shape.cap * (scaled / shape.cap).tanh()
