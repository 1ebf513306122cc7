"""The policy against the plainest computation there is: one sequence at a time, all logits at once."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from aspo_rllib import TINY_MODEL
from aspo_rllib.model import logprobs
from aspo_rllib.model.packing import pad_rows
from aspo_rllib.model.policy import Policy, load_policy, stream_weights, weight_shapes
from aspo_rllib.model.sharding import full_weights

VOCAB = 97
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # far from uniform
}
ARCHITECTURES = [
    pytest.param(config_class, tied, id=f"{config_class.model_type}-{'tied' if tied else 'untied'}")
    for config_class in (Qwen2Config, Qwen3Config, LlamaConfig)
    for tied in (True, False)
]


def random_policy(config_class, tied=True, **extra):
    torch.manual_seed(1)
    config = config_class(**SIZES, tie_word_embeddings=tied, **extra)
    return Policy(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


@pytest.fixture(scope="module")
def rows():
    """Prompts and completions of very different lengths, one completion of a single token."""
    rng = np.random.default_rng(0)
    lengths = [(3, 9), (20, 1), (1, 14), (7, 7), (12, 2)]
    return [[rng.integers(0, VOCAB, n) for n in side] for side in zip(*lengths, strict=True)]


def plain_scores(hf_model, prompt, completion, temperature):
    """log softmax(logits / temperature) at each completion token, and the entropies, from one plain forward pass."""
    ids = torch.from_numpy(np.concatenate([prompt, completion]))[None]
    logprobs = (hf_model(input_ids=ids).logits[0].float() / temperature).log_softmax(-1)
    predictions = logprobs[len(prompt) - 1 : -1]
    chosen = predictions[torch.arange(len(completion)), torch.from_numpy(completion)]
    return chosen, -(predictions.exp() * predictions).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("config_class", "tied"), ARCHITECTURES)
@torch.no_grad()
def test_logprobs_and_entropy_are_those_of_a_plain_forward(config_class, tied, temperature, rows):
    policy = random_policy(config_class, tied)
    batch = pad_rows(*rows, "cpu")
    logprobs, entropy = policy(batch, temperature)
    assert logprobs.shape == entropy.shape == batch.loss_mask.shape
    for i, (prompt, completion) in enumerate(zip(*rows, strict=True)):
        expected = plain_scores(policy.hf_model, prompt, completion, temperature)
        n = len(completion)
        torch.testing.assert_close(logprobs[i, :n], expected[0], atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(entropy[i, :n], expected[1], atol=2e-6, rtol=2e-6)
        assert not logprobs[i, n:].any() and not entropy[i, n:].any()


@torch.no_grad()
def test_padding_changes_nothing(rows):
    policy = random_policy(Qwen3Config)
    together, _ = policy(pad_rows(*rows, "cpu"))
    for i, (prompt, completion) in enumerate(zip(*rows, strict=True)):
        alone, _ = policy(pad_rows([prompt], [completion], "cpu"))
        torch.testing.assert_close(together[i, : len(completion)], alone[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("config_class", "tied"), ARCHITECTURES)
def test_gradients_are_those_of_the_plain_computation(config_class, tied, rows):
    policy = random_policy(config_class, tied)
    params = dict(policy.hf_model.named_parameters())

    def gradients(loss):
        return dict(zip(params, torch.autograd.grad(loss, params.values()), strict=True))

    logprobs, entropy = policy(pad_rows(*rows, "cpu"), 0.7)
    weights = [torch.linspace(-1, 2, len(c)) for c in rows[1]]  # another weight for every token
    ours = gradients(
        sum((w * logprobs[i, : len(w)]).sum() + entropy[i, : len(w)].sum() / 3 for i, w in enumerate(weights))
    )
    plain_loss = 0.0
    for prompt, completion, w in zip(*rows, weights, strict=True):
        chosen, spread = plain_scores(policy.hf_model, prompt, completion, 0.7)
        plain_loss = plain_loss + (w * chosen).sum() + spread.sum() / 3
    for name, expected in gradients(plain_loss).items():
        scale = max(1.0, float(expected.detach().abs().max()))
        assert (ours[name] - expected).abs().max() < 2e-5 * scale, name


def test_tiling_changes_nothing(rows, monkeypatch):
    policy = random_policy(LlamaConfig)
    params = list(policy.parameters())

    def run():
        chosen, entropy = policy(pad_rows(*rows, "cpu"))
        return chosen, entropy, *torch.autograd.grad((chosen * 2 + entropy).sum(), params)

    whole = run()
    monkeypatch.setattr(logprobs, "TILES", {"cpu": (3, 40)})  # 33 completion tokens, a vocabulary of 97: 11 x 3 tiles
    for chunked, expected in zip(run(), whole, strict=True):
        assert (chunked - expected).detach().abs().max() < 2e-6 * max(1.0, float(expected.detach().abs().max()))


def test_whole_weights_carry_tied_names_too():
    policy = random_policy(Qwen3Config, tied=True)
    weights = full_weights(policy)
    # What checkpoints leave out and engines keep a stale copy of.
    assert "lm_head.weight" not in dict(policy.hf_model.named_parameters())
    assert torch.equal(weights["lm_head.weight"], policy.hf_model.model.embed_tokens.weight)
    assert weights.keys() == policy.hf_model.state_dict().keys()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_announced_is_what_is_streamed(tied, dtype):
    policy = random_policy(Qwen3Config, tied=tied)
    streamed = [(names, tensor.dtype, tensor.shape) for names, tensor in stream_weights(policy, dtype)]
    assert weight_shapes(policy, dtype) == streamed
    names = [name for names, _, _ in streamed for name in names]
    assert sorted(names) == sorted(policy.hf_model.state_dict())
    assert (("model.embed_tokens.weight", "lm_head.weight") in [names for names, _, _ in streamed]) is tied


def test_whole_weights_of_an_untied_model_are_its_own():
    policy = random_policy(Qwen3Config, tied=False)
    weights = full_weights(policy)
    assert torch.equal(weights["lm_head.weight"], policy.hf_model.lm_head.weight)
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_weights_are_loaded_in_float32_whatever_the_folder_holds(tmp_path):
    AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_policy(str(tmp_path)).parameters()} == {torch.float32}


@torch.no_grad()
def test_two_scores_of_the_same_rows_are_equal_although_the_config_asks_for_dropout(rows, tmp_path):
    random_policy(LlamaConfig, attention_dropout=0.5).hf_model.save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path)).eval()  # as CausalLMModule.train() leaves it
    batch = pad_rows(*rows, "cpu")
    assert torch.equal(policy(batch)[0], policy(batch)[0])


def test_losses_batches_and_models_need_neither_ray_nor_vllm():
    modules = [f"model.{name}" for name in ["policy", "packing", "layouts", "logprobs", "layers", "sharding", "lora"]]
    modules += [
        f"learner.{name}" for name in ["advantages", "batching", "microbatch", "mismatch", "tally", "reference"]
    ]
    script = f"""
import importlib, sys
sys.modules["ray"] = sys.modules["vllm"] = None  # makes every import of them fail
for module in {["types", "losses", *modules]!r}:
    importlib.import_module("aspo_rllib." + module)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
