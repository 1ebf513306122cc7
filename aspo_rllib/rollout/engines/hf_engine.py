"""Generation with transformers alone, for platforms without a vLLM wheel.

The loop is our own code. The model, the base class of the KV cache, and the effect of temperature and top_p on the
logits come from transformers. `transformers.generation.continuous_batching` has a scheduler and a paged cache, but it
draws a whole batch from one random stream, so that a completion depends on the other requests of the batch. It also
generates in a separate thread, where weights cannot be replaced between two steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig

from aspo_rllib.model import companions
from aspo_rllib.model import lora as adapters
from aspo_rllib.model.layers import decoder_of, has_attention_only
from aspo_rllib.model.loading import load_causal_lm
from aspo_rllib.model.packing import use_attention
from aspo_rllib.model.sharding import replace_parameters
from aspo_rllib.rollout.engines.engine import Completion, Engine, relative_error
from aspo_rllib.rollout.engines.hf_rows import ROW_ATTENTION, RowCache
from aspo_rllib.rollout.engines.hf_sampling import Request, Shape, sample

PREFILL_TOKENS = 16384  # limit for one forward pass, including padding


class TransformersEngine(Engine):
    """An engine that generates with a transformers model, on the first GPU that torch sees, or else on the CPU.

    One forward pass decodes all running requests. Each request is a row of the KV cache, padded on the left. The cache
    grows with the running requests, up to max_num_seqs x max_model_len tokens.

    model: folder or hub id of a Hugging Face causal LM. Raises ValueError for a model with layers such as linear
        attention, whose cache has more than keys and values.
    dtype: "float32" or "bfloat16"; the checkpoint's dtype is never used as a default.
    max_model_len: prompt + completion tokens of the longest request.
    max_num_seqs: number of requests that are decoded at the same time; others wait.
    seed: seed of requests that are submitted without their own seed.
    lora: keywords of peft.LoraConfig if the engine gets adapters; None if it gets all weights.
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
        self._model = load_causal_lm(model, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code)
        check_layers(self._model.config, model)
        use_attention(self._model, ROW_ATTENTION)
        if lora is not None:
            adapters.add_lora(self._model, lora)
            with torch.no_grad():  # the engine computes the base model until the first load_adapters
                for tensor in adapters.adapters(self._model).values():
                    tensor.zero_()
        self._model.eval().to(self._device)
        self._load_tokenizer = partial(
            companions.load_tokenizer, model, trust_remote_code=trust_remote_code, chat_template=None
        )
        self._has_adapters = lora is not None
        self._asleep = False
        self._max_model_len = max_model_len
        self._max_num_seqs = max_num_seqs
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._cache = RowCache()  # row i belongs to _running[i]

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
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
    ) -> None:
        assert not self._asleep
        if not 1 <= len(prompt_ids) < self._max_model_len:
            raise ValueError(f"prompt_ids: expected 1 to {self._max_model_len - 1} tokens, got {len(prompt_ids)}.")
        own = None if seed is None else torch.Generator(self._device).manual_seed(seed)
        self._waiting.append(
            Request(
                request_id=request_id,
                ids=prompt_ids.tolist(),
                prompt_tokens=len(prompt_ids),
                max_tokens=min(len(prompt_ids) + max_tokens, self._max_model_len),
                shape=Shape(temperature, top_p, top_k, min_p, repetition_penalty),
                stop_token_ids=frozenset(stop_token_ids),
                generator=own or self._generator,
                stop=tuple(stop),
                decode=self._decoder if stop else None,
            )
        )

    @cached_property  # only requests with a `stop` need it
    def _decoder(self) -> Callable[[list[int]], str]:
        tokenizer = self._load_tokenizer()
        return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    @torch.inference_mode()  # the cache consists of inference tensors, which can be changed only in this mode
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
        tokens, logprobs = sample(self._decode(), self._running)
        for request, token, logprob in zip(self._running, tokens.tolist(), logprobs.tolist(), strict=True):
            request.take(token, logprob)
        finished = [r.completion() for r in self._running if r.finish_reason]
        self._keep([row for row, r in enumerate(self._running) if not r.finish_reason])
        return finished

    def _admit(self) -> None:
        """Start waiting requests in the free rows of the cache."""
        count = min(len(self._waiting), self._max_num_seqs - len(self._running))
        # The completions of a group have the same prompt. Its keys and values are computed once and copied.
        sharing: dict[tuple[int, ...], list[Request]] = {}
        for request in (self._waiting.popleft() for _ in range(count)):
            sharing.setdefault(tuple(request.ids[:-1]), []).append(request)
        for prefixes in _parts(sorted(sharing, key=len)):  # sorted by length, which needs less padding
            rows = [row for row, prefix in enumerate(prefixes) for _ in sharing[prefix]]
            self._cache.add(self._prefill(prefixes), rows)
            self._running += chain.from_iterable(sharing[prefix] for prefix in prefixes)

    def _prefill(self, prefixes: list[tuple[int, ...]]) -> DynamicCache:
        """Compute keys and values of these token sequences, one row for each."""
        width = max(1, *map(len, prefixes))  # the prefix of a prompt of one token is empty; its row is all padding
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prefixes], device=self._device)
        lengths = torch.tensor([len(p) for p in prefixes], device=self._device)
        # Without the model's config, layers with a sliding window keep all tokens as well. Their attention mask is the
        # same, and rows of different lengths can be combined.
        cache = DynamicCache()
        # Only the decoder runs, because the logits of the head are not needed.
        decoder_of(self._model)(
            input_ids=ids,
            attention_mask=_left_padded_mask(lengths, width),
            position_ids=(torch.arange(width, device=self._device) - (width - lengths)[:, None]).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        return cache

    def _decode(self) -> Tensor:
        """The logits of the next token of every running request, `[B, vocabulary]` float32."""
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
        """Remove all running requests except those in these rows."""
        if len(rows) == len(self._running):
            return
        if not rows:
            self._running, self._cache = [], RowCache()
            return
        width = max(1, *(self._running[row].cached_tokens for row in rows))
        self._running = [self._running[row] for row in self._cache.keep(rows, width)]

    def _forget_cache(self) -> None:
        """Make all running requests wait for a new prefill, because their keys and values are from old weights."""
        self._waiting.extendleft(reversed(self._running))
        self._running, self._cache = [], RowCache()

    # ---- weights ---------------------------------------------------------------------------------------------

    def load_weights(self, named_tensors: list[tuple[str, Tensor]]) -> None:
        """Raises ValueError if a weight is missing or unknown. Of tied weights, one of the names is enough."""
        weights = dict(named_tensors)
        needed, known = dict(self._model.named_parameters()).keys(), self._model.state_dict().keys()
        if wrong := sorted(needed - weights.keys()) + sorted(weights.keys() - known):
            raise ValueError(
                f"named_tensors: these are not the weights of the engine's model; {wrong[0]} is missing or unknown."
            )
        if self._asleep:
            replace_parameters(self._model, lambda p: torch.empty_like(p, device=self._device))
            self._asleep = False
        self._model.load_state_dict(weights, strict=False)
        self._forget_cache()

    def weight_errors(self, named_tensors: list[tuple[str, Tensor]]) -> dict[str, float]:
        own = self._model.state_dict()
        return {name: relative_error(own[name], tensor) for name, tensor in named_tensors}

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


def check_layers(config: PreTrainedConfig, model: str) -> None:
    """Raise ValueError for models whose cache has more than keys and values, such as models with linear attention."""
    if not has_attention_only(config):
        raise ValueError(
            f"engine='transformers': expected 'vllm' for llm_model={model!r}, whose cache holds more than keys and "
            "values."
        )


def _parts(prefixes: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Split prefixes, sorted by length, into parts of at most PREFILL_TOKENS padded tokens, or of a single prefix."""
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
