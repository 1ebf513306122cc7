"""Converts a GGUF file, which has quantized weights, to a Hugging Face folder that can be trained."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from aspo_rllib.model.companions import save_companions


def convert(gguf: Path, to: Path, *, other_ends: tuple[str, ...] = ()) -> None:
    """Write config, weights in bfloat16, tokenizer, chat template and generation config of a GGUF file into a folder.

    other_ends: special tokens that end a completion, besides the file's own end token.
    """
    folder, name = str(gguf.parent), gguf.name
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers calls the model that it has read "quantized" and refuses to save it.
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, gguf_file=name), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(to)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    _split_digits(tokenizer)
    generation = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, *(tokenizer.get_vocab()[end] for end in other_ends)],
        pad_token_id=tokenizer.pad_token_id,
    )
    save_companions(to, generation, tokenizer)


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let every digit be a token of its own, apart from the blanks before it, as SmolLM's tokenizer does.

    The file says so by a name only ("smollm"), which transformers does not read. It takes GPT-2's rule, under which two
    blanks before a number are two tokens instead of the one that the model has learned.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
