"""The interface of generation engines: submit, step, abort, load weights, sleep, close.

`vllm_engine` and `hf_engine` implement it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Completion:
    """A finished request: tokens as sampled, `[T]` int32, and their log-probabilities, `[T]` float32.

    The tokens include the end token, if there is one. The log-probabilities belong to the distribution that was sampled
    from, after temperature, top_p and the like. At temperature 0, where nothing is sampled, they are those of
    temperature 1, with the repetition penalty only.
    finish_reason: "stop" (one of the request's stop_token_ids was sampled, or a stop text completed) or "length".
    """

    request_id: str
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str


class EngineError(RuntimeError):
    """An engine cannot start, cannot answer its first request, or does not take the weights.

    It is raised at the driver as it is, and the runner is not restarted: another engine would fail in the same way.
    """


class Engine(ABC):
    """Generates completions for many requests at once; the weights can be replaced between two steps."""

    @abstractmethod
    def submit(
        self,
        request_id: str,
        prompt_ids: np.ndarray,
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        stop_token_ids: Sequence[int],
        seed: int | None = None,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
    ) -> None:
        """Queue one completion of `prompt_ids`; `step` returns it when it is finished.

        request_id: must differ from the ids of all unfinished requests.
        prompt_ids: `[P]` ints, 1 <= P < the engine's max_model_len.
        temperature: >= 0; 0 takes the most likely token.
        top_p: in (0, 1].
        max_tokens: length limit of the completion, >= 1. max_model_len limits prompt and completion together.
        seed: with a seed, the completion depends only on the seed, the prompt and the weights, and not on other
            requests. None: the engine's own random stream.
        top_k: number of most likely tokens to sample from; 0 for all.
        min_p: in [0, 1); leaves out tokens of less than this share of the highest probability.
        repetition_penalty: > 0; divides the positive logits of all tokens of prompt and completion so far, multiplies
            the negative ones. The order is: penalty, temperature, min_p, top_k, top_p.
        stop: texts; the completion ends with the token that completes one of them.
        """

    @abstractmethod
    def step(self) -> list[Completion]:
        """Run one engine step over all running requests; returns the completions that this step finished."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any submitted request is unfinished."""

    @abstractmethod
    def abort(self, request_ids: Iterable[str]) -> None:
        """Cancel these requests; `step` returns nothing for them."""

    @abstractmethod
    def load_weights(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights and wake the engine. The tensors must stay in memory until this returns.

        named_tensors: names and shapes as transformers holds the weights in memory. A tied weight may have all of its
            names.

        Unfinished requests continue with the new weights. Keys and values of their existing tokens are computed again
        with the new weights.
        """

    @abstractmethod
    def load_adapters(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Replace the LoRA adapters and wake the engine; all requests use them from then on.

        named_tensors: the items of `lora.adapter_weights` of a policy.
        """

    @abstractmethod
    def weight_errors(self, named_tensors: list[tuple[str, torch.Tensor]]) -> dict[str, float]:
        """Compare the engine's weights with these, those of the last `load_weights`.

        Returns name -> norm of the difference / norm of the weight, for the weights that can be compared.
        """

    @abstractmethod
    def sleep(self) -> None:
        """Release the device memory of weights and KV cache until new weights are loaded.

        No request may be in progress. Only loading weights wakes the engine, so that an engine that is awake always has
        complete weights. If only adapters are loaded, the base weights stay in host memory during the sleep.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the engine and its memory."""


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """norm(found - expected) / norm(expected), for `Engine.weight_errors`."""
    expected = expected.to(found.device, torch.float32)
    return float((found.float() - expected).norm() / expected.norm().clamp(min=1e-12))
