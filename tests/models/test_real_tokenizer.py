"""What a real tokenizer brings: byte-level BPE of 49,152 tokens, pad = eos, two end tokens, a tied head, ChatML."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aspo_rllib import ASPOConfig
from aspo_rllib.learner.checkpoints import export_hf
from aspo_rllib.model.companions import load_generation_config
from aspo_rllib.model.packing import pack_rows, pad_rows, share_prompts
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.models import smollm2
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.prompts import load_tokenizer, prompts_of

pytest.importorskip("gguf")

SAMPLING = {"top_p": 1.0, "max_tokens": 16, "stop_token_ids": [0, 2]}


@pytest.fixture(scope="module")
def folder():
    try:
        return str(smollm2.folder())
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def config(folder):
    return ASPOConfig().environment("aspo/WordProblems-v0").llm(model=folder, max_prompt_tokens=96)


@pytest.fixture(scope="module")
def tokenizer_and_stop(config):
    return load_tokenizer(config)


@pytest.fixture(scope="module")
def prompts(config, tokenizer_and_stop):
    encoder = prompts_of(config, tokenizer_and_stop[0])
    return [encoder.encode(index).ids for index in range(4)]


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(folder)


@pytest.fixture(scope="module")
def engine(folder):
    return TransformersEngine(folder, dtype="float32", max_model_len=128, max_num_seqs=16, seed=0)


def generate(engine, prompts, temperature, **sampling):
    for n, prompt in enumerate(prompts):
        engine.submit(str(n), prompt, temperature=temperature, seed=n, **(SAMPLING | sampling))
    finished = []
    while engine.busy:
        finished += engine.step()
    return sorted(finished, key=lambda completion: int(completion.request_id))


def test_both_end_tokens_end_a_completion(engine, prompts, tokenizer_and_stop):
    assert tokenizer_and_stop[1] == [0, 2]
    # Behind these texts the model ends its answer with one token or the other; the answer has the end token only once.
    ended = generate(engine, prompts * 4, 1.0, max_tokens=60)
    stopped = [completion.completion_ids for completion in ended if completion.finish_reason == "stop"]
    assert stopped
    for ids in stopped:
        assert ids[-1] in (0, 2)
        assert not np.isin(ids[:-1], (0, 2)).any()


def test_the_learner_scores_the_tokens_that_were_sampled_and_not_those_of_their_text(
    engine, policy, prompts, tokenizer_and_stop
):
    tokenizer = tokenizer_and_stop[0]
    # At this temperature the model often writes a word in other tokens than the tokenizer would.
    completions = generate(engine, prompts * 2, 1.5)
    ids = [completion.completion_ids for completion in completions]
    again = [tokenizer(tokenizer.decode(one), add_special_tokens=False)["input_ids"] for one in ids]
    assert any(one.tolist() != other for one, other in zip(ids, again, strict=True))
    batch = pad_rows(prompts * 2, ids, "cpu")
    with torch.no_grad():
        logprobs, _ = policy(batch, 1.5)
    expected = np.concatenate([completion.sampler_logprobs for completion in completions])
    np.testing.assert_allclose(logprobs[batch.loss_mask].numpy(), expected, atol=2e-3)


def test_padding_with_the_end_token_hides_no_end_token(policy, prompts):
    """An end token is trained on although it is the padding token, in every layout, and with the same number."""
    completions = [np.array(ids, np.int32) for ids in ([216, 38, 2], [38, 2], [2], [216, 216, 216, 216, 0])]
    same_prompt = [prompts[0]] * 4
    found = []
    for layout in (pad_rows, pack_rows, share_prompts):
        batch = layout(same_prompt, completions, "cpu")
        with torch.no_grad():
            logprobs, _ = policy(batch)
        assert int(batch.loss_mask.sum()) == 11
        found.append(logprobs[batch.loss_mask].numpy())
    np.testing.assert_allclose(found[1], found[0], atol=2e-3)
    np.testing.assert_allclose(found[2], found[0], atol=2e-3)


def test_the_prompt_is_chatml_with_the_envs_words_only(prompts, tokenizer_and_stop):
    text = tokenizer_and_stop[0].decode(prompts[0])
    assert text.startswith("<|im_start|>system\nAnswer with one short calculation and the number.<|im_end|>\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\nCalculation:")
    assert "named SmolLM" not in text
    assert (prompts[0] == 1).sum() == 3  # special tokens are single tokens


def test_the_exported_folder_generates_the_engines_text(engine, policy, prompts, folder, tokenizer_and_stop, tmp_path):
    generation = load_generation_config(folder, trust_remote_code=False)
    exported = tmp_path / "exported"
    export_hf(exported, policy, full_weights(policy), generation, tokenizer_and_stop[0])
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == [2, 0]
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    for prompt, completion in zip(prompts, generate(engine, prompts, 0.0), strict=True):
        output = model.generate(torch.from_numpy(prompt[None]).long(), max_new_tokens=16, do_sample=False)
        ours = tokenizer.decode(completion.completion_ids)
        assert tokenizer.decode(output[0, len(prompt) :]) == ours
