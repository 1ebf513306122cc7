"""The check of a loaded model: which layout scores it right, and which models are refused by name."""

import warnings

import numpy as np
import pytest
import torch
from transformers.models.gpt2.modeling_gpt2 import GPT2Model
from transformers.models.llama.modeling_llama import LlamaModel
from zoo import random_model

from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.packing import SEQUENCE_ATTENTION, use_attention
from aspo_rllib.model.policy import Policy
from aspo_rllib.model.scoring_check import check_rotary_switch, choose_scoring
from aspo_rllib.weights.sync import EngineMismatchError, check_first_batch

MAX_TOKENS = 40


def loaded(model) -> Policy:
    policy = Policy(model.eval())
    use_attention(policy.hf_model, SEQUENCE_ATTENTION)
    return policy


def largest_error(policy: Policy, layout: str) -> float:
    """Against one plain forward pass per rollout, with the attention that transformers chooses."""
    rng = np.random.default_rng(3)
    prompts, completions = ([rng.integers(3, 300, n) for n in side] for side in ((2, 18, 5, 1), (9, 13, 7, 4)))
    prompts[2] = prompts[0]
    with torch.no_grad():
        found, _ = policy(LAYOUTS[layout].pack(prompts, completions, "cpu"))
        policy.hf_model.set_attn_implementation(policy.plain_attention)
        errors = []
        for row, prompt, completion in zip(found, prompts, completions, strict=True):
            ids = torch.from_numpy(np.concatenate([prompt, completion]))[None]
            logprobs = policy.hf_model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            chosen = logprobs[len(prompt) - 1 : -1].gather(-1, torch.from_numpy(completion)[:, None])[:, 0]
            errors.append(float((row[: len(completion)] - chosen).abs().max()))
    return max(errors)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "mixtral", "gpt2", "opt", "gemma2", "doge", "smollm3"])
def test_models_that_keep_packed_rollouts_apart_are_packed_without_a_word(name):
    policy = loaded(random_model(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scoring = choose_scoring(policy, None, MAX_TOKENS)
    assert scoring.layout == "packed"
    assert largest_error(policy, "packed") < 1e-5


@pytest.mark.parametrize("name", ["phimoe", "gpt_oss", "nemotron", "recurrent_gemma"])
def test_models_that_do_not_are_padded_with_a_warning(name):
    policy = loaded(random_model(name))
    with pytest.warns(UserWarning, match=r"nats off a plain forward pass.*padded instead"):
        scoring = choose_scoring(policy, None, MAX_TOKENS)
    assert scoring.layout == "padded"
    assert largest_error(policy, "padded") < 1e-5


@pytest.mark.parametrize("name", ["gpt_oss", "nemotron"])
def test_a_layout_that_was_asked_for_and_is_wrong_is_refused(name):
    with pytest.raises(ValueError, match=r"layout='packed': .*ForCausalLM's log-probabilities are .* use 'padded'"):
        choose_scoring(loaded(random_model(name)), "packed", MAX_TOKENS)


@pytest.mark.parametrize("name", ["llama4", "falcon_h1", "mamba", "lfm2", "jamba", "bloom"])
def test_models_of_other_layers_are_padded_and_right(name):
    policy = loaded(random_model(name))
    assert choose_scoring(policy, None, MAX_TOKENS).layout == "padded"
    assert largest_error(policy, "padded") < 1e-5


def test_a_window_counts_only_where_rollouts_are_longer():
    policy = loaded(random_model("phimoe"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert choose_scoring(policy, None, 12).layout == "packed"


class CountingModel(GPT2Model):
    """Learned positions by its own count of the row, whatever it is told."""

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        return super().forward(input_ids, position_ids=torch.arange(input_ids.shape[1])[None], **kwargs)


class MixingModel(LlamaModel):
    """Its rows see each other."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state - out.last_hidden_state.mean((0, 1))
        return out


def test_a_class_with_positions_of_its_own_is_padded():
    model = random_model("gpt2")
    model.transformer.__class__ = CountingModel
    with pytest.warns(UserWarning, match="padded instead"):
        assert choose_scoring(loaded(model), None, MAX_TOKENS).layout == "padded"


def test_a_class_that_no_layout_suits_is_refused_by_name():
    model = random_model("llama")
    model.model.__class__ = MixingModel
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: .* in every layout, so it cannot be trained"):
        choose_scoring(loaded(model), None, MAX_TOKENS)


@pytest.mark.parametrize(("name", "kind"), [("phi3_longrope", "longrope"), ("llama_dynamic", "dynamic")])
def test_rollouts_on_both_sides_of_a_rotary_switch_are_refused(name, kind):
    config = random_model(name).config
    check_rotary_switch(config, 24)
    with pytest.raises(ValueError, match=rf"{kind}.* switches at 24 tokens"):
        check_rotary_switch(config, 25)


@pytest.mark.parametrize("name", ["llama", "llama3_rope", "gemma3"])
def test_other_rotary_scalings_do_not_switch(name):
    check_rotary_switch(random_model(name).config, 10**6)


def test_a_scaling_of_equal_factors_does_not_switch():
    config = random_model("phi3_longrope").config
    config.rope_parameters["short_factor"] = config.rope_parameters["long_factor"]
    check_rotary_switch(config, 1000)


@pytest.mark.parametrize(("dtype", "top_p", "fine", "wrong"), [("float32", 1, 0.01, 0.9), ("bfloat16", 0.9, 0.15, 0.3)])
def test_an_engine_that_is_off_before_any_update_has_an_error_of_its_own(make_config, dtype, top_p, fine, wrong):
    config = make_config().llm(dtype=dtype).sampling(top_p=top_p)
    check_first_batch(fine, config)
    with pytest.raises(EngineMismatchError, match=f"kl/sampler={wrong} in the first iteration, before any update"):
        check_first_batch(wrong, config)
