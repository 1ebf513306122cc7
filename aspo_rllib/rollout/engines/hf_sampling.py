"""The requests of the transformers engine, and the sampling of their next tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from aspo_rllib.rollout.engines.engine import Completion


@dataclass(eq=False)
class Request:
    """A completion in progress: its settings and its tokens so far."""

    request_id: str
    ids: list[int]  # tokens of the prompt, followed by those of the completion
    prompt_tokens: int
    max_tokens: int  # limit for prompt and completion together
    temperature: float
    top_p: float
    stop_token_ids: frozenset[int]
    generator: torch.Generator
    logprobs: list[float] = field(default_factory=list)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens in the KV cache between two steps: all but the last one, which the next step adds."""
        return len(self.ids) - 1

    @property
    def finish_reason(self) -> str | None:
        """Why the completion ended with the last step; None if it is unfinished."""
        if self.ids[-1] in self.stop_token_ids:
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

    The log-probabilities are those after temperature and top_p.
    """
    tokens = torch.empty(len(requests), dtype=torch.long, device=logits.device)
    logprobs = torch.empty(len(requests), device=logits.device)
    rows_of: dict[tuple[float, float], list[int]] = {}
    for row, request in enumerate(requests):
        rows_of.setdefault((request.temperature, request.top_p), []).append(row)
    for (temperature, top_p), rows in rows_of.items():
        scores = _processed(logits[rows], temperature, top_p).log_softmax(-1)
        if temperature == 0:
            tokens[rows] = scores.argmax(-1)
        else:
            tokens[rows] = _draw(scores.exp(), [requests[row].generator for row in rows])
        logprobs[rows] = scores.gather(-1, tokens[rows, None])[:, 0]
    return tokens, logprobs


def _processed(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Apply temperature and top_p to logits. As in vLLM, temperature 0 does not change them."""
    if temperature not in (0, 1):
        logits = TemperatureLogitsWarper(float(temperature))(None, logits)
    if temperature > 0 and top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
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
