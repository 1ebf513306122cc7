"""What a plain `tune.Tuner` prints: its table has this package's main metrics, and trials print nothing besides.

Tune's table shows the columns `mean_accuracy` (as "acc"), `mean_loss` (as "loss"), and the first three other numbers at
the top level of a result. Tune's newer output would print the whole config of every trial, some 300 lines, and has no
setting against that. `import aspo_rllib` therefore sets two environment variables of Ray, unless the user has set them:
RAY_AIR_NEW_OUTPUT=0, and RAY_TUNE_CALLBACKS with `QuietTrials`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import LEARNER_RESULTS
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

TOKENS_PER_S = "tokens_per_s"
_COLUMNS = {
    "mean_accuracy": ("reward", "accuracy"),
    "mean_loss": (LEARNER_RESULTS, DEFAULT_MODULE_ID, "total_loss"),
    "held_out_accuracy": ("held_out_accuracy",),
    "mean_entropy": ("entropy", "mean"),
}


def table_values(result: Mapping[str, Any], seconds: float) -> dict[str, float]:
    """The numbers of an iteration for Tune's table, without those that the iteration does not have.

    seconds: the duration of the iteration.
    """
    found = {name: _lookup(result, path) for name, path in _COLUMNS.items()}
    values = {name: float(value) for name, value in found.items() if value is not None}
    return values | {TOKENS_PER_S: round(result["tokens"]["completion"] / seconds, 1)}


def _lookup(result: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        result = result.get(name) if isinstance(result, Mapping) else None
    return result


class QuietTrials(TrialProgressCallback):
    """Replaces Tune's callback that prints all metrics of a trial every 30 s, for the trials of this package.

    The table has the values. Other algorithms' trials are printed as usual.
    """

    def log_result(self, trial: Trial, result: dict[str, Any], error: bool = False) -> None:
        if TOKENS_PER_S not in result:
            super().log_result(trial, result, error)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if TOKENS_PER_S not in trial.last_result:
            super().on_trial_complete(iteration, trials, trial, **info)
