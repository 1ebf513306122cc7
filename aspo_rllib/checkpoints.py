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
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from transformers import AutoTokenizer

from aspo_rllib.model import Policy

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
    """
    state = _state(policy, optimizer, counters, reference)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, checkpoint_id=path / STATE_FOLDER, no_dist=not dist.is_initialized())
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=StateDictOptions(strict=False),
    )
    return state["counters"]


def _state(policy, optimizer, counters, reference) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(policy, optimizer)
    # Under adapters the base model stays what its own folder holds. A tied head has two names.
    frozen = {name for name, p in policy.named_parameters(remove_duplicate=False) if not p.requires_grad}
    model_state = {name: tensor for name, tensor in model_state.items() if name not in frozen}
    state = {"model": model_state, "optimizer": optimizer_state, "counters": dict(counters)}
    return state if reference is None else {**state, "reference": reference}


def export_hf(path: Path, policy: Policy, weights: dict[str, Tensor], source: str) -> None:
    """Write config, generation config, safetensors and the tokenizer of `source` as a loadable folder.

    weights: checkpoint name -> whole CPU tensor, as `model.full_weights` gives them.
    """
    policy.hf_model.save_pretrained(path / HF_FOLDER, state_dict=weights)
    AutoTokenizer.from_pretrained(source).save_pretrained(path / HF_FOLDER)
