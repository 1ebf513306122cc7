"""What lies beside a model's weights and goes into every exported folder: generation config, tokenizer, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from envs.chat import set_chat_template


def load_tokenizer(model: str, *, trust_remote_code: bool, chat_template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with this chat template or, for None, its own."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    return tokenizer


def load_generation_config(model: str, *, trust_remote_code: bool) -> GenerationConfig:
    """The model's own, or what its config.json says of generation: above all, the end tokens."""
    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:  # there is no generation_config.json
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> list[int]:
    """The tokens that end a completion; empty if neither says any."""
    ends: Any = generation.eos_token_id
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    return sorted({int(i) for i in (tokenizer.eos_token_id, *ends) if i is not None})


def save_companions(folder: Path, generation: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write both into a folder that has, or will have, config and weights."""
    # Not its own save_pretrained, which refuses much of what from_pretrained takes: a temperature without do_sample,
    # as Vicuna's and Llama 2's files have it.
    (folder / GENERATION_CONFIG_NAME).write_text(generation.to_json_string(), encoding="utf-8")
    tokenizer.save_pretrained(folder)
