"""The bundled model, made to end its completions in a way that a benchmark can count on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from aspo_rllib import TINY_MODEL

END_TOKENS = [1, 5, 6, 7, 8, 9]  # of 261; which ones does not matter, but none of them stands in a prompt
LATENESS = 16.0  # with END_TOKENS and a cut at 192: a tenth has up to 13 tokens, a tenth from 131 on, the mean is 62

Ending = Callable[[PreTrainedModel, PreTrainedTokenizerBase], list[int]]


def save_model(folder: Path, ending: Ending) -> None:
    """For both systems of a comparison to load. ending: prepares the model and tells which tokens end a completion."""
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    ends = ending(model, tokenizer)
    model.config.eos_token_id = ends
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def never_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The end token is one that the model has no logit for: every completion is as long as it may be."""
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    assert tokenizer.eos_token_id >= model.config.vocab_size
    return [tokenizer.eos_token_id]


@torch.no_grad()
def ends_at_random(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Draws all tokens alike, but an end token at position t less often by exp(-LATENESS / t).

    Without that, lengths would be geometric: from a tenth to nine tenths of them they would spread 22:1. With it they
    spread 10:1. A few hundred steps at a small learning rate do not change that: where the weights on both sides of a
    product are 0, neither has a gradient.
    """
    width = model.config.hidden_size
    for parameter in model.parameters():
        parameter.zero_()
    decoder = model.get_decoder()
    decoder.norm.weight.fill_(1.0)
    attention = decoder.layers[0].self_attn
    decoder.layers[0].input_layernorm.weight.fill_(1.0)
    # The first token of every prompt, and of none other, has a 1 at place 1. Attention looks at all tokens alike
    # (queries are 0), so that 1 / t comes out of it, at place 2; the head is the embedding, tied.
    first = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=True, return_dict=False)[0]
    embedding = model.get_input_embeddings().weight
    embedding[:, 0] = 1.0
    embedding[first] = torch.eye(width)[1]  # it is never drawn: its logit lacks what all others have
    attention.v_proj.weight[0, 1] = 1.0
    attention.o_proj.weight[2, 0] = 1.0 / width**0.5  # undoes the norm before it
    embedding[END_TOKENS, 2] = -LATENESS / width**0.5  # undoes the last norm
    return list(END_TOKENS)
