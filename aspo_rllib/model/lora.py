"""LoRA through peft (extra "lora"): trainable adapters on frozen linear layers.

The module checks the settings, adds the adapters, reads and writes them, and merges them into plain weights. Learners,
engines and checkpoints exchange only the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
MAX_RANK = 512  # the largest rank that vLLM's buffers support


# ---- settings --------------------------------------------------------------------------------------------------------


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _is_alpha(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _is_pattern(value: object, is_legal: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(is_legal(v) for v in value.values())


def _are_targets(value: object) -> bool:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set)) or not names:
        return False
    return all(isinstance(n, str) and n.split(".")[-1] not in ("lm_head", "embed_tokens") for n in names)


# field of peft.LoraConfig -> legal values in words, predicate
_FIELDS = {
    "r": (f"an int in [1, {MAX_RANK}]", _is_rank),
    "lora_alpha": ("a number > 0", _is_alpha),
    "use_rslora": ("True or False", lambda v: isinstance(v, bool)),
    # Other values (pissa, olora, ...) change the base model at the start, but engines read it from its folder.
    "init_lora_weights": ("True, False or 'gaussian'", lambda v: v in (True, False, "gaussian")),
    "target_modules": ("names of linear layers, without lm_head and embed_tokens, or 'all-linear'", _are_targets),
    "rank_pattern": (f"a dict of ints in [1, {MAX_RANK}]", lambda v: _is_pattern(v, _is_rank)),
    "alpha_pattern": ("a dict of numbers > 0", lambda v: _is_pattern(v, _is_alpha)),
}
_FREE_FIELDS = ("exclude_modules", "layers_to_transform", "layers_pattern", "task_type")


def check_settings(settings: dict[str, Any]) -> None:
    """Raise ValueError for keywords of peft.LoraConfig that are not plain LoRA, or out of range.

    A refused keyword cannot be merged into linear weights, cannot be sampled with by vLLM, or has no effect here, as
    dropout. A keyword is legal if its value switches it off.
    """
    for field, value in settings.items():
        if field in _FIELDS:
            expected, holds = _FIELDS[field]
            if not holds(value):
                raise ValueError(f"lora[{field!r}]={value!r}: expected {expected}.")
        elif field not in _FREE_FIELDS and value and value != "none":
            known = ", ".join([*_FIELDS, *_FREE_FIELDS])
            raise ValueError(f"lora[{field!r}]={value!r}: expected it unset; plain LoRA has {known}.")


def peft_config(settings: dict[str, Any]) -> LoraConfig:
    """The settings as peft's object. Raises ImportError without peft, and ValueError as `check_settings` does."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError("lora needs peft: pip install 'aspo-rllib[lora]'.") from error
    check_settings(settings)
    return LoraConfig(**settings)


def max_rank(settings: dict[str, Any]) -> int:
    """The largest rank of any layer's adapter."""
    config = peft_config(settings)
    return max(config.r, *config.rank_pattern.values()) if config.rank_pattern else config.r


# ---- adapters --------------------------------------------------------------------------------------------------------


def add_lora(hf_model: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Put adapters into the model's linear layers and freeze everything else.

    settings: keywords of peft.LoraConfig.

    Raises ImportError without peft. Raises ValueError for illegal settings, and for target modules that are not linear
    layers or are the head.
    """
    config = peft_config(settings)
    from peft import inject_adapter_in_model
    from peft.tuners.lora import Linear, LoraLayer

    on_meta = next(hf_model.parameters()).is_meta
    linear = sorted({name.split(".")[-1] for name, m in hf_model.named_modules() if isinstance(m, nn.Linear)})
    try:
        inject_adapter_in_model(config, hf_model, adapter_name=ADAPTER, low_cpu_mem_usage=on_meta)
    except ValueError as error:
        raise ValueError(f"lora={settings!r}: {error} Linear layers here: {', '.join(linear)}.") from error
    for name, module in hf_model.named_modules():
        # peft also accepts GPT-2's Conv1D as a linear layer, but its weight is transposed.
        if isinstance(module, LoraLayer) and not (type(module) is Linear and isinstance(module.base_layer, nn.Linear)):
            raise ValueError(f"lora: {name} is not a linear layer; name other layers in lora['target_modules'].")
    if not isinstance(hf_model.get_output_embeddings(), nn.Linear):
        raise ValueError("lora: the language-model head cannot have an adapter; leave it out of target_modules.")


def adapters(hf_model: PreTrainedModel) -> dict[str, Tensor]:
    """State-dict name -> adapter matrix, or this rank's shard of it. The tensors share memory with the model."""
    # With named_parameters(), FSDP could return gathered copies, which become stale. A state dict has the shards.
    return {name: tensor for name, tensor in hf_model.state_dict().items() if is_adapter(name)}


def adapter_weights(hf_model: PreTrainedModel) -> dict[str, Tensor]:
    """State-dict name -> full adapter matrix on the CPU. Collective if the model is sharded."""
    return {name: _whole(tensor).cpu() for name, tensor in adapters(hf_model).items()}


def load_adapters(hf_model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Replace the adapters by the result of `adapter_weights`, which every rank must have. Collective.

    Raises ValueError if the adapters belong to other target modules.
    """
    if weights.keys() != adapters(hf_model).keys():
        different = sorted(weights.keys() ^ adapters(hf_model).keys())
        raise ValueError(f"These adapters belong to other target_modules: only one of the two has {different[0]}.")
    set_model_state_dict(hf_model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))


def write_adapters(folder: Path, weights: Iterable[tuple[str, Tensor]], settings: dict[str, Any]) -> None:
    """Write the result of `adapter_weights` as a folder that peft and vLLM can load."""
    from safetensors.torch import save_file

    peft_config(settings).save_pretrained(str(folder))
    suffix = f".{ADAPTER}.weight"
    named = {f"base_model.model.{name.removesuffix(suffix)}.weight": tensor for name, tensor in weights}
    save_file(named, folder / "adapter_model.safetensors")


def base_name(name: str) -> str:
    """A weight's name in a model with adapters -> its name in the same model without adapters."""
    return name.replace(".base_layer.", ".")


def merged_weight(hf_model: PreTrainedModel, state: Mapping[str, Tensor], name: str) -> Tensor:
    """One full weight, merged with the adapter of its layer if there is one. Collective if the model is sharded.

    state: the model's state dict, which is not changed.
    name: a key of `state` that is not an adapter.
    """
    tensor = _whole(state[name])
    layer, is_base, field = name.partition(".base_layer.")
    if not is_base or field != "weight":
        return tensor
    a, b = (_whole(state[f"{layer}.lora_{x}.{ADAPTER}.weight"]) for x in "AB")
    module: Any = hf_model.get_submodule(layer)
    scaling: float = module.scaling[ADAPTER]
    return tensor + scaling * (b @ a)


def is_adapter(name: str) -> bool:
    """Whether this is the state-dict name of an adapter's matrix."""
    return ".lora_A." in name or ".lora_B." in name


def _whole(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        # Offloaded shards are on the CPU, where the mesh's collective may not work.
        on_mesh = tensor.to(tensor.device_mesh.device_type)
        assert isinstance(on_mesh, DTensor)
        return on_mesh.full_tensor()
    return tensor
