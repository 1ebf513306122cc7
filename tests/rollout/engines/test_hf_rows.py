"""The transformers engine's cache against plain lists: rows come, grow, and go. Its attention against transformers'."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from aspo_rllib.rollout.engines import hf_rows
from aspo_rllib.rollout.engines.hf_rows import RowCache, row_attention

LAYERS, HEADS, WIDTH = 2, 3, 4


def states(rng, rows, length):
    return torch.from_numpy(rng.normal(size=(rows, HEADS, length, WIDTH)).astype(np.float32))


def prefilled(rng, lengths):
    """A left-padded cache of random keys and values, and what each row holds: `[layer][row]` -> (keys, values)."""
    cache, wide = DynamicCache(), max(lengths)
    for layer in range(LAYERS):
        cache.update(states(rng, len(lengths), wide), states(rng, len(lengths), wide), layer)
    held = [
        [(each.keys[row, :, wide - n :], each.values[row, :, wide - n :]) for row, n in enumerate(lengths)]
        for each in cache.layers
    ]
    return cache, held


def append(cache, rng, held):
    """One token to all rows of cache and lists."""
    for layer in range(LAYERS):
        keys, values = (states(rng, len(held[layer]), 1) for _ in range(2))
        shown_keys, shown_values = cache.update(keys, values, layer)
        held[layer] = [
            (torch.cat([k, keys[row]], 1), torch.cat([v, values[row]], 1)) for row, (k, v) in enumerate(held[layer])
        ]
        assert shown_keys is cache.layers[layer].keys and shown_values is cache.layers[layer].values


def assert_same(cache, held):
    for layer, rows in zip(cache.layers, held, strict=True):
        assert len(layer.keys) == len(layer.values) == len(rows)
        for row, (keys, values) in enumerate(rows):
            length = keys.shape[1]
            torch.testing.assert_close(layer.keys[row, :, -length:], keys, rtol=0, atol=0)
            torch.testing.assert_close(layer.values[row, :, -length:], values, rtol=0, atol=0)
        assert cache.get_seq_length() == layer.keys.shape[-2]


@pytest.mark.parametrize("seed", range(8))
def test_rows_hold_what_was_written_to_them_whoever_came_and_left(monkeypatch, seed):
    monkeypatch.setattr(hf_rows, "ROOM", 3)  # memory is left behind all the time
    rng = np.random.default_rng(seed)
    cache, held = RowCache(), [[] for _ in range(LAYERS)]
    for _ in range(40):
        if rng.random() < 0.4 or not held[0]:
            lengths = rng.integers(1, 9, rng.integers(1, 4)).tolist()
            source, new = prefilled(rng, lengths)
            rows = rng.integers(0, len(lengths), rng.integers(1, 5)).tolist()  # some several times, some never
            cache.add(source, rows)
            held = [old + [fresh[row] for row in rows] for old, fresh in zip(held, new, strict=True)]
        append(cache, rng, held)
        assert_same(cache, held)
        kept = [row for row in range(len(held[0])) if rng.random() < 0.7] or [len(held[0]) - 1]
        width = max(held[0][row][0].shape[1] for row in kept)
        order = cache.keep(kept, width)
        assert sorted(order) == kept
        held = [[rows[row] for row in order] for rows in held]
        assert_same(cache, held)
        assert cache.get_seq_length() == width


def test_a_row_that_stays_in_its_place_is_not_copied():
    rng = np.random.default_rng(0)
    cache = RowCache()
    cache.add(prefilled(rng, [5] * 6)[0], range(6))
    before = cache.layers[0].keys
    assert cache.keep([0, 2, 4, 5], 5) == [0, 4, 2, 5]
    assert cache.layers[0].keys.data_ptr() == before.data_ptr()


def test_what_broken_weights_left_behind_reaches_nobody():
    rng = np.random.default_rng(0)
    cache = RowCache()
    cache.add(prefilled(rng, [3])[0], [0])
    broken, _ = prefilled(rng, [7])
    for layer in broken.layers:
        layer.keys.fill_(torch.nan), layer.values.fill_(torch.nan)
    cache.add(broken, [0, 0])
    cache.keep([0], 3)
    cache.add(prefilled(rng, [2])[0], [0])  # where the broken one was
    cache.add(prefilled(rng, [8])[0], [0])  # wider than what was left
    for layer in cache.layers:
        assert layer.keys.shape == (3, HEADS, 8, WIDTH)
        assert layer.keys.isfinite().all() and layer.values.isfinite().all()
        assert (layer.keys[0, :, :5] == 0).all() and (layer.keys[1, :, :6] == 0).all()  # padding


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("length", [1, 3])
def test_attention_is_transformers_own(heads, length):
    torch.manual_seed(0)
    query = torch.randn(5, heads, length, 8)
    key, value = torch.randn(2, 5, 2, 11, 8)
    mask = torch.rand(5, 1, length, 11) < 0.7
    mask[..., -1] = True
    module = SimpleNamespace(num_key_value_groups=heads // 2, is_causal=True)
    arguments = (module, query, key, value)
    for attention_mask in (mask, None):
        expected, _ = sdpa_attention_forward(*arguments, attention_mask, scaling=0.3)
        got, weights = row_attention(*arguments, attention_mask, scaling=0.3)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        assert weights is None and got.shape == (5, length, heads, 8)
