"""The tensors of a micro-batch in each layout, and the attention that keeps rollouts apart.

`pad_rows` puts each rollout into a row of its own, as wide as the longest rollout. `pack_rows` puts all rollouts into
one row without padding. `share_prompts` also makes one row, and has each prompt only once for all its completions. All
are functions (prompts, completions, device) -> TokenBatch, and the logprobs do not depend on the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from aspo_rllib.internals import attention_implementation, supports_attention_backend


@dataclass(frozen=True)
class TokenBatch:
    """The B rollouts of one forward pass, in R rows: R = B for padded rows, and R = 1 for a packed row.

    input_ids: `[R, L]` int64.
    targets: `[N]` int64, the tokens of all completions.
    predictors: `[N]` int64, the positions in the flattened `input_ids` whose hidden states predict `targets`.
    loss_mask: `[B, T]` bool, the completions without prompts, left-aligned. T is the length of the longest completion,
        at least 1. The N True entries are in the order of `targets`.
    sequences: arguments for the decoder that keep the rollouts of a row apart. Empty if each row has one rollout.
    """

    input_ids: Tensor
    targets: Tensor
    predictors: Tensor
    loss_mask: Tensor
    sequences: dict[str, Any] = field(default_factory=dict)


Pack = Callable[[Sequence[np.ndarray], Sequence[np.ndarray], torch.device | str], TokenBatch]


def pad_rows(
    prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray], device: torch.device | str
) -> TokenBatch:
    """Put rollouts into right-padded rows. With causal attention no real token attends to the padding."""
    lengths = _lengths(prompt_ids, completion_ids)
    width = max(p + c for p, c in lengths)
    input_ids = np.zeros((len(lengths), width), dtype=np.int64)
    for row, (p, c) in enumerate(lengths):
        input_ids[row, :p] = prompt_ids[row]
        input_ids[row, p : p + c] = completion_ids[row]
    places = [row * width + np.arange(p + c) for row, (p, c) in enumerate(lengths)]
    return _token_batch(input_ids, places, lengths, completion_ids, device, {})


def pack_rows(
    prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray], device: torch.device | str
) -> TokenBatch:
    """Put rollouts one after the other into a single row. The positions start from 0 in each rollout.

    The model must keep the rollouts apart: see `resolve_layout`.
    """
    lengths = _lengths(prompt_ids, completion_ids)
    totals = [p + c for p, c in lengths]
    bounds = np.cumsum([0, *totals])
    places = [np.arange(*ends) for ends in pairwise(bounds)]
    row = np.concatenate([ids for pair in zip(prompt_ids, completion_ids, strict=True) for ids in pair])
    positions = np.concatenate([np.arange(total) for total in totals])
    return _token_batch(row[None], places, lengths, completion_ids, device, _sequences(positions, totals, device))


def share_prompts(
    prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray], device: torch.device | str
) -> TokenBatch:
    """Put rollouts into a single row that has each prompt once, before the first of its completions.

    All layers except attention compute the prompt of a group once; attention copies it to each rollout. Results are the
    same as in the other layouts, except for the order in which the gradients of a prompt's copies are summed.
    """
    lengths = _lengths(prompt_ids, completion_ids)
    starts: dict[bytes, int] = {}
    pieces, positions, places, first_copies = [], [], [], []
    length, num_copied = 0, 0
    for prompt, completion, (p, c) in zip(prompt_ids, completion_ids, lengths, strict=True):
        start = starts.setdefault(prompt.tobytes(), length)
        known = 0 if start == length else p  # number of tokens of the rollout that are already in the row
        pieces.append(np.concatenate([prompt, completion])[known:])
        positions.append(np.arange(known, p + c))
        first_copies.append(num_copied + np.arange(known, p + c))
        places.append(np.concatenate([start + np.arange(p), length + np.arange(p - known, p + c - known)]))
        length += p + c - known
        num_copied += p + c
    sequences = _sequences(np.concatenate(positions), [p + c for p, c in lengths], device) | {
        "copied_from": torch.from_numpy(np.concatenate(places)).to(device),
        "first_copies": torch.from_numpy(np.concatenate(first_copies)).to(device),
    }
    return _token_batch(np.concatenate(pieces)[None], places, lengths, completion_ids, device, sequences)


def _token_batch(
    input_ids: np.ndarray,
    places: list[np.ndarray],
    lengths: list[tuple[int, int]],
    completion_ids: Sequence[np.ndarray],
    device: torch.device | str,
    sequences: dict[str, Any],
) -> TokenBatch:
    """places: for each rollout, the positions of its tokens in the flattened input_ids."""
    predictors = np.concatenate([place[p - 1 : -1] for place, (p, _) in zip(places, lengths, strict=True)])
    return TokenBatch(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)).to(device),
        targets=torch.from_numpy(np.concatenate(completion_ids).astype(np.int64)).to(device),
        predictors=torch.from_numpy(predictors).to(device),
        loss_mask=torch.from_numpy(_loss_mask(lengths)).to(device),
        sequences=sequences,
    )


def _sequences(positions: np.ndarray, totals: list[int], device: torch.device | str) -> dict[str, Any]:
    """The decoder's arguments for rollouts in one row. `totals` has the number of tokens of each rollout."""
    bounds = torch.from_numpy(np.cumsum([0, *totals], dtype=np.int32)).to(device)
    # transformers passes these names to flash attention. It makes masks of the positions.
    return {
        "position_ids": torch.from_numpy(positions).to(device)[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(totals),
        "max_length_k": max(totals),
    }


def _lengths(prompt_ids: Sequence[np.ndarray], completion_ids: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    return [(len(p), len(c)) for p, c in zip(prompt_ids, completion_ids, strict=True)]


def _loss_mask(lengths: list[tuple[int, int]]) -> np.ndarray:
    completions = np.array([c for _, c in lengths])
    # At least one column, because `entropy_class` cannot take a quantile of none.
    return np.arange(max(1, completions.max())) < completions[:, None]


# ---- attention -------------------------------------------------------------------------------------------------------

SEQUENCE_ATTENTION = "aspo_sequences"
SMALLEST_BLOCK = 512  # queries of a windowed attention that are computed together
# torch 2.11 supports grouped heads without this argument, and does not know it.
_ASKS_FOR_GQA = "enable_gqa" in signature(varlen_attn).parameters


def use_attention(hf_model: PreTrainedModel, name: str) -> None:
    """Make a model that uses transformers' "sdpa" attention use the attention `name`, which is registered there.

    Models with any other attention are not changed. Nor are models whose attention has a soft cap or chunks: chunks are
    only in their mask.
    """
    config = hf_model.config
    softcap = getattr(config, "attn_logit_softcapping", None)
    chunks = "chunked_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())
    replaceable = supports_attention_backend(hf_model) and softcap is None and not chunks
    if attention_implementation(hf_model) == "sdpa" and replaceable:
        hf_model.set_attn_implementation(name)


def set_attention(hf_model: PreTrainedModel, name: str) -> None:
    """Make a model use an attention implementation. A model that already uses it might refuse, and is not asked."""
    if attention_implementation(hf_model) != name:
        hf_model.set_attn_implementation(name)


def sequence_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    copied_from: Tensor | None = None,
    first_copies: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each rollout, for all layouts, as an attention function of transformers.

    For a packed row, transformers itself would use a mask over all pairs of tokens in the row, which is quadratic in
    the length of the row.

    query: `[R, H, L, D]`, key and value: `[R, H_kv, L, D]` -> `[R, L, H, D]`.
    cu_seq_lens_q: `[B + 1]` int32, the bounds of the rollouts in a packed row. None: each row has one rollout.
    copied_from: int64, for each token of the packed row its position in the row with shared prompts.
    first_copies: `[L]` int64, for each token of the row with shared prompts its first position in the packed row.
    """
    if query.dtype != value.dtype:  # under autocast, rotary embeddings return queries and keys in float32
        query, key = query.to(value.dtype), key.to(value.dtype)
    if copied_from is not None:
        query, key, value = (x.index_select(2, copied_from) for x in (query, key, value))
    if cu_seq_lens_q is None:
        out = _causal(query, key, value, scaling, sliding_window).transpose(1, 2)
    elif _has_flash(query):
        assert max_length_q is not None
        out = _flash(query, key, value, scaling, sliding_window, cu_seq_lens_q, max_length_q)
    else:
        out = _each_sequence(query, key, value, scaling, sliding_window, cu_seq_lens_q).transpose(1, 2)
    if first_copies is not None:
        out = out.index_select(1, first_copies)
    return out.contiguous(), None


def _has_flash(query: Tensor) -> bool:
    """Whether flash attention supports this query: it needs a GPU and a 16-bit type."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
    gqa, length = query.shape[1] != key.shape[1], query.shape[2]
    if window is None or length <= window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=gqa)
    attended: Tensor = _windowed(query, key, value, scale, window)
    return attended


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its loop would be compiled again for every length
def _windowed(query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int) -> Tensor:
    """In blocks of queries with the keys that they see: a mask over all pairs would take 8 GB for 32,768 tokens."""
    gqa, length = query.shape[1] != key.shape[1], query.shape[2]
    block = max(window, SMALLEST_BLOCK)
    parts = []
    for start in range(0, length, block):
        end, first = min(start + block, length), max(0, start - window + 1)
        positions = torch.arange(first, end, device=query.device)
        distance = positions[start - first :, None] - positions
        mask = (distance >= 0) & (distance < window)
        q, k, v = query[:, :, start:end], key[:, :, first:end], value[:, :, first:end]
        parts.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa))
    return torch.cat(parts, dim=2)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its loop would be compiled again for every set of lengths
def _each_sequence(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None, bounds: Tensor
) -> Tensor:
    lengths = bounds.diff().tolist()
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([_causal(q, k, v, scale, window) for q, k, v in parts], dim=2)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None, bounds: Tensor, longest: int
) -> Tensor:
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    left = -1 if window is None else window - 1
    gqa: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if _ASKS_FOR_GQA else {}
    out = varlen_attn(*(q, k, v, bounds, bounds, longest, longest), scale=scale, window_size=(left, 0), **gqa)
    assert isinstance(out, Tensor)  # it returns a tuple only with return_aux
    return out[None]


AttentionInterface.register(SEQUENCE_ATTENTION, sequence_attention)
