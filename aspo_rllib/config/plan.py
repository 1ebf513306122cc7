"""A readable summary of a config's resolved values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_rllib.config import placement

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings


_PACKAGE = Path(__file__).parent.parent


def model_name(model: str) -> str:
    """A model's name for output: the relative path of the bundled model, any other model as it was given."""
    return str(Path(model).relative_to(_PACKAGE.parent)) if Path(model).is_relative_to(_PACKAGE) else model


def describe_plan(config: ASPOSettings) -> str:
    """Prompts x G -> rollouts -> mini-batches -> optimizer steps, the resolved loss, and the numbers of workers."""
    method = config.method
    minibatches = config.steps_per_iteration // config.num_epochs
    return (
        f"{_loss_name(config)} on {config.env}, model {model_name(config.base_model)}\n"
        f"  {config.batch_prompts} prompts x {config.group_size} = {config.batch_prompts * config.group_size} rollouts"
        f" -> {minibatches} mini-batches x {config.num_epochs} epochs"
        f" = {config.steps_per_iteration} optimizer steps per iteration\n"
        f"  {_bounds(config)}{method.aggregation} aggregation, kl {method.kl_coef:g}, lr {config.lr};"
        f" {config.dtype}{', compiled layers' if config.learner_is_compiled else ''}\n"
        f"  {placement.describe(config)}"
    )


def _loss_name(config: ASPOSettings) -> str:
    if isinstance(config.loss, str):
        return config.loss
    return getattr(config.method.token_weight, "__name__", repr(config.method.token_weight))


def _bounds(config: ASPOSettings) -> str:
    """The bounds that the loss has."""
    method = config.method
    clip = cap = ""
    if method.clip_low is not None and method.clip_high is not None:
        clip = f"clip {method.clip_low:g}/{method.clip_high:g}{_high_entropy_clip(config)}, "
    if method.weight_cap is not None:
        cap = f"cap {method.weight_cap:g}, " if math.isfinite(method.weight_cap) else "no cap, "
    return clip + cap


def _high_entropy_clip(config: ASPOSettings) -> str:
    low, high = config.clip_low_high_entropy, config.clip_high_high_entropy
    if low is None and high is None:
        return ""
    low = config.method.clip_low if low is None else low
    high = config.method.clip_high if high is None else high
    return f" ({low:g}/{high:g} for high entropy)"
