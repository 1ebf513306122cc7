"""The requests of the transformers engine, and the sampling of their next tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from aspo_rllib.rollout.engines.engine import Completion
from aspo_rllib.rollout.stops import ends_with_stop


class Shape(NamedTuple):
    """What turns logits into the distribution that is sampled from, as in `Engine.submit`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float


@dataclass(eq=False)
class Request:
    """A completion in progress: its settings and its tokens so far."""

    request_id: str
    ids: list[int]  # tokens of the prompt, followed by those of the completion
    prompt_tokens: int
    max_tokens: int  # limit for prompt and completion together
    shape: Shape
    stop_token_ids: frozenset[int]
    generator: torch.Generator
    stop: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] | None = None  # needed with `stop`
    logprobs: list[float] = field(default_factory=list)
    found_stop: bool = False

    def take(self, token: int, logprob: float) -> None:
        """Append a sampled token."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if self.stop:
            assert self.decode is not None
            self.found_stop = ends_with_stop(self.ids[self.prompt_tokens :], self.stop, self.decode)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens in the KV cache between two steps: all but the last one, which the next step adds."""
        return len(self.ids) - 1

    @property
    def finish_reason(self) -> str | None:
        """Why the completion ended with the last step; None if it is unfinished."""
        if self.ids[-1] in self.stop_token_ids or self.found_stop:
            return "stop"
        return "length" if len(self.ids) == self.max_tokens else None

    def completion(self) -> Completion:
        assert self.finish_reason is not None
        return Completion(
            request_id=self.request_id,
            completion_ids=np.asarray(self.ids[self.prompt_tokens :], dtype=np.int32),
            sampler_logprobs=np.asarray(self.logprobs, dtype=np.float32),
            finish_reason=self.finish_reason,
        )


def sample(logits: Tensor, requests: list[Request]) -> tuple[Tensor, Tensor]:
    """Sample one token per row of `[B, vocabulary]` logits; returns tokens and their log-probabilities, `[B]` each.

    The log-probabilities are those of the distribution that was sampled from.
    """
    tokens = torch.empty(len(requests), dtype=torch.long, device=logits.device)
    logprobs = torch.empty(len(requests), device=logits.device)
    rows_of: dict[Shape, list[int]] = {}
    for row, request in enumerate(requests):
        rows_of.setdefault(request.shape, []).append(row)
    for shape, rows in rows_of.items():
        scores = _penalised(logits[rows], shape, [requests[row].ids for row in rows])
        scores = _processed(scores, shape).log_softmax(-1)
        if shape.temperature == 0:
            tokens[rows] = scores.argmax(-1)
        else:
            tokens[rows] = _draw(scores.exp(), [requests[row].generator for row in rows])
        logprobs[rows] = scores.gather(-1, tokens[rows, None])[:, 0]
    return tokens, logprobs


def _penalised(logits: Tensor, shape: Shape, ids: list[list[int]]) -> Tensor:
    """Apply the repetition penalty to each row, by all tokens of its request."""
    if shape.repetition_penalty == 1:
        return logits
    penalty = RepetitionPenaltyLogitsProcessor(float(shape.repetition_penalty))
    rows = zip(logits.split(1), ids, strict=True)
    return torch.cat([penalty(torch.tensor([tokens], device=logits.device), row) for row, tokens in rows])


def _processed(logits: Tensor, shape: Shape) -> Tensor:
    """Apply temperature, min_p, top_k and top_p. As in vLLM, temperature 0 changes nothing."""
    if shape.temperature == 0:
        return logits
    warpers: list[LogitsProcessor] = []
    if shape.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(shape.temperature)))
    if shape.min_p > 0:
        warpers.append(MinPLogitsWarper(float(shape.min_p)))
    if shape.top_k > 0:
        warpers.append(TopKLogitsWarper(shape.top_k))
    if shape.top_p < 1:
        warpers.append(TopPLogitsWarper(shape.top_p))
    for warper in warpers:
        logits = warper(None, logits)
    return logits


def _draw(probs: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Sample one index per row of `[B, vocabulary]` probabilities, each with the row's own generator."""
    # This is the method of torch.multinomial (an exponential race), which accepts only one generator for all rows.
    race = torch.empty_like(probs)
    if len(set(generators)) == 1:
        race.exponential_(generator=generators[0])
    else:
        for row, generator in zip(race, generators, strict=True):
            row.exponential_(generator=generator)
    return (probs / race).argmax(-1)
