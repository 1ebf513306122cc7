"""How vLLM's worker takes new weights: a worker extension, which mends what vLLM's own reload leaves stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aspo_rllib.rollout.engines.engine import relative_error

Named = tuple[str, Tensor]
_PROBED_COLUMNS = 64
# Up to this relative error, sorted numbers are the same numbers. vLLM computes packed weights back by products.
_SAME_NUMBERS = 1e-5


class WeightLoader:
    """vLLM worker extension that replaces all weights in place, between two engine steps.

    vLLM calls its methods by `collective_rpc`, in every worker of the engine.
    """

    # Methods of the worker class; vLLM adds this class to its bases.
    reload_weights: Callable[..., None]
    get_model: Callable[[], nn.Module]

    def skip_tied_names(self) -> None:
        """Make the model's `load_weights` ignore a head that is tied to the embedding. To be called once.

        The embedding's weight is the head's, too. Some classes know no weight of the head's name (BLOOM).
        """
        model: Any = self.get_model()
        tied = {name for name, head in _heads(model) if _is_tied(model, head)}
        load: Callable[[Iterable[Named]], set[str] | None] = model.load_weights
        model.load_weights = lambda weights: load((name, tensor) for name, tensor in weights if name not in tied)

    def load(self, named_tensors: list[Named]) -> None:
        """Replace all weights. Raises ValueError if the model needs a weight that is not among them."""
        self.before_loading()
        # reload_weights also rebuilds what the engine derived from the weights, such as packed matrices.
        # model.load_weights would leave these silently stale.
        self.reload_weights(weights_iterator=iter(named_tensors))
        self.after_loading()

    def before_loading(self) -> None:
        """Make vLLM's reload pack the experts of CPU models again, as it does when it loads a model."""
        if _on_cpu():
            for module in self.get_model().modules():
                method: Any = getattr(module, "quant_method", None)
                if hasattr(method, "moe_kernel"):
                    # vLLM packs only where there is no kernel yet. It makes a new one.
                    method.moe_kernel = None

    def after_loading(self) -> None:
        """Pack the heads of CPU models again: the packed copy of a tied head is that of the old embedding."""
        if _on_cpu():
            for _, head in _heads(self.get_model()):
                head.quant_method.process_weights_after_loading(head)

    def weight_errors(self, named_tensors: list[Named]) -> dict[str, float]:
        """See `Engine.weight_errors`. Fused layers have the names of their parts, joined by "+"."""
        model = self.get_model()
        given = dict(named_tensors)
        parts_of = getattr(model, "packed_modules_mapping", {})
        errors = {}
        for name, module in model.named_modules():
            parent, _, own = name.rpartition(".")
            for kind in ("weight", "bias"):
                sources = [f"{parent}.{part}.{kind}" for part in parts_of.get(own, [own])]
                if all(source in given for source in sources) and isinstance(getattr(module, kind, None), Tensor):
                    error = _error(module, kind, torch.cat([given[source] for source in sources]))
                    if error is not None:
                        errors["+".join(sources)] = error
        return errors


def _error(module: Any, kind: str, expected: Tensor) -> float | None:
    """The relative error of a module's weight or bias; None if the two cannot be compared.

    A worker may hold a part of a weight. Some classes hold a weight in another order: GPT-2's transposes it, and
    BLOOM's moves the rows of queries, keys and values. If both weights consist of the same numbers, there is no error.
    """
    found, first = _probe(module, kind, expected.shape[-1], _PROBED_COLUMNS), expected
    if expected.ndim > 1:
        found, first = found[: len(expected), :_PROBED_COLUMNS], expected[:, :_PROBED_COLUMNS]
    error = relative_error(found, first) if found.shape == first.shape else None
    if error is not None and error < _SAME_NUMBERS:
        return error
    whole = _probe(module, kind, expected.shape[-1], None)
    if whole.numel() == expected.numel():
        numbers = expected.to(whole.device, whole.dtype).flatten().sort().values
        in_order = relative_error(whole.flatten().sort().values, numbers)
        if in_order < _SAME_NUMBERS:
            return in_order
    return error


def _probe(module: Any, kind: str, num_columns: int, limit: int | None) -> Tensor:
    """A module's weight, or its bias. If a weight is only there in packed form, its first columns are computed.

    num_columns: of the whole weight. A worker may hold fewer of them.
    limit: how many columns are computed; None: all.
    """
    tensor: Tensor = getattr(module, kind)
    if kind == "bias" or tensor.numel():
        return tensor
    columns = torch.eye(
        getattr(module, "input_size_per_partition", num_columns), dtype=tensor.dtype, device=tensor.device
    )[:limit]
    products: Tensor = module.quant_method.apply(module, columns, None)
    return products.T


def _heads(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The names of the weights of the model's heads, and the heads."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for name, module in model.named_modules():
        if isinstance(module, ParallelLMHead):
            yield f"{name}.weight", module


def _is_tied(model: nn.Module, head: Any) -> bool:
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is head.weight]
    return len(names) > 1


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
