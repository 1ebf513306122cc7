"""The folder for the results of a run."""

from __future__ import annotations

from pathlib import Path

from pyarrow.fs import LocalFileSystem
from ray.rllib.algorithms.algorithm import Algorithm

from aspo_rllib.internals import trial_storage


def trial_folder(algorithm: Algorithm) -> Path:
    """The folder of the run's results. Under Tune this is the trial's folder, which also has its progress.csv.

    If Tune's storage is not a local file system (but a bucket), this is the trial's working directory. Tune copies that
    to the storage with `RunConfig(sync_config=SyncConfig(sync_artifacts=True))`.
    """
    # Under Tune, logdir is a temporary folder, which is not kept by default.
    storage = trial_storage(algorithm)
    if storage is not None and isinstance(storage.storage_filesystem, LocalFileSystem):
        folder = Path(storage.trial_fs_path)
    else:
        folder = Path(algorithm.logdir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
