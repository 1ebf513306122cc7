"""The files of a model folder other than config and weights: generation config, tokenizer, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from envs.chat import set_chat_template


def load_tokenizer(model: str, *, trust_remote_code: bool, chat_template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. If `chat_template` is None, it has its own template."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        set_chat_template(tokenizer, chat_template)
    return tokenizer


def load_generation_config(model: str, *, trust_remote_code: bool) -> GenerationConfig:
    """The model's generation config, or one made of its config.json, which has the end tokens."""
    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:  # there is no generation_config.json
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> list[int]:
    """The tokens that end a completion; empty if neither argument has one."""
    ends: Any = generation.eos_token_id
    ends = ends if isinstance(ends, (list, tuple)) else [ends]
    return sorted({int(i) for i in (tokenizer.eos_token_id, *ends) if i is not None})


def save_companions(folder: Path, generation: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write both into a model's folder."""
    # GenerationConfig.save_pretrained refuses settings that from_pretrained accepts, such as the temperature without
    # do_sample in the files of Vicuna and Llama 2.
    (folder / GENERATION_CONFIG_NAME).write_text(generation.to_json_string(), encoding="utf-8")
    tokenizer.save_pretrained(folder)
