"""ASPO for Ray RLlib: reinforcement learning of language models with verifiable rewards.

Importing this package is fast, because its public names are imported when they are first used. The import registers the
algorithms "ASPO" and "GRPO" with Ray Tune, and repairs the progress.csv that Tune continues after `Tuner.restore`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aspo_rllib.registration import register_with_tune, repair_progress_csv
from aspo_rllib.tiny_model import TINY_MODEL

if TYPE_CHECKING:
    from aspo_rllib.aspo import ASPO, GRPO, ASPOConfig, GRPOConfig
    from aspo_rllib.evaluate.samples import SamplesCallback
    from aspo_rllib.losses import LOSSES, Loss
    from aspo_rllib.run.histograms import HistogramsCallback
    from aspo_rllib.run.pass_rates import PassRatesCallback
    from aspo_rllib.run.profiling import ProfileCallback

__all__ = [
    "ASPO",
    "GRPO",
    "LOSSES",
    "TINY_MODEL",
    "ASPOConfig",
    "GRPOConfig",
    "HistogramsCallback",
    "Loss",
    "PassRatesCallback",
    "ProfileCallback",
    "SamplesCallback",
]

_MODULES = {
    "ASPO": "aspo_rllib.aspo",
    "GRPO": "aspo_rllib.aspo",
    "ASPOConfig": "aspo_rllib.aspo",
    "GRPOConfig": "aspo_rllib.aspo",
    "HistogramsCallback": "aspo_rllib.run.histograms",
    "LOSSES": "aspo_rllib.losses",
    "Loss": "aspo_rllib.losses",
    "PassRatesCallback": "aspo_rllib.run.pass_rates",
    "ProfileCallback": "aspo_rllib.run.profiling",
    "SamplesCallback": "aspo_rllib.evaluate.samples",
}

# Usage reports are off unless the user turns them on. Both variables are read when their packages are imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# What a Tuner prints, see run/tune_table.py. Tune reads the variables when a run starts.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
if os.environ["RAY_AIR_NEW_OUTPUT"] == "0":
    os.environ.setdefault("RAY_TUNE_CALLBACKS", "aspo_rllib.run.tune_table.QuietTrials")

register_with_tune({"ASPO": "aspo_rllib.aspo", "GRPO": "aspo_rllib.aspo"})
repair_progress_csv()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
