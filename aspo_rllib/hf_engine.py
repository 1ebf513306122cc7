"""Generation by transformers alone, for platforms without a vLLM wheel.

The loop is our own, transformers' are the model, its KV cache, and what temperature and top_p do to the logits.
`transformers.generation.continuous_batching` would bring a scheduler and a paged cache, but it draws a whole batch from
one random stream, so that a completion depends on what is generated beside it, and it generates in a thread of its own,
where weights cannot be replaced between two steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from aspo_rllib import lora as adapters
from aspo_rllib.engine import Completion, Engine
from aspo_rllib.hf_rows import ROW_ATTENTION, RowCache
from aspo_rllib.packing import use_attention
from aspo_rllib.sharding import replace_parameters

PREFILL_TOKENS = 16384  # of one forward pass, padding included


@dataclass(eq=False)
class _Request:
    request_id: str
    ids: list[int]  # of the prompt, then of the completion
    prompt_tokens: int
    max_tokens: int  # of prompt and completion together
    temperature: float
    top_p: float
    stop_token_ids: frozenset[int]
    generator: torch.Generator
    logprobs: list[float] = field(default_factory=list)

    @property
    def cached_tokens(self) -> int:
        """Between two steps: all but the last one, which the next step puts in."""
        return len(self.ids) - 1

    @property
    def finish_reason(self) -> str | None:
        """After a step; None: it goes on."""
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


class TransformersEngine(Engine):
    """A transformers model that samples token ids from token ids, on the first GPU that torch sees, or on the CPU.

    One forward pass decodes all running requests, each a row of the KV cache, padded on the left. The cache takes what
    the running requests take, at most max_num_seqs x max_model_len tokens.

    model: folder or hub id of a Hugging Face causal LM. Raises ValueError for one with layers other than attention.
    dtype: "float32" or "bfloat16"; never left to the checkpoint.
    max_model_len: prompt + completion tokens of the longest request.
    max_num_seqs: requests that are decoded at once; others wait.
    seed: for requests submitted without a seed of their own.
    lora: keywords of peft.LoraConfig, for an engine that gets adapters; None: one that gets whole weights.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        max_num_seqs: int,
        seed: int,
        trust_remote_code: bool = False,
        lora: dict[str, Any] | None = None,
    ):
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, use_safetensors=True
        )
        _check_layers(self._model.config, model)
        use_attention(self._model, ROW_ATTENTION)
        if lora is not None:
            adapters.add_lora(self._model, lora)
            with torch.no_grad():  # until the first load_adapters they are to change nothing, however they start
                for tensor in adapters.adapters(self._model).values():
                    tensor.zero_()
        self._model.eval().to(self._device)
        self._has_adapters = lora is not None
        self._asleep = False
        self._max_model_len = max_model_len
        self._max_num_seqs = max_num_seqs
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._cache = RowCache()  # rows as in _running

    # ---- requests --------------------------------------------------------------------------------------------

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
        assert not self._asleep
        if not 1 <= len(prompt_ids) < self._max_model_len:
            raise ValueError(f"prompt_ids: expected 1 to {self._max_model_len - 1} tokens, got {len(prompt_ids)}.")
        own = None if seed is None else torch.Generator(self._device).manual_seed(seed)
        self._waiting.append(
            _Request(
                request_id=request_id,
                ids=prompt_ids.tolist(),
                prompt_tokens=len(prompt_ids),
                max_tokens=min(len(prompt_ids) + max_tokens, self._max_model_len),
                temperature=temperature,
                top_p=top_p,
                stop_token_ids=frozenset(stop_token_ids),
                generator=own or self._generator,
            )
        )

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @torch.inference_mode()  # in which the cache was made
    def abort(self, request_ids: Iterable[str]) -> None:
        gone = set(request_ids)
        self._waiting = deque(r for r in self._waiting if r.request_id not in gone)
        self._keep([row for row, r in enumerate(self._running) if r.request_id not in gone])

    # ---- one step --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        self._admit()
        if not self._running:
            return []
        tokens, logprobs = _sample(self._decode(), self._running)
        for request, token, logprob in zip(self._running, tokens.tolist(), logprobs.tolist(), strict=True):
            request.ids.append(token)
            request.logprobs.append(logprob)
        finished = [r.completion() for r in self._running if r.finish_reason]
        self._keep([row for row, r in enumerate(self._running) if not r.finish_reason])
        return finished

    def _admit(self) -> None:
        """Let waiting requests take the free rows."""
        count = min(len(self._waiting), self._max_num_seqs - len(self._running))
        # A group's completions share their prompt: it is computed once and copied.
        sharing: dict[tuple[int, ...], list[_Request]] = {}
        for request in (self._waiting.popleft() for _ in range(count)):
            sharing.setdefault(tuple(request.ids[:-1]), []).append(request)
        for prefixes in _parts(sorted(sharing, key=len)):  # by length, for little padding
            rows = [row for row, prefix in enumerate(prefixes) for _ in sharing[prefix]]
            self._cache.add(self._prefill(prefixes), rows)
            self._running += chain.from_iterable(sharing[prefix] for prefix in prefixes)

    def _prefill(self, prefixes: list[tuple[int, ...]]) -> DynamicCache:
        """Keys and values of these tokens, a row each."""
        width = max(1, *map(len, prefixes))  # prompts of one token leave a row of padding alone
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prefixes], device=self._device)
        lengths = torch.tensor([len(p) for p in prefixes], device=self._device)
        # Without the model's config: also layers with a sliding window keep all tokens. Their mask is right either
        # way, and rows of different lengths can be put together.
        cache = DynamicCache()
        # The decoder alone: the head's logits are not needed.
        self._model.get_decoder()(
            input_ids=ids,
            attention_mask=_left_padded_mask(lengths, width),
            position_ids=(torch.arange(width, device=self._device) - (width - lengths)[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        return cache

    def _decode(self) -> Tensor:
        """Logits of every running request's next token, `[B, vocabulary]` float32."""
        cached = torch.tensor([r.cached_tokens for r in self._running], device=self._device)
        output = self._model(
            input_ids=torch.tensor([r.ids[-1:] for r in self._running], device=self._device),
            attention_mask=_left_padded_mask(cached + 1, self._cache.get_seq_length() + 1),
            position_ids=cached[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    def _keep(self, rows: list[int]) -> None:
        """Forget all running requests but these."""
        if len(rows) == len(self._running):
            return
        if not rows:
            self._running, self._cache = [], RowCache()
            return
        width = max(1, *(self._running[row].cached_tokens for row in rows))
        self._running = [self._running[row] for row in self._cache.keep(rows, width)]

    def _forget_cache(self) -> None:
        """Keys and values are of other weights: have those of all running requests computed anew."""
        self._waiting.extendleft(reversed(self._running))
        self._running, self._cache = [], RowCache()

    # ---- weights ---------------------------------------------------------------------------------------------

    def load_weights(self, named_tensors: list[tuple[str, Tensor]]) -> None:
        """Raises ValueError if these are not all weights of the model; of tied ones, the alias may be missing."""
        weights = dict(named_tensors)
        needed, known = dict(self._model.named_parameters()).keys(), self._model.state_dict().keys()
        if wrong := sorted(needed - weights.keys()) + sorted(weights.keys() - known):
            raise ValueError(f"These are not the weights of the engine's model: {wrong[0]} is in one of the two only.")
        if self._asleep:
            replace_parameters(self._model, lambda p: torch.empty_like(p, device=self._device))
            self._asleep = False
        self._model.load_state_dict(weights, strict=False)
        self._forget_cache()

    def sleep(self) -> None:
        assert not self.busy
        if self._has_adapters:
            nn.Module.to(self._model, "cpu")
        else:
            replace_parameters(self._model, lambda p: p.to("meta"))
        self._asleep = True
        torch.cuda.empty_cache()

    def load_adapters(self, named_tensors: list[tuple[str, Tensor]]) -> None:
        nn.Module.to(self._model, self._device)
        self._asleep = False
        adapters.load_adapters(self._model, dict(named_tensors))
        self._forget_cache()

    def close(self) -> None:
        del self._model, self._cache
        torch.cuda.empty_cache()


def _check_layers(config: PreTrainedConfig, model: str) -> None:
    """Raise ValueError for models whose cache is more than keys and values, such as those with linear attention."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    if kinds:
        raise ValueError(
            f"engine='transformers': expected 'vllm' for llm_model={model!r}, whose cache has a {kinds.pop().__name__}."
        )


def _parts(prefixes: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """What one forward pass takes at a time of prefixes that are sorted by length: PREFILL_TOKENS, or one prefix."""
    part: list[tuple[int, ...]] = []
    for prefix in prefixes:
        if part and len(prefix) * (len(part) + 1) > PREFILL_TOKENS:
            yield part
            part = []
        part.append(prefix)
    if part:
        yield part


def _left_padded_mask(lengths: Tensor, width: int) -> Tensor:
    """`[B, width]` int64, 1 at the last `lengths` positions of each row."""
    return (torch.arange(width, device=lengths.device) >= width - lengths[:, None]).long()


# ---- sampling --------------------------------------------------------------------------------------------------------


def _sample(logits: Tensor, requests: list[_Request]) -> tuple[Tensor, Tensor]:
    """A token for each row of `[B, vocabulary]` logits, and its log-probability after temperature and top_p; `[B]`."""
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
    """As in vLLM, temperature 0 leaves the logits as they are."""
    if temperature not in (0, 1):
        logits = TemperatureLogitsWarper(float(temperature))(None, logits)
    if temperature > 0 and top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return logits


def _draw(probs: Tensor, generators: list[torch.Generator]) -> Tensor:
    """One sample of each row, by that row's generator alone."""
    # torch.multinomial's own method, an exponential race, which takes but one generator for all rows.
    race = torch.empty_like(probs)
    if len(set(generators)) == 1:
        race.exponential_(generator=generators[0])
    else:
        for row, generator in zip(race, generators, strict=True):
            row.exponential_(generator=generator)
    return (probs / race).argmax(-1)
