"""Handles an iteration with unusable metrics: warns, ends the run, or restores the weights of a good checkpoint.

A checkpoint counts as good after an update that started from its weights, or from later ones, found no problem in them.
It cannot be judged earlier: the entropy of a policy is known only when its rollouts are scored, which may be after the
checkpoint was saved.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow.fs import FileType
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.train import Checkpoint

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.run.health import AT_START, OF_UPDATE, find_nonfinite_weights, find_problems
from aspo_rllib.types import BadNumbersError

MAX_ROLLBACKS = 3  # limit for rollbacks to the same weights


class _Saved(NamedTuple):
    checkpoint: Checkpoint
    iteration: int
    weights_version: int

    @property
    def exists(self) -> bool:
        """Whether the checkpoint still exists. Tune deletes old ones beyond `num_to_keep`."""
        learners = f"{self.checkpoint.path}/{COMPONENT_LEARNER_GROUP}"
        assert self.checkpoint.filesystem is not None
        return bool(self.checkpoint.filesystem.get_file_info(learners).type != FileType.NotFound)


class NumbersGuard:
    """Checks the metrics of each update before its weights are sent to the runners or saved."""

    def __init__(self) -> None:
        self._latest: _Saved | None = None
        self._good: _Saved | None = None
        self._rollbacks_to: Counter[int] = Counter()  # by weights_version, which copies of a checkpoint share
        self._num_bad_iterations = self._num_rollbacks = 0

    def remember(self, checkpoint: Checkpoint | str | Path, iteration: int, weights_version: int) -> None:
        """Store the checkpoint that the run was just saved to, or restored from, at this iteration."""
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.from_directory(Path(checkpoint).resolve())
        self._latest = _Saved(checkpoint, iteration, weights_version)

    def check(self, metrics: dict[str, float], config: ASPOSettings, iterations_trained: int) -> Checkpoint | None:
        """Check the metrics of the update after `iterations_trained`; handle a problem as `on_bad_numbers` sets.

        Returns the checkpoint that the learners must restore, or None. Raises BadNumbersError for 'stop', and for
        'rollback' if there is no good checkpoint or the limit of rollbacks to it is reached.
        """
        problems = find_problems(metrics, AT_START, config)
        if not problems:
            self._good = self._latest
        problems += find_problems(metrics, OF_UPDATE, config) + find_nonfinite_weights(metrics)
        if not problems:
            return None
        self._num_bad_iterations += 1
        report = "\n  ".join((f"Iteration {iterations_trained + 1} has bad numbers:", *problems))
        if config.on_bad_numbers == "warn":
            warnings.warn(f"{report}\n  on_bad_numbers='warn': the run continues with these weights.", stacklevel=2)
            return None
        if config.on_bad_numbers == "stop":
            raise BadNumbersError(f"{report}\n  on_bad_numbers='stop': this update was not saved.")
        return self._good_checkpoint(report)

    def _good_checkpoint(self, report: str) -> Checkpoint:
        good = self._good
        if good is None or not good.exists:
            raise BadNumbersError(
                f"{report}\n  on_bad_numbers='rollback': there is no good checkpoint to go back to. Write checkpoints "
                "(checkpoint_frequency) and keep at least two of them (num_to_keep)."
            )
        if self._rollbacks_to[good.weights_version] == MAX_ROLLBACKS:
            raise BadNumbersError(
                f"{report}\n  on_bad_numbers='rollback': the run went back to the checkpoint of iteration "
                f"{good.iteration} {MAX_ROLLBACKS} times already."
            )
        self._latest = good
        self._rollbacks_to[good.weights_version] += 1
        self._num_rollbacks += 1
        print(f"{report}\n  Restoring the weights of iteration {good.iteration}; the next tasks follow.", flush=True)
        return good.checkpoint

    def counts(self) -> dict[str, int]:
        """The numbers of bad iterations and of rollbacks over the whole run, as metrics."""
        return {"health/bad_iterations": self._num_bad_iterations, "health/rollbacks": self._num_rollbacks}

    def get_state(self) -> dict[str, Any]:
        return {"num_bad_iterations": self._num_bad_iterations, "num_rollbacks": self._num_rollbacks}

    def set_state(self, state: dict[str, Any]) -> None:
        self._num_bad_iterations = state["num_bad_iterations"]
        self._num_rollbacks = state["num_rollbacks"]
