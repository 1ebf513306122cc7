"""torch.compile in the learner: what a GPU runs, counted and compared on a CPU, with a stand-in for flash attention."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import Qwen3Config, Qwen3ForCausalLM

from aspo_rllib.model import layers, packing
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.logprobs import TILES, LogitShape, TileMath, compiled_tile_math, linear_logprobs
from aspo_rllib.model.policy import compile_policy, load_policy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=67, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    Qwen3ForCausalLM(config).save_pretrained(path)
    return str(path)


def microbatch(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Prompts and completions of another number and other lengths for each seed; every prompt has two completions."""
    rng = np.random.default_rng(seed)
    prompts, completions = [], []
    for _ in range(rng.integers(1, 5)):
        prompt = rng.integers(0, 67, rng.integers(2, 9)).astype(np.int32)
        prompts += [prompt, prompt]
        completions += [rng.integers(0, 67, rng.integers(2, 12)).astype(np.int32) for _ in range(2)]
    return prompts, completions


class FlashStandIn:
    """Attention in each sequence of a packed row by one mask, as tensor operations: a compiler sees no loop."""

    def __init__(self):
        self.calls = []

    def __call__(self, query, key, value, scale, window, bounds, longest):
        if not torch.compiler.is_compiling():
            self.calls.append((query.dtype, key.dtype, value.dtype, bounds.tolist(), longest))
        place = torch.arange(query.shape[2], device=query.device)
        sequence = torch.searchsorted(bounds[1:].contiguous(), place, right=True)
        distance = place[:, None] - place
        mask = (sequence[:, None] == sequence) & (distance >= 0) & (distance < longest)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
        ).transpose(1, 2)


@pytest.fixture
def flash(monkeypatch):
    """Flash attention as it is chosen on a GPU, but for the device: 16-bit queries take it."""
    stand_in = FlashStandIn()
    monkeypatch.setattr(packing, "_has_flash", lambda query: query.dtype in (torch.bfloat16, torch.float16))
    monkeypatch.setattr(packing, "_flash", stand_in)
    return stand_in


def step(policy, layout: str, seed: int, dtype=torch.bfloat16):
    """Logprobs and gradients of one micro-batch under autocast."""
    policy.zero_grad()
    batch = LAYOUTS[layout].pack(*microbatch(seed), "cpu")
    with torch.autocast("cpu", dtype):
        found, entropy = policy(batch, 0.7)
    (found.sum() + 0.1 * entropy.sum()).backward()
    return found.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_packed_rows_take_flash_attention_under_autocast(folder, flash, layout):
    policy = load_policy(folder)
    batch = LAYOUTS[layout].pack(*microbatch(0), "cpu")
    prompts, completions = microbatch(0)
    with torch.autocast("cpu", torch.bfloat16):
        policy(batch)
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    bounds = np.cumsum([0, *lengths]).tolist()
    assert flash.calls == [(torch.bfloat16,) * 3 + (bounds, max(lengths))] * 3  # once in each layer


def test_the_stand_in_is_attention(folder, flash):
    """Else the tests below would compare nonsense with nonsense."""
    policy = load_policy(folder)
    by_flash, _ = step(policy, "packed", 1)
    one_by_one, _ = step(policy, "padded", 1)
    assert torch.allclose(by_flash, one_by_one, atol=0.1)


@pytest.fixture
def graphs(monkeypatch):
    """Counts the graphs that are compiled; autograd and dynamic shapes as in earnest, the code generator left out."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["plain", "recomputed", "lora"])
@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_layers_compile_once_for_micro_batches_of_every_size(folder, flash, graphs, layout, kind):
    lora = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False} if kind == "lora" else None
    if lora:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    plain = load_policy(folder, lora=lora)
    compiled = load_policy(folder, lora=lora)
    compiled.load_state_dict(plain.state_dict())
    compile_policy(compiled, CPU)
    if kind == "recomputed":
        layers.recompute_layers(compiled.hf_model)
    for seed in range(20):
        found, expected = step(compiled, layout, seed), step(plain, layout, seed)
        assert torch.allclose(found[0], expected[0], atol=0.05)
        for name, gradient in expected[1].items():
            assert torch.allclose(found[1][name], gradient, rtol=0.05, atol=0.05 * float(gradient.abs().max())), name
    # Under LoRA the input of the first layer needs no gradient, that of the others does.
    assert graphs() == (2 if lora else 1)


@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(0.3), LogitShape(1.0, 2.0)], ids=["plain", "scale", "cap"])
def test_tiles_compile_once_and_agree(shape, graphs, monkeypatch):
    monkeypatch.setitem(TILES, "cpu", (32, 40))
    compiled = compiled_tile_math()
    for n in (64, 50, 34, 90):
        torch.manual_seed(n)
        hidden = torch.randn(n, 8, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(97, 8, dtype=torch.float64, requires_grad=True)
        targets = torch.randint(97, (n,))

        def gradients(tile_math: TileMath | None, inputs=(hidden, weight), targets=targets):
            values, entropy = linear_logprobs(*inputs, targets, 0.7, shape, tile_math)
            loss = (values * torch.linspace(-1, 1, len(values))).sum() + 0.1 * entropy.sum()
            return [values, entropy, *torch.autograd.grad(loss, inputs)]

        for found, expected in zip(gradients(compiled), gradients(None), strict=True):
            assert torch.allclose(found, expected, atol=1e-12)
    assert graphs() == 2  # one forward, one backward
