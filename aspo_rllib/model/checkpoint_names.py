"""Converts weights to the names and shapes of a checkpoint.

In memory, transformers has some weights in another form than the checkpoint. For example, it fuses the experts of a
layer into one tensor, or gives the head another name. vLLM's model classes read the form of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

Named = tuple[str, Tensor]


class CheckpointNames:
    """Converts the weights of one model, one at a time, into the form of its checkpoint.

    hf_model: the model, which may be on the meta device. A model that was loaded from a folder knows the names there.
    weights: name and tensor of every weight as transformers has it. Only the shapes and types are used.
    """

    def __init__(self, hf_model: PreTrainedModel, weights: Iterable[Named]):
        self._hf_model = hf_model
        self._renamed: dict[str, str] = {}  # weights that keep their shape, with their name in the checkpoint
        shapes = {name: tensor.to("meta") for name, tensor in weights}
        converted: dict[str, Tensor] = {}
        for name, tensor in shapes.items():
            parts = revert_weight_conversion(hf_model, {name: tensor})
            if [id(part) for part in parts.values()] == [id(tensor)]:
                (self._renamed[name],) = parts
            converted |= parts
        # If a tensor of the checkpoint is made of several weights, all weights must be converted together.
        self._one_by_one = _shapes(converted) == _shapes(revert_weight_conversion(hf_model, shapes))

    def convert(self, weights: Iterable[Named]) -> Iterator[Named]:
        """The same weights in the form of the checkpoint. Weights that only change their name are not copied."""
        if not self._one_by_one:
            yield from revert_weight_conversion(self._hf_model, dict(weights)).items()
            return
        for name, tensor in weights:
            if name in self._renamed:
                yield self._renamed[name], tensor
            else:
                yield from revert_weight_conversion(self._hf_model, {name: tensor}).items()


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
