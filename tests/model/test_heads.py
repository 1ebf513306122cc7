"""Heads that scale or softly cap their logits: read off the class, trained as transformers computes them."""

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, Qwen3ForCausalLM
from zoo import random_model

from aspo_rllib.model import logprobs
from aspo_rllib.model.head import logit_shape
from aspo_rllib.model.logprobs import LogitShape
from aspo_rllib.model.packing import pad_rows
from aspo_rllib.model.policy import Policy, load_policy

# The shape that each class's own forward pass has, whatever it calls the field.
SHAPES = {
    "cohere": LogitShape(0.25),
    "cohere2": LogitShape(4.0),
    "granite": LogitShape(1 / 8),
    "granitemoe": LogitShape(1 / 6),
    "granitemoehybrid": LogitShape(1 / 6),
    "hyperclovax": LogitShape(0.3),  # of the field that divides in Granite
    "minicpm3": LogitShape(0.25),  # of the hidden states
    "falcon_h1": LogitShape(0.5),
    "gemma2": LogitShape(1.0, 3.0),
    "gemma4": LogitShape(1.0, 3.0),
    "vaultgemma": LogitShape(1.0, 3.0),
    "nanochat": LogitShape(1.0, 3.0),
    "recurrent_gemma": LogitShape(1.0, 3.0),
    "llama": LogitShape(),
    "llama4": LogitShape(),
}
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [[rng.integers(3, 300, n) for n in side] for side in ((3, 9, 1), (9, 2, 6))]


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_is_that_of_the_class(name):
    shape = logit_shape(random_model(name))
    assert shape.scale == pytest.approx(SHAPES[name].scale, rel=1e-6)
    assert shape.cap == SHAPES[name].cap


@pytest.mark.parametrize("name", ["cohere", "granite", "hyperclovax", "minicpm3", "gemma2", "nanochat", "falcon_h1"])
def test_logprobs_entropies_and_gradients_are_those_of_transformers(name, rows, monkeypatch):
    monkeypatch.setitem(logprobs.TILES, "cpu", (5, 70))
    policy = Policy(random_model(name))
    params = {n: p for n, p in policy.hf_model.named_parameters() if p.requires_grad}
    found, entropy = policy(pad_rows(*rows, "cpu"), TEMPERATURE)
    weights = [torch.linspace(-1, 2, len(c)) for c in rows[1]]
    ours = sum((w * found[i, : len(w)]).sum() + entropy[i, : len(w)].sum() / 3 for i, w in enumerate(weights))
    plain = torch.zeros(())
    for i, (prompt, completion, w) in enumerate(zip(*rows, weights, strict=True)):
        ids = torch.from_numpy(np.concatenate([prompt, completion]))[None]
        logits = policy.hf_model(input_ids=ids, use_cache=False).logits[0] / TEMPERATURE
        predicted = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        chosen = predicted[torch.arange(len(completion)), torch.from_numpy(completion)]
        spread = -(predicted.exp() * predicted).sum(-1)
        torch.testing.assert_close(found[i, : len(completion)], chosen, atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy[i, : len(completion)], spread, atol=1e-5, rtol=0)
        plain = plain + (w * chosen).sum() + spread.sum() / 3
    both = [torch.autograd.grad(loss, params.values(), allow_unused=True) for loss in (ours, plain)]
    for n, ours_grad, expected in zip(params, *both, strict=True):
        if expected is not None:
            assert (ours_grad - expected).norm() < 1e-4 * (1e-3 + expected.norm()), n


def test_a_policy_is_loaded_with_the_shape_of_its_config(tmp_path):
    random_model("gemma2").save_pretrained(tmp_path)
    assert load_policy(str(tmp_path)).logit_shape == load_policy(str(tmp_path), meta=True).logit_shape == (1.0, 3.0)


def test_looking_at_a_head_leaves_the_model_as_it_was(rows):
    model = random_model("gemma2")
    ids = torch.from_numpy(rows[0][1])[None]
    before = model(input_ids=ids).logits
    logit_shape(model)
    assert torch.equal(model(input_ids=ids).logits, before)


class Squared(LlamaForCausalLM):
    """A head of code that came with the model."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits.square()
        return out


class Shifted(Qwen3ForCausalLM):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits - 10.0 * (out.logits < 0)
        return out


class Cut(LlamaForCausalLM):
    """Some classes leave padding of the vocabulary out of their logits."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits[..., :-4]
        return out


@pytest.mark.parametrize(("model_class", "zoo_name"), [(Squared, "llama"), (Shifted, "qwen3"), (Cut, "llama")])
def test_a_head_that_does_something_else_is_refused_by_name(model_class, zoo_name):
    with pytest.raises(ValueError, match=f"{model_class.__name__}: its head does more"):
        logit_shape(model_class(random_model(zoo_name).config))


@pytest.mark.parametrize("name", ["phi", "gptj"])
def test_a_head_with_a_bias_is_refused_by_name(name, tmp_path):
    model = random_model(name)
    model.save_pretrained(tmp_path)
    for meta in (False, True):
        with pytest.raises(ValueError, match=f"llm_model=.*{type(model).__name__}'s language-model head has a bias"):
            load_policy(str(tmp_path), meta=meta)
