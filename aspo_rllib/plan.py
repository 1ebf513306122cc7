"""What a config resolves to, in a few lines for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aspo_rllib import placement

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig


_PACKAGE = Path(__file__).parent


def model_name(model: str) -> str:
    """For people: the bundled model by its place in the package, any other as it was given."""
    return str(Path(model).relative_to(_PACKAGE.parent)) if Path(model).is_relative_to(_PACKAGE) else model


def describe_plan(config: ASPOConfig) -> str:
    """Prompts x G -> rollouts -> mini-batches -> optimizer steps, the resolved loss, and who does the work."""
    method = config.method
    minibatches = config.steps_per_iteration // config.num_epochs
    return (
        f"{_loss_name(config)} on {config.env}, model {model_name(config.base_model)}\n"
        f"  {config.batch_prompts} prompts x {config.group_size} = {config.batch_prompts * config.group_size} rollouts"
        f" -> {minibatches} mini-batches x {config.num_epochs} epochs"
        f" = {config.steps_per_iteration} optimizer steps per iteration\n"
        f"  clip {method.clip_low:g}/{method.clip_high:g}{_high_entropy_clip(config)}, cap {config.weight_cap:g},"
        f" {method.aggregation} aggregation, kl {method.kl_coef:g}, lr {config.lr};"
        f" {config.dtype}\n"
        f"  {placement.describe(config)}"
    )


def _loss_name(config: ASPOConfig) -> str:
    if isinstance(config.loss, str):
        return config.loss
    return getattr(config.method.token_weight, "__name__", repr(config.method.token_weight))


def _high_entropy_clip(config: ASPOConfig) -> str:
    low, high = config.clip_low_high_entropy, config.clip_high_high_entropy
    if low is None and high is None:
        return ""
    low = config.method.clip_low if low is None else low
    high = config.method.clip_high if high is None else high
    return f" ({low:g}/{high:g} for high entropy)"
