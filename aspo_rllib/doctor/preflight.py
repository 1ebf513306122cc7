"""Checks before a run starts: the model's folder, its tokenizer, the env, the cluster and the output folder.

`config.validation` checks the config alone. This module also opens files, but loads no weights. Each message has the
field, its value and what to do.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from aspo_rllib.config.eval_sets import set_configs
from aspo_rllib.config.fields.checkpointing import NEVER
from aspo_rllib.config.placement import weight_transport
from aspo_rllib.doctor import model_files, resources
from aspo_rllib.learner.memory import load_structure
from aspo_rllib.model.scoring_check import check_rotary_switch
from aspo_rllib.rollout.engines.hf_engine import check_layers
from aspo_rllib.rollout.engines.vllm_engine import check_argument_names
from aspo_rllib.rollout.prompts import load_tokenizer, prompts_of
from aspo_rllib.run.start_ray import start_ray

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
# Bytes per parameter: float32 weights and Adam's two moments; the float32 weights of the loadable model.
_STATE_BYTES, _EXPORT_BYTES = 12, 4


def check(config: ASPOSettings) -> None:
    """Raise ValueError for mistakes that would otherwise appear when engines or learners start, or make them hang.

    Checks model, tokenizer, context length and cluster. Connects to Ray if this process is not connected yet.

    config: a config that `validate` has accepted.
    """
    if config.engine_kwargs and importlib.util.find_spec("vllm"):  # the driver may do without it
        check_argument_names(config.engine_kwargs)
    check_model(config)
    check_cluster(config)


# ---- the model -------------------------------------------------------------------------------------------------------


def check_model(config: ASPOSettings) -> None:
    """Raise ValueError for a model that engine or learner cannot use, or whose context is too short."""
    model_files.check_not_a_checkpoint(config)
    model_config = _model_config(config)
    _check_causal(config, model_config)
    _check_context(config, model_config)
    longest = max(one.max_model_len for one in (config, *set_configs(config).values()))
    check_rotary_switch(model_config, longest)
    _check_parallel(config, model_config)
    structure = load_structure(config).hf_model  # raises what the learner or peft would raise
    if config.engine == "transformers":
        check_layers(model_config, config.base_model)
    model_files.check_tokenizer(config, model_config)
    model_files.check_export(config, model_config)
    if os.path.isdir(config.base_model):
        model_files.check_weights(config, structure)


def _model_config(config: ASPOSettings) -> PretrainedConfig:
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
            f"llm_model={config.llm_model!r}: {where}: {model_files.first_line(error)} Give the folder or hub id of a "
            "causal LM."
        ) from error


def _check_causal(config: ASPOSettings, model_config: PretrainedConfig) -> None:
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


def _check_context(config: ASPOSettings, model_config: PretrainedConfig) -> None:
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
    """The longest context of the model, including its rope scaling; None if its config does not define it."""
    text = model_config.get_text_config()
    limits = [value for field in _CONTEXT_FIELDS if (value := getattr(text, field, None))]
    rope = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [value for value in rope.values() if isinstance(value, dict)]
    # Engines differ in whether the limits already include a kind of scaling. What any engine accepts is legal.
    factor = max([1.0, *((each.get("factor") or 1.0) for each in by_layer_type or [rope])])
    return int(min(limits) * factor) if limits else None


def _check_parallel(config: ASPOSettings, model_config: PretrainedConfig) -> None:
    heads = getattr(model_config.get_text_config(), "num_attention_heads", None)
    if heads is not None and heads % config.tensor_parallel_size:
        raise ValueError(
            f"tensor_parallel_size={config.tensor_parallel_size}: expected a divisor of the {heads} attention heads of "
            f"llm_model={config.llm_model!r}."
        )


# ---- the env ---------------------------------------------------------------------------------------------------------


def check_env(config: ASPOSettings) -> None:
    """Raise ValueError for mistakes in the training env and in the envs of the evaluation sets.

    Reads the first prompt of each env and grades two completions of it, in this process and without an engine. The
    message has the line of the env's author. `config.build_algo()` makes the same checks before it starts an engine.
    """
    tokenizer, _ = load_tokenizer(config)
    for one in (config, *set_configs(config).values()):
        prompts_of(one, tokenizer).close()


# ---- the cluster and the disk ----------------------------------------------------------------------------------------


def check_cluster(config: ASPOSettings) -> None:
    """Raise ValueError if the workers can never be placed on the cluster. Ray would wait for the resources forever."""
    if not ray.is_initialized():
        start_ray()
    _, *workers = resources.asked_bundles(config)  # the first bundle is that of the algorithm, which is already running
    nodes = resources.cluster_nodes()
    check_shared_gpu(config, nodes)
    missing = resources.shortage(workers, nodes)
    if missing is not None:
        runners, learners = config.num_gpus_per_env_runner, config.num_gpus_per_learner
        raise ValueError(
            f"num_env_runners={config.num_env_runners} (num_gpus_per_env_runner={runners:g}), num_learners="
            f"{config.num_learners} (num_gpus_per_learner={learners:g}): the run {missing}. Ask for less. If nodes "
            "are still starting, call resources.require_resources(..., wait_s=...) first."
        )


def check_shared_gpu(config: ASPOSettings, nodes: Sequence[resources.Bundle]) -> None:
    """Raise ValueError if Ray could place the runner and the learner of a shared GPU on two different GPUs."""
    gpus = max((node.get("GPU", 0) for node in nodes), default=0)
    if weight_transport(config) == "ipc" and gpus > 1:
        raise ValueError(
            f"num_gpus_per_env_runner={config.num_gpus_per_env_runner:g} and num_gpus_per_learner="
            f"{config.num_gpus_per_learner:g} share a GPU: Ray guarantees that only on nodes with one GPU, but a node "
            f"has {gpus:g}. Start Ray with --num-gpus=1, give each a whole GPU and num_learners=1, or set "
            ".llm(weight_transport='object_store', sleep=False)."
        )


def check_output(folder: str | Path, needed_bytes: int) -> None:
    """Raise ValueError unless files can be written below a folder and its disk has enough free space.

    folder: may not exist yet.
    """
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
    """Raise ValueError if the checkpoints need more bytes than are free."""
    if needed_bytes > free_bytes:
        raise ValueError(
            f"storage path {str(folder)!r}: {free_bytes / 1e9:.3g} GB are free, but the checkpoints need "
            f"{needed_bytes / 1e9:.3g} GB. Choose another disk, or lower CheckpointConfig(num_to_keep=...)."
        )


def checkpoint_bytes(config: ASPOSettings) -> int:
    """The approximate size of the largest checkpoint: training state and any loadable model, both float32.

    0 for a model of the hub, which may not be downloaded yet.
    """
    if not os.path.isdir(config.base_model):
        return 0
    parameters = list(load_structure(config).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    exported = 0 if config.checkpoint_export == NEVER else sum(p.numel() for p in parameters)
    return _STATE_BYTES * trained + _EXPORT_BYTES * exported
