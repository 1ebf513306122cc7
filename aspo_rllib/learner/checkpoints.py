"""What the learners write to disk: sharded training state, and a folder that transformers and vLLM open."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from transformers import GenerationConfig, PreTrainedTokenizerBase

from aspo_rllib.model.companions import save_companions
from aspo_rllib.model.policy import Policy

STATE_FOLDER = "state"
HF_FOLDER = "hf"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder completely or not at all: yields a sibling to fill, which takes `path`'s place at the end.

    If filling it fails, what stood at `path` stays as it was.
    """
    partial, replaced = (path.with_name(f"{path.name}.{suffix}") for suffix in ("partial", "replaced"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if path.exists():
        os.rename(path, replaced)
    os.rename(partial, path)
    shutil.rmtree(replaced, ignore_errors=True)


def save_state(
    path: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    counters: dict[str, int],
    reference: dict[str, Tensor] | None = None,
) -> None:
    """Write weights, optimizer state, counters and a moving reference as DCP shards. Collective: every rank calls.

    reference: its tensors by name, this rank's shards.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # with no_dist that is the intent
        dcp.save(
            _state(policy, optimizer, counters, reference),
            checkpoint_id=path / STATE_FOLDER,
            no_dist=not dist.is_initialized(),
        )


def load_state(
    path: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    counters: dict[str, int],
    reference: dict[str, Tensor] | None = None,
) -> dict[str, int]:
    """Load what `save_state` wrote, resharded to the ranks at hand; returns the counters. Collective.

    counters: any values, to say which to read.
    reference: the tensors to write a moving reference to.

    The optimizer's settings (rate, betas, weight decay) stay those of the config, which Tune may have changed since.

    Raises ValueError, before anything is loaded, for a folder that holds no whole checkpoint, or one of another model
    or of other adapters.
    """
    state = _state(policy, optimizer, counters, reference)
    _check_saved(path, state["model"], "reference" in state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, checkpoint_id=path / STATE_FOLDER, no_dist=not dist.is_initialized())
    settings = [_settings(group) for group in optimizer.param_groups]
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(strict=False),
    )
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    return dict(state["counters"])


def saved_weights_version(path: Path) -> int:
    """The version of the weights in a folder of `save_state`."""
    state: dict[str, Any] = {"counters": {"weights_version": 0}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, checkpoint_id=path / STATE_FOLDER, no_dist=True)
    return int(state["counters"]["weights_version"])


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _check_saved(path: Path, weights: dict[str, Tensor], wants_reference: bool) -> None:
    folder = path / STATE_FOLDER
    if not (folder / ".metadata").is_file():
        raise ValueError(
            f"checkpoint {path}: there is no {STATE_FOLDER}/.metadata; expected a folder that save_to_path or Tune "
            "wrote completely. Choose another checkpoint."
        )
    metadata = dcp.FileSystemReader(folder).read_metadata()
    for name in sorted({stored.relative_path for stored in metadata.storage_data.values()}):
        if not (folder / name).is_file():
            raise ValueError(
                f"checkpoint {path}: the shard {STATE_FOLDER}/{name} is missing; copy the whole folder, with "
                "the parts that learners on other nodes wrote."
            )
    prefix = "model."
    saved = {
        name.removeprefix(prefix): tuple(stored.size)
        for name, stored in metadata.state_dict_metadata.items()
        if name.startswith(prefix) and isinstance(stored, TensorStorageMetadata)
    }
    _compare(path, saved, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    if wants_reference and not any(name.startswith("reference.") for name in metadata.state_dict_metadata):
        raise ValueError(
            f"checkpoint {path}: it holds no moving reference; expected reference_reset_interval and kl_coef as in "
            "the run that wrote it."
        )


def _compare(path: Path, saved: dict[str, tuple[int, ...]], ours: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError at the first weight, by name, that only one side has or that has two shapes."""
    had_adapters, have_adapters = (any(".lora_" in name for name in side) for side in (saved, ours))
    remedy = "Restore with the llm_model and lora of the run that wrote it."
    if had_adapters != have_adapters:
        held, wanted = ("LoRA adapters", "all weights") if had_adapters else ("all weights", "LoRA adapters")
        raise ValueError(f"checkpoint {path}: it holds {held}, this run trains {wanted} (lora). {remedy}")
    for name in sorted(saved.keys() | ours.keys()):
        if saved.get(name) != ours.get(name):
            theirs, own = (side.get(name, "not there") for side in (saved, ours))
            raise ValueError(f"checkpoint {path}: {name} is {theirs}, in this run {own}. {remedy}")


def _state(
    policy: Policy, optimizer: torch.optim.Optimizer, counters: dict[str, int], reference: dict[str, Tensor] | None
) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(policy, optimizer)
    state = {"model": _trained(policy, model_state), "optimizer": optimizer_state, "counters": dict(counters)}
    return state if reference is None else {**state, "reference": reference}


def _trained(policy: Policy, model_state: dict[str, Any]) -> dict[str, Any]:
    # Under adapters the base model stays what its own folder holds. A tied head has two names.
    frozen = {name for name, p in policy.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in model_state.items() if name not in frozen}


def load_weights(path: Path, policy: Policy) -> None:
    """Load only the weights of what `save_state` wrote, into a policy that is whole in this process.

    Raises ValueError as `load_state` does.
    """
    weights = _trained(policy, get_model_state_dict(policy))
    _check_saved(path, weights, wants_reference=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load({"model": weights}, checkpoint_id=path / STATE_FOLDER, no_dist=True)
    set_model_state_dict(policy, weights, options=StateDictOptions(strict=False))


def export_hf(
    folder: Path,
    policy: Policy,
    weights: dict[str, Tensor],
    generation: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write config, generation config, safetensors and the tokenizer as a loadable folder.

    weights: checkpoint name -> whole CPU tensor, as `sharding.full_weights` gives them.
    """
    policy.hf_model.generation_config = GenerationConfig()  # transformers would refuse to save some that are in use
    policy.hf_model.save_pretrained(folder, state_dict=weights)
    save_companions(folder, generation, tokenizer)
