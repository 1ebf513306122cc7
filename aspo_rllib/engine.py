"""The narrow interface of generation engines: submit, step, abort, load weights, sleep, close.

`vllm_engine` and `hf_engine` have the engines.
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

    The tokens include the end token, if there is one. The log-probabilities are those of the distribution that was
    sampled from, after temperature and top_p; at temperature 0, where nothing is sampled, those of temperature 1.
    finish_reason: "stop", at one of the request's stop_token_ids, or "length".
    """

    request_id: str
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str


class Engine(ABC):
    """Samples token ids from token ids, many requests at once; their weights can be replaced between two steps."""

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
    ) -> None:
        """Queue one completion of `prompt_ids`; `step` returns it when it is finished.

        request_id: unlike that of any unfinished request.
        prompt_ids: `[P]` ints, 1 <= P < the engine's max_model_len.
        temperature: >= 0; 0 takes the likeliest token.
        top_p: in (0, 1].
        max_tokens: longest completion, >= 1; max_model_len cuts it too.
        seed: the completion depends on it, the prompt and the weights, not on other requests. None: the engine's own.
        """

    @abstractmethod
    def step(self) -> list[Completion]:
        """One engine step over all running requests; the completions that it finished."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether any submitted request is unfinished."""

    @abstractmethod
    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget these requests; nothing is returned for them."""

    @abstractmethod
    def load_weights(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights; wakes the engine. The tensors are read until this returns: keep their memory till then.

        Unfinished requests go on: from their next token on they are continued as the new weights continue the whole
        of what is there.
        """

    @abstractmethod
    def load_adapters(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Replace the LoRA adapters, `lora.adapter_weights` of a policy; all requests from now on use them.

        Wakes the engine.
        """

    @abstractmethod
    def sleep(self) -> None:
        """Give the device's memory back, that of weights and KV cache, until new weights are loaded.

        Nothing may be under way. There is no other way to wake: an engine that is awake has whole weights. Where only
        adapters are loaded, the others wait in host memory.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the engine and its memory."""
