"""What is done about an iteration whose numbers have gone bad: a warning, the end of the run, or a step back.

A checkpoint is good once an update that started from its weights, or from later ones, found nothing wrong with them: a
policy's entropy is known only when its rollouts are scored, which may be after it was saved.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyarrow.fs import FileType
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.train import Checkpoint

from aspo_rllib.health import AT_START, OF_UPDATE, BadNumbersError, find_nonfinite_weights, find_problems

if TYPE_CHECKING:
    from aspo_rllib.aspo import ASPO

MAX_ROLLBACKS = 3  # to the same weights


class _Saved(NamedTuple):
    checkpoint: Checkpoint
    iteration: int
    weights_version: int

    @property
    def exists(self) -> bool:
        """Tune deletes what is more than `num_to_keep`."""
        learners = f"{self.checkpoint.path}/{COMPONENT_LEARNER_GROUP}"
        assert self.checkpoint.filesystem is not None
        return bool(self.checkpoint.filesystem.get_file_info(learners).type != FileType.NotFound)


class NumbersGuard:
    """Judges the numbers of each update of an algorithm, before its weights go anywhere."""

    def __init__(self, algorithm: ASPO):
        self._algorithm = algorithm
        self._latest: _Saved | None = None
        self._good: _Saved | None = None
        self._rollbacks_to: Counter[int] = Counter()  # by weights_version: a copy of a checkpoint is no other one
        self._num_bad_iterations = self._num_rollbacks = 0

    def remember(self, checkpoint: Checkpoint | str | Path) -> None:
        """Where the algorithm, as it is now, has just been written to, or restored from."""
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.from_directory(Path(checkpoint).resolve())
        algorithm = self._algorithm
        self._latest = _Saved(checkpoint, algorithm.iterations_trained, algorithm.weights_version)

    def check(self, metrics: dict[str, float]) -> None:
        """Look at an update's metrics; on trouble do what `on_bad_numbers` says. Raises BadNumbersError."""
        algorithm = self._algorithm
        config = algorithm.config
        problems = find_problems(metrics, AT_START, config)
        if not problems:
            self._good = self._latest
        problems += find_problems(metrics, OF_UPDATE, config) + find_nonfinite_weights(metrics)
        if not problems:
            return
        self._num_bad_iterations += 1
        report = "\n  ".join((f"Iteration {algorithm.iterations_trained + 1} has bad numbers:", *problems))
        if config.on_bad_numbers == "warn":
            warnings.warn(f"{report}\n  on_bad_numbers='warn': the run goes on with them.", stacklevel=2)
        elif config.on_bad_numbers == "stop":
            raise BadNumbersError(f"{report}\n  on_bad_numbers='stop': nothing of this update was saved.")
        else:
            self._roll_back(report)

    def _roll_back(self, report: str) -> None:
        algorithm, good = self._algorithm, self._good
        if good is None or not good.exists:
            raise BadNumbersError(
                f"{report}\n  on_bad_numbers='rollback': there is no good checkpoint to go back to. Write some "
                "(checkpoint_frequency), keep at least two (num_to_keep)."
            )
        if self._rollbacks_to[good.weights_version] == MAX_ROLLBACKS:
            raise BadNumbersError(
                f"{report}\n  on_bad_numbers='rollback': the run went back to the checkpoint of iteration "
                f"{good.iteration} {MAX_ROLLBACKS} times already."
            )
        with good.checkpoint.as_directory() as folder:
            algorithm.learner_group.restore_from_path(Path(folder) / COMPONENT_LEARNER_GROUP)
        # What the bad weights have begun to sample is sampled anew, after the sync that follows.
        algorithm.rollouts.set_state(algorithm.rollouts.get_state())
        self._latest = good
        self._rollbacks_to[good.weights_version] += 1
        self._num_rollbacks += 1
        print(f"{report}\n  Back to the weights of iteration {good.iteration}, on with the next tasks.", flush=True)

    def counts(self) -> dict[str, int]:
        """Metrics, over the whole run."""
        return {"health/bad_iterations": self._num_bad_iterations, "health/rollbacks": self._num_rollbacks}

    def get_state(self) -> dict[str, Any]:
        return {"num_bad_iterations": self._num_bad_iterations, "num_rollbacks": self._num_rollbacks}

    def set_state(self, state: dict[str, Any]) -> None:
        self._num_bad_iterations = state["num_bad_iterations"]
        self._num_rollbacks = state["num_rollbacks"]
