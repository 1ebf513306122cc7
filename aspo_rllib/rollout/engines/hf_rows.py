"""The KV cache of `hf_engine`, with one row per running request. Rows can be added and removed at any time.

A new token's keys and values are written in place. transformers' DynamicCache would copy all keys and values for every
token, and its attention would copy them again for query heads that share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROOM = 64  # free positions that are added when the cache is moved to larger memory


class RowCache(Cache):
    """transformers' Cache for rows of different lengths. Rows are padded on the left and end at the same position."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._own: list[_Layer] = []

    def add(self, prefilled: DynamicCache, rows: Sequence[int]) -> None:
        """Append these rows of another left-padded cache. A row may be appended several times."""
        if not self._own:
            self._own = [_Layer() for _ in prefilled.layers]
            self.layers += self._own
        for layer, source in zip(self._own, prefilled.layers, strict=True):
            assert isinstance(source, DynamicLayer) and source.keys is not None and source.values is not None
            layer.add(source.keys, source.values, rows)

    def keep(self, rows: Sequence[int], width: int) -> list[int]:
        """Keep only these rows and the last `width` positions. Returns the kept rows in their new order.

        The last rows are copied into the gaps, so that as few rows as possible are copied.
        """
        gaps = sorted(set(range(len(rows))) - set(rows))
        movers = [row for row in rows if row >= len(rows)]
        for layer in self._own:
            layer.keep(len(rows), width, gaps, movers)
        order = list(range(len(rows)))
        for gap, mover in zip(gaps, movers, strict=True):
            order[gap] = mover
        return order


class _Layer(DynamicLayer):
    """One layer; `keys` and `values` are views of some rows and positions of a larger buffer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory: list[Tensor] = []  # the buffers of keys and of values, `[rows, H, positions, D]`
        self._rows = self._start = self._end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of L new tokens to all rows, `[B, H, L, D]`."""
        end = self._end + key_states.shape[-2]
        if end > self._memory[0].shape[-2]:
            self._move(self._rows, self._end - self._start)
            end = self._end + key_states.shape[-2]
        for memory, states in zip(self._memory, (key_states, value_states), strict=True):
            memory[: self._rows, :, self._end : end] = states
        self._show(self._rows, self._start, end)
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def add(self, keys: Tensor, values: Tensor, rows: Sequence[int]) -> None:
        width, total = keys.shape[-2], self._rows + len(rows)
        if not self._memory:
            self._memory = [states[:0, :, :0] for states in (keys, values)]
            self.lazy_initialization(keys, values)
        if total > len(self._memory[0]) or width > self._end:
            self._move(total, max(width, self._end - self._start))
        start = min(self._start, self._end - width)
        for memory, states in zip(self._memory, (keys, values), strict=True):
            # Old content may be NaN, from broken weights. A masked position has probability 0, and 0 * NaN is NaN.
            memory[: self._rows, :, start : self._start] = 0
            memory[self._rows : total, :, start : self._end - width] = 0
            memory[self._rows : total, :, self._end - width : self._end] = states[list(rows)]
        self._show(total, start, self._end)

    def keep(self, count: int, width: int, gaps: list[int], movers: list[int]) -> None:
        for shown in (self.keys, self.values):
            assert shown is not None
            if gaps:
                shown[gaps] = shown[movers]
        self._show(count, max(self._start, self._end - width), self._end)

    def _move(self, rows: int, width: int) -> None:
        """Move everything to a buffer of at least this many rows, with `width` positions and ROOM free ones after them.

        The present positions become the last ones of the `width` positions.
        """
        length = self._end - self._start
        old, self._memory = self._memory, []
        for memory in old:
            new = memory.new_zeros(max(rows, len(memory)), memory.shape[1], width + ROOM, memory.shape[3])
            new[: self._rows, :, width - length : width] = memory[: self._rows, :, self._start : self._end]
            self._memory.append(new)
        self._show(self._rows, width - length, width)

    def _show(self, rows: int, start: int, end: int) -> None:
        self._rows, self._start, self._end = rows, start, end
        self.keys, self.values = (memory[:rows, :, start:end] for memory in self._memory)


# ---- attention -------------------------------------------------------------------------------------------------------

ROW_ATTENTION = "aspo_rows"


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' "sdpa" attention, which for one new token per row does not copy keys that several heads share.

    query: `[B, H, L, D]`, key and value: `[B, H_kv, L_kv, D]` -> `[B, L, H, D]`.
    """
    rows, heads, length, width = query.shape
    if length > 1 or heads == key.shape[1] or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # A single query needs no causal mask, so that the heads that share keys can be computed as queries of one head.
    grouped = query.view(rows, key.shape[1], -1, width)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(ROW_ATTENTION, row_attention)
AttentionMaskInterface.register(ROW_ATTENTION, sdpa_mask)
