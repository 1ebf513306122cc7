"""Tune's progress.csv, right also where a run was resumed."""

from __future__ import annotations

import csv
from pathlib import Path

from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback


class ProgressCSVCallback(CSVLoggerCallback):
    """Among a Tuner's callbacks it takes the place of Tune's own.

    That one writes the lines of each start in the columns of the start's first result, which has not the names of the
    very first one, nor their order: below the header that is there already they stand in wrong columns.
    """

    def _setup_trial(self, trial: Trial) -> None:
        super()._setup_trial(trial)
        if self._trial_continue[trial]:
            with Path(self._trial_files[trial].name).open(newline="") as file:
                columns = next(csv.reader(file))
            self._trial_csv[trial] = csv.DictWriter(self._trial_files[trial], columns)
