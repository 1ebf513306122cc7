"""Tune's progress.csv with correct columns after a run was resumed."""

from __future__ import annotations

import csv
from pathlib import Path

from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback


class ProgressCSVCallback(CSVLoggerCallback):
    """Replaces Tune's own CSV callback if it is among the Tuner's callbacks.

    After a restart, Tune's own callback writes rows with the columns of the first new result. Their names and order can
    differ from the existing header, so that values would be in the wrong columns.
    """

    def _setup_trial(self, trial: Trial) -> None:
        super()._setup_trial(trial)
        if self._trial_continue[trial]:
            with Path(self._trial_files[trial].name).open(newline="") as file:
                columns = next(csv.reader(file))
            self._trial_csv[trial] = csv.DictWriter(self._trial_files[trial], columns)
