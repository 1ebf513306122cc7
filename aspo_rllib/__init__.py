"""ASPO for Ray RLlib. Importing this registers the algorithms "ASPO" and "GRPO" with Ray Tune; no vLLM needed."""

from importlib.resources import files

from ray.tune import register_trainable

from aspo_rllib.aspo import ASPO, GRPO
from aspo_rllib.config import ASPOConfig, GRPOConfig
from aspo_rllib.losses import LOSSES, Loss

TINY_MODEL = str(files("aspo_rllib") / "tiny_model")
"""Folder of the bundled arithmetic model (see its README.md)."""

register_trainable("ASPO", ASPO)
register_trainable("GRPO", GRPO)

__all__ = ["ASPO", "GRPO", "LOSSES", "TINY_MODEL", "ASPOConfig", "GRPOConfig", "Loss"]
