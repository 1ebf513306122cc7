"""Where a run keeps its results."""

from __future__ import annotations

from pathlib import Path

from pyarrow.fs import LocalFileSystem
from ray.rllib.algorithms.algorithm import Algorithm


def trial_folder(algorithm: Algorithm) -> Path:
    """The folder of the run's results: under Tune the trial's, beside its progress.csv.

    Where Tune's storage is no file system (a bucket), this is the trial's working directory, which Tune copies there if
    told to: `RunConfig(sync_config=SyncConfig(sync_artifacts=True))`.
    """
    # logdir alone is a temporary folder under Tune, and none of it is kept by default.
    storage = algorithm._storage
    if storage is not None and isinstance(storage.storage_filesystem, LocalFileSystem):
        folder = Path(storage.trial_fs_path)
    else:
        folder = Path(algorithm.logdir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
