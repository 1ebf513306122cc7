"""LoRA through peft (extra "lora"): trainable adapters on frozen linear layers, and the way back to plain weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

ADAPTER = "default"


def add_lora(hf_model: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Put adapters into the model's linear layers and freeze everything else.

    settings: keywords of peft.LoraConfig. Raises ImportError without peft, ValueError for adapters that
    `merged_weights` could not fold back into plain linear weights.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import Linear, LoraLayer
    except ImportError as error:
        raise ImportError("lora needs peft: pip install 'aspo-rllib[lora]'.") from error

    for field in ("use_dora", "modules_to_save", "target_parameters"):
        if settings.get(field):
            raise ValueError(f"lora[{field!r}]={settings[field]!r}: expected it unset; only plain LoRA is supported.")
    on_meta = next(hf_model.parameters()).is_meta
    inject_adapter_in_model(LoraConfig(**settings), hf_model, adapter_name=ADAPTER, low_cpu_mem_usage=on_meta)
    for name, module in hf_model.named_modules():
        if isinstance(module, LoraLayer) and type(module) is not Linear:
            raise ValueError(f"lora: {name} is no linear layer; name others in lora['target_modules'].")
    if not isinstance(hf_model.get_output_embeddings(), nn.Linear):
        raise ValueError("lora: the language-model head cannot have an adapter; leave it out of target_modules.")


def merged_weights(hf_model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights of a model with adapters -> those of the same model without, under the base model's names.

    weights: name -> whole tensor, as the state dict names them; not changed. A model without adapters gives them back.
    """
    scalings = {name: module.scaling[ADAPTER] for name, module in hf_model.named_modules() if hasattr(module, "lora_A")}
    merged = {}
    for name, tensor in weights.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer, is_base, field = name.partition(".base_layer.")
        if not is_base:
            merged[name] = tensor
            continue
        if field == "weight":
            a, b = (weights[f"{layer}.lora_{x}.{ADAPTER}.weight"] for x in "AB")
            tensor = tensor + scalings[layer] * (b @ a)
        merged[f"{layer}.{field}"] = tensor
    return merged
