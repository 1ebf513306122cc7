"""Attention with a sliding window: in blocks, so that a long rollout needs no mask over all pairs of its tokens."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aspo_rllib.model.packing import SMALLEST_BLOCK, sequence_attention

WIDTH = 8


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation inside returns."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.num_elements = max([self.num_elements, *sizes])
        return out


def inputs(length):
    torch.manual_seed(0)
    return [torch.randn(1, heads, length, WIDTH, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]


def attend(tensors, window, bounds=None):
    return sequence_attention(torch.nn.Identity(), *tensors, None, sliding_window=window, cu_seq_lens_q=bounds)[0]


def masked(query, key, value, window):
    """The same with one mask over all pairs."""
    position = torch.arange(query.shape[2])
    distance = position[:, None] - position
    mask = (distance >= 0) & (distance < window)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)


@pytest.mark.parametrize("window", [1, 7, SMALLEST_BLOCK, SMALLEST_BLOCK + 300])
def test_blocks_give_what_one_mask_gives_and_its_gradients(window):
    tensors = inputs(2 * SMALLEST_BLOCK + 77)
    weight = torch.linspace(-1, 1, WIDTH, dtype=torch.float64)
    outs = [attend(tensors, window), masked(*tensors, window)]
    gradients = [torch.autograd.grad((out * weight).sum(), tensors) for out in outs]
    torch.testing.assert_close(*outs)
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_memory_grows_with_the_length_of_a_rollout_and_not_with_its_square():
    largest = {}
    for length in (8 * SMALLEST_BLOCK, 32 * SMALLEST_BLOCK):
        bounds = torch.tensor([0, length // 4, length], dtype=torch.int32)  # of two rollouts in one row
        tensors = inputs(length)
        with LargestTensor() as seen:
            attend(tensors, 64, bounds).sum().backward()
        largest[length] = seen.num_elements
    small, large = largest.values()
    assert large <= 4 * small
