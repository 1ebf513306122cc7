"""ASPO for Ray RLlib. Importing this registers the algorithms "ASPO" and "GRPO" with Ray Tune; no vLLM needed."""

import os
from importlib.resources import files
from importlib.util import find_spec

from aspo_rllib.losses import LOSSES, Loss

TINY_MODEL = str(files("aspo_rllib") / "tiny_model")
"""Folder of the bundled arithmetic model (see its README.md)."""

__all__ = ["LOSSES", "TINY_MODEL", "Loss"]

# Nobody hears of a run unless asked to; both are read when their packages start.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# The rooms of losses, batching and models also serve machines that have torch and transformers alone.
if find_spec("ray") is not None:
    from ray.tune import register_trainable

    from aspo_rllib.aspo import ASPO, GRPO
    from aspo_rllib.config import ASPOConfig, GRPOConfig

    register_trainable("ASPO", ASPO)
    register_trainable("GRPO", GRPO)
    __all__ += ["ASPO", "GRPO", "ASPOConfig", "GRPOConfig"]
