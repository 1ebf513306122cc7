"""Variants of the bundled model whose completions end in a controlled way, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from aspo_rllib import TINY_MODEL

END_TOKENS = [1, 5, 6, 7, 8, 9]  # of 261 tokens; any tokens that do not occur in a prompt
LATENESS = 16.0  # with END_TOKENS and a limit of 192: 10% have up to 13 tokens, 10% have 131 or more, the mean is 62

Ending = Callable[[PreTrainedModel, PreTrainedTokenizerBase], list[int]]


def save_model(folder: Path, ending: Ending) -> None:
    """Save a model that both systems of a comparison load.

    ending: changes the model's weights and returns the tokens that end a completion.
    """
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    ends = ending(model, tokenizer)
    model.config.eos_token_id = ends
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def never_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Use an end token for which the model has no logit, so that every completion has the maximal length."""
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    assert tokenizer.eos_token_id >= model.config.vocab_size
    return [tokenizer.eos_token_id]


@torch.no_grad()
def ends_at_random(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Give all tokens the same probability, but reduce that of an end token at position t by exp(-LATENESS / t).

    Without this factor, lengths would be geometric, with a ratio of 22:1 between the 90% and the 10% quantile. With it
    the ratio is 10:1. A few hundred steps with a small learning rate do not change this, because a product has no
    gradient if the weights on both sides are 0.
    """
    width = model.config.hidden_size
    for parameter in model.parameters():
        parameter.zero_()
    decoder = model.get_decoder()
    decoder.norm.weight.fill_(1.0)
    attention = decoder.layers[0].self_attn
    decoder.layers[0].input_layernorm.weight.fill_(1.0)
    # Only the first token of every prompt has a 1 in dimension 1. Attention is uniform (queries are 0), so that its
    # output in dimension 2 is 1 / t. The head is tied to the embedding.
    first = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=True, return_dict=False)[0]
    embedding = model.get_input_embeddings().weight
    embedding[:, 0] = 1.0
    embedding[first] = torch.eye(width)[1]  # it is never drawn: its logit lacks the constant of all others
    attention.v_proj.weight[0, 1] = 1.0
    attention.o_proj.weight[2, 0] = 1.0 / width**0.5  # compensates the norm before it
    embedding[END_TOKENS, 2] = -LATENESS / width**0.5  # compensates the last norm
    return list(END_TOKENS)
