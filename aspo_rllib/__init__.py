"""ASPO for Ray RLlib. Importing this registers the algorithms "ASPO" and "GRPO" with Ray Tune; no vLLM needed."""

import os
import sys
from importlib.resources import files
from importlib.util import find_spec

TINY_MODEL = str(files("aspo_rllib") / "tiny_model")
"""Folder of the bundled arithmetic model (see its README.md)."""

__all__ = ["TINY_MODEL"]

# Nobody hears of a run unless asked to; both are read when their packages start.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _doctor_starts() -> bool:
    """Whether `python -m aspo_rllib.doctor` imports this, which has to start where what follows cannot be imported."""
    looks_for_module = sys.argv[:1] == ["-m"]  # when it is found, its path stands there
    return looks_for_module and f"{__name__}.doctor" in sys.orig_argv


if not _doctor_starts():
    from aspo_rllib.losses import LOSSES, Loss

    __all__ += ["LOSSES", "Loss"]
    # The rooms of losses, batching and models also serve machines that have torch and transformers alone.
    if find_spec("ray") is not None:
        from ray.tune import register_trainable

        from aspo_rllib.aspo import ASPO, GRPO
        from aspo_rllib.config import ASPOConfig, GRPOConfig

        register_trainable("ASPO", ASPO)
        register_trainable("GRPO", GRPO)
        __all__ += ["ASPO", "GRPO", "ASPOConfig", "GRPOConfig"]
