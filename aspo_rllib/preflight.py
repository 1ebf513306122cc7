"""What is looked at before anything is started: the model's folder, its tokenizer, the cluster, the output folder.

`validation` judges a config by itself; this room opens files, but loads no weights. Each message: the field, its value,
what to do.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aspo_rllib import resources
from aspo_rllib.evaluation_sets import set_configs
from aspo_rllib.memory import load_structure
from aspo_rllib.placement import weight_transport

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
# Weights, Adam's two moments, and the loadable model, all float32.
_STATE_BYTES, _EXPORT_BYTES = 12, 4


def check(config: ASPOConfig) -> None:
    """Raise ValueError for what would only fail when engines or learners start, or while they wait for each other.

    config: a valid one. Looks at model, tokenizer, context length and cluster; connects to Ray if nobody has.
    """
    check_model(config)
    check_cluster(config)


# ---- the model -------------------------------------------------------------------------------------------------------


def check_model(config: ASPOConfig) -> None:
    """Raise ValueError for a model that engine or learner cannot use, or whose context is too short."""
    model_config = _model_config(config)
    _check_causal(config, model_config)
    _check_context(config, model_config)
    _check_parallel(config, model_config)
    structure = load_structure(config).hf_model  # what the learner and peft refuse is refused here
    if os.path.isdir(config.base_model):
        _check_weights(config, structure)
    _check_tokenizer(config, model_config)


def _model_config(config: ASPOConfig) -> PretrainedConfig:
    try:
        model_config: PretrainedConfig = AutoConfig.from_pretrained(
            config.base_model, trust_remote_code=config.trust_remote_code
        )
        return model_config
    except (OSError, ValueError) as error:
        where = (
            "its config.json cannot be used" if os.path.isdir(config.base_model) else "neither a folder nor on the hub"
        )
        raise ValueError(
            f"llm_model={config.llm_model!r}: {where}: {_first_line(error)} Give the folder or hub id of a causal LM."
        ) from error


def _check_causal(config: ASPOConfig, model_config: PretrainedConfig) -> None:
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    names = model_config.architectures or []
    own_code = "AutoModelForCausalLM" in (getattr(model_config, "auto_map", None) or {})
    if own_code or any(name in causal or name.endswith("ForCausalLM") for name in names):
        return
    if (
        not names
        and model_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and not model_config.is_encoder_decoder
    ):
        return
    raise ValueError(
        f"llm_model={config.llm_model!r}: its config.json says architectures={names!r}, model_type="
        f"{model_config.model_type!r}; expected a causal LM, such as 'Qwen3ForCausalLM'."
    )


def _check_context(config: ASPOConfig, model_config: PretrainedConfig) -> None:
    context = _context_tokens(model_config)
    for name, one in {"": config, **set_configs(config)}.items():
        if context is not None and one.max_model_len > context:
            where = f"evaluation set {name!r}: " if name else ""
            raise ValueError(
                f"{where}max_prompt_tokens={one.max_prompt_tokens} + max_completion_tokens={one.max_completion_tokens} "
                f"is {one.max_model_len}: llm_model={config.llm_model!r} has a context of {context} tokens. Lower one "
                "of the two."
            )


def _context_tokens(model_config: PretrainedConfig) -> int | None:
    """The longest context that the model's config allows, stretched by its rope scaling; None: it does not say."""
    text = model_config.get_text_config()
    limits = [value for field in _CONTEXT_FIELDS if (value := getattr(text, field, None))]
    rope = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    # Engines differ in which kinds of scaling are counted in already: what any of them takes is not refused here.
    factor = max([1.0, *((each.get("factor") or 1.0) for each in by_layer_type or [rope])])
    return int(min(limits) * factor) if limits else None


def _check_parallel(config: ASPOConfig, model_config: PretrainedConfig) -> None:
    heads = getattr(model_config.get_text_config(), "num_attention_heads", None)
    if heads is not None and heads % config.tensor_parallel_size:
        raise ValueError(
            f"tensor_parallel_size={config.tensor_parallel_size}: expected a divisor of the {heads} attention heads of "
            f"llm_model={config.llm_model!r}."
        )


# ---- the model's files -----------------------------------------------------------------------------------------------


def _check_weights(config: ASPOConfig, structure: nn.Module) -> None:
    """All shards are there, whole, and of the shapes that config.json says."""
    expected = {name: tuple(tensor.shape) for name, tensor in structure.state_dict().items()}
    for path in _weight_files(config):
        for name, shape in _shapes(config, path).items():
            if shape != expected.get(name, shape):
                raise ValueError(
                    f"llm_model={config.llm_model!r}: {name} in {path.name} is {list(shape)}, but config.json makes it "
                    f"{list(expected[name])}. Take both files from one model."
                )


def _weight_files(config: ASPOConfig) -> Iterator[Path]:
    folder = Path(config.base_model)
    if (folder / _INDEX).exists():
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    elif (folder / _WEIGHTS).exists():
        names = [_WEIGHTS]
    else:
        others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
        found = f"only {', '.join(others)}" if others else "no weights"
        raise ValueError(
            f"llm_model={config.llm_model!r}: {found} in it; weights are read from safetensors only. Convert with "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...), or download model.safetensors."
        )
    for name in names:
        if not (folder / name).exists():
            raise ValueError(
                f"llm_model={config.llm_model!r}: {name} is missing, one of {len(names)}. Download it again."
            )
        yield folder / name


def _shapes(config: ASPOConfig, path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name, from the file's header."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no dict
    except SafetensorError as error:
        raise ValueError(
            f"llm_model={config.llm_model!r}: {path.name} is not a whole safetensors file ({error}). Download it "
            "again; in a git clone with `git lfs pull`."
        ) from error


def _check_tokenizer(config: ASPOConfig, model_config: PretrainedConfig) -> None:
    """There is a vocabulary, and none of the tokens that any prompt may have is beyond the model's embedding."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.llm_model, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(config, _first_line(error)) from error
    ordinary = set(tokenizer.get_vocab().values()) - tokenizer.added_tokens_decoder.keys()
    if not ordinary:
        # Without any file transformers makes an empty tokenizer of the model's type.
        raise _no_tokenizer(config, "its vocabulary is empty")
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    # Added tokens that the template does not use may be beyond: Gemma has one for images.
    templated: set[int] = set()
    if tokenizer.chat_template is not None:
        message = {"role": "user", "content": "1"}
        ids: Any = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
        templated.update(ids)
    size = model_config.get_text_config().vocab_size
    largest = max(ordinary | templated)
    if largest >= size:
        raise ValueError(
            f"llm_model={config.llm_model!r}: its tokenizer has token {largest}, "
            f"{tokenizer.convert_ids_to_tokens(largest)!r}, but the model's embedding ends at vocab_size={size}. Take "
            "both from one model, or resize the embedding with resize_token_embeddings."
        )


def _no_tokenizer(config: ASPOConfig, reason: str) -> ValueError:
    return ValueError(
        f"llm_model={config.llm_model!r}: no tokenizer can be loaded from it ({reason}). Copy tokenizer.json and "
        "tokenizer_config.json of the base model there."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(":").strip()


# ---- the cluster and the disk ----------------------------------------------------------------------------------------


def check_cluster(config: ASPOConfig) -> None:
    """Raise ValueError if the workers' bundles could never lie on the cluster: without this they wait for ever."""
    if not ray.is_initialized():
        ray.init()
    _, *workers = resources.asked_bundles(config)  # the first is the algorithm's own, which runs already
    nodes = resources.cluster_nodes()
    check_shared_gpu(config, nodes)
    missing = resources.shortage(workers, nodes)
    if missing is not None:
        runners, learners = config.num_gpus_per_env_runner, config.num_gpus_per_learner
        raise ValueError(
            f"num_env_runners={config.num_env_runners} (num_gpus_per_env_runner={runners:g}), num_learners="
            f"{config.num_learners} (num_gpus_per_learner={learners:g}): the run {missing}. Ask for less; for nodes "
            "still to come, call resources.require_resources(..., wait_s=...) first."
        )


def check_shared_gpu(config: ASPOConfig, nodes: Sequence[resources.Bundle]) -> None:
    """Raise ValueError where Ray might put the runner and the learner that share a GPU on two."""
    gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if weight_transport(config) == "ipc" and gpus > 1:
        raise ValueError(
            f"num_gpus_per_env_runner={config.num_gpus_per_env_runner:g} and num_gpus_per_learner="
            f"{config.num_gpus_per_learner:g} are to share a GPU: Ray can promise that only where nodes have one, here "
            f"are {gpus:g}. Start Ray with --num-gpus=1, give each a whole GPU and num_learners=1, or set "
            ".llm(weight_transport='object_store', sleep=False)."
        )


def check_output(folder: str | Path, needed_bytes: int) -> None:
    """Raise ValueError unless files can be written below a folder, there or not yet, and there is room for so much."""
    path = Path(folder).expanduser().resolve()
    existing = next(p for p in (path, *path.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = "is not a folder" if existing.is_file() else f"cannot be written to ({error.strerror})"
        raise ValueError(f"storage path {str(folder)!r}: {existing} {reason}. Choose another folder.") from error
    check_free(folder, shutil.disk_usage(existing).free, needed_bytes)


def check_free(folder: str | Path, free_bytes: int, needed_bytes: int) -> None:
    """Raise ValueError if checkpoints of so many bytes do not fit."""
    if needed_bytes > free_bytes:
        raise ValueError(
            f"storage path {str(folder)!r}: {free_bytes / 1e9:.3g} GB are free, the checkpoints kept at once need "
            f"{needed_bytes / 1e9:.3g} GB. Choose another disk, or lower CheckpointConfig(num_to_keep=...)."
        )


def checkpoint_bytes(config: ASPOConfig) -> int:
    """About the size of one checkpoint: training state and the loadable model, both float32.

    0 for a model of the hub, which may not be there yet.
    """
    if not os.path.isdir(config.base_model):
        return 0
    parameters = list(load_structure(config).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return _STATE_BYTES * trained + _EXPORT_BYTES * sum(p.numel() for p in parameters)
