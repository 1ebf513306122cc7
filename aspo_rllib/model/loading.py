"""Loads a causal LM, and raises an error if weights are missing, which transformers would fill with random numbers."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def load_causal_lm(model: str, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model of a folder or hub id with the weights of its checkpoint. Raises ValueError if any is missing."""
    return _load(model, {"dtype": dtype, "trust_remote_code": trust_remote_code})


def load_headers(model: str, *, trust_remote_code: bool) -> PreTrainedModel:
    """The model on the meta device. Only the headers of the weight files are read. Raises as `load_causal_lm` does.

    Unlike the model of `load_structure`, this one knows the names of its weights in the checkpoint.
    """
    return _load(model, {"trust_remote_code": trust_remote_code, "device_map": {"": "meta"}})


def check_weights(model: str, *, trust_remote_code: bool) -> None:
    """Raise ValueError as `load_causal_lm` does."""
    load_headers(model, trust_remote_code=trust_remote_code)


def load_structure(model: str, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model of a config without weights: its parameters are on the meta device."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return hf_model


def _load(model: str, options: dict[str, Any]) -> PreTrainedModel:
    # Which weights are missing is known only after transformers has renamed, merged and tied them.
    load: Any = AutoModelForCausalLM.from_pretrained
    hf_model: PreTrainedModel
    info: dict[str, Any]
    try:
        hf_model, info = load(model, use_safetensors=True, output_loading_info=True, **options)
    except RuntimeError as error:  # transformers could not merge the weights, for example because an expert is missing
        raise ValueError(
            f"llm_model={model!r}: weights are missing in its checkpoint, or have shapes that its config.json does not "
            f"allow ({_first_line(error)}). The table above, from transformers, has their names."
        ) from error
    for trouble, wrong in (("are missing", "missing_keys"), ("have other shapes", "mismatched_keys")):
        if names := sorted(str(name) for name in info[wrong]):
            unknown = sorted(info["unexpected_keys"])
            hint = f" It has other names, such as {unknown[0]!r}: is it of another class?" if unknown else ""
            raise ValueError(
                f"llm_model={model!r}: {len(names)} weights {trouble} in its checkpoint, such as {names[0]!r}; "
                f"transformers would fill in random ones.{hint} Take config.json and all weights from one model."
            )
    return hf_model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
