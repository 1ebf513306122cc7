"""The KV cache of `hf_engine`: a row per running request. Rows come and go; a token is written where it belongs.

transformers' DynamicCache copies all keys and values for every token, and once more for heads that share them.
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

ROOM = 64  # positions to spare when a cache is moved to larger memory


class RowCache(Cache):
    """transformers' Cache for rows of different lengths, which all end at the same position: padded on the left."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._own: list[_Layer] = []

    def add(self, prefilled: DynamicCache, rows: Sequence[int]) -> None:
        """Append these rows of another left-padded cache; one may be wanted several times."""
        if not self._own:
            self._own = [_Layer() for _ in prefilled.layers]
            self.layers += self._own
        for layer, source in zip(self._own, prefilled.layers, strict=True):
            assert isinstance(source, DynamicLayer) and source.keys is not None and source.values is not None
            layer.add(source.keys, source.values, rows)

    def keep(self, rows: Sequence[int], width: int) -> list[int]:
        """Leave these rows and the last `width` positions. Returns the rows, in the order in which they now stand.

        The last ones fill the gaps: no other is copied.
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
    """`keys` and `values` show the first rows, between two positions, of memory that is larger."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory: list[Tensor] = []  # that of keys, and of values
        self._rows = self._start = self._end = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append to all rows; `[B, H, L, D]`."""
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
            # What was here before may be of broken weights: a probability of 0 times NaN would spread.
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
        """To memory for so many rows, with ROOM behind `width` positions, at whose end everything stands then."""
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
    """transformers' "sdpa"; for one new token per row, without a copy of each key for every head that shares it.

    query: `[B, H, L, D]`, key and value: `[B, H_kv, L_kv, D]` -> `[B, L, H, D]`.
    """
    rows, heads, length, width = query.shape
    if length > 1 or heads == key.shape[1] or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # A single query sees whatever its row has: the heads that share keys can be as many queries of one head.
    grouped = query.view(rows, key.shape[1], -1, width)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(ROW_ATTENTION, row_attention)
AttentionMaskInterface.register(ROW_ATTENTION, sdpa_mask)
