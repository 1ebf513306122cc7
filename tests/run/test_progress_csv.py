"""Tune's progress.csv after a restart, in a process that has imported aspo_rllib."""

import csv
import json
from pathlib import Path

import pytest
from ray import tune
from ray.tune.logger import CSVLoggerCallback

import aspo_rllib  # noqa: F401  repairs Tune's logger


class Scores(tune.Trainable):
    """Fails once after two iterations. After that its results have another order and other names."""

    def setup(self, config):
        self.failed_before = Path(config["folder"], "failed")

    def step(self):
        number = self.iteration + 1
        if self.failed_before.exists():
            return {"new": -1, "number": number, "nested": {"square": number**2}}
        if number == 3:
            self.failed_before.touch()
            raise RuntimeError("as planned")
        return {"nested": {"square": number**2}, "old": 7, "number": number}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "state.json").write_text(json.dumps({}))

    def load_checkpoint(self, checkpoint):
        pass


@pytest.mark.parametrize("callbacks", [[], [CSVLoggerCallback()]], ids=["plain", "with the logger as a callback"])
def test_rows_after_a_restore_stand_in_the_old_columns(ray_session, tmp_path, callbacks):
    run_config = tune.RunConfig(
        storage_path=str(tmp_path),
        name="run",
        stop={"training_iteration": 4},
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        callbacks=callbacks,
        verbose=0,
    )
    tuner = tune.Tuner(Scores, param_space={"folder": str(tmp_path)}, run_config=run_config)
    assert tuner.fit().num_errors == 1
    (result,) = tune.Tuner.restore(str(tmp_path / "run"), Scores, resume_errored=True).fit()
    assert not result.error
    with Path(result.path, "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["nested/square"], row["training_iteration"]) for row in rows] == [
        (str(n), str(n**2), str(n)) for n in (1, 2, 3, 4)
    ]
    assert [row["old"] for row in rows] == ["7", "7", "", ""]
    assert "new" not in rows[0]
