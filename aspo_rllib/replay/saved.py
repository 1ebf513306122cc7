"""Batches of rollouts on disk: `rollouts/iteration_000012.parquet` in the trial's folder, one row per completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray import cloudpickle

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.evaluate.samples import COLUMNS as SAMPLE_COLUMNS
from aspo_rllib.evaluate.samples import completion_rows, write_table
from aspo_rllib.types import Rollout, RolloutGroup

FOLDER = "rollouts"
COLUMNS = SAMPLE_COLUMNS | {
    "position": pa.int64(),
    "advantage": pa.float32(),
    "weights_version": pa.int64(),
    "prompt_ids": pa.list_(pa.int32()),
    "completion_ids": pa.list_(pa.int32()),
    "sampler_logprobs": pa.list_(pa.float32()),
}
# Keys of the file's schema metadata.
_CONFIG, _VERSION = b"aspo_rllib.config", b"aspo_rllib.weights_version"


@dataclass(frozen=True)
class SavedBatch:
    """What an iteration trained on.

    iteration: counts from 1.
    weights_version: the learner's before the update. With `max_staleness` the rollouts may be of older weights.
    config: the run's.
    groups: all that were sampled, also those that the update left out.
    """

    iteration: int
    weights_version: int
    config: ASPOSettings
    groups: Sequence[RolloutGroup]

    def write(self, trial_folder: Path, advantages: Mapping[int, np.ndarray], *, keep: int) -> None:
        """Write the batch into the trial's folder, and delete all but the latest `keep` batches there.

        advantages: those of the groups that are trained on, by position; to be read, since a replay computes them.
        """
        folder = trial_folder / FOLDER
        facts = {_CONFIG: cloudpickle.dumps(self.config), _VERSION: str(self.weights_version).encode()}
        write_table(folder / _file_name(self.iteration), _rows(self.groups, advantages), COLUMNS, facts)
        for path in _files(trial_folder)[:-keep]:
            path.unlink()

    @classmethod
    def read(cls, trial_folder: Path, iteration: int | None = None) -> SavedBatch:
        """Read the batch of an iteration; None: of the last one. Raises ValueError if it is not there."""
        files = _files(trial_folder)
        if not files:
            raise ValueError(
                f"{trial_folder}: there is no {FOLDER}/iteration_*.parquet. Train with .debugging(saved_batches=...), "
                "or --set saved_batches=20 on the command line."
            )
        saved = {int(path.stem.rpartition("_")[2]): path for path in files}
        iteration = max(saved) if iteration is None else iteration
        if iteration not in saved:
            raise ValueError(f"iteration={iteration}: {trial_folder / FOLDER} has those of {_ranges(sorted(saved))}.")
        table = pq.read_table(saved[iteration])
        facts = table.schema.metadata
        return cls(iteration, int(facts[_VERSION]), cloudpickle.loads(facts[_CONFIG]), _groups(table.to_pylist()))


def find_trial(run: Path) -> Path:
    """The folder with saved batches: `run` itself, or its only trial that has some. Raises ValueError otherwise."""
    if not run.is_dir():
        raise ValueError(f"{run}: there is no such folder; expected a trial's folder, or that of an experiment.")
    trials = sorted({path.parent.parent for path in run.glob(f"*/{FOLDER}/iteration_*.parquet")})
    if _files(run) or not trials:
        return run
    if len(trials) > 1:
        raise ValueError(f"{run}: several trials have saved batches; give one of {', '.join(map(str, trials))}.")
    return trials[0]


def _file_name(iteration: int) -> str:
    return f"iteration_{iteration:06d}.parquet"


def _files(trial_folder: Path) -> list[Path]:
    return sorted((trial_folder / FOLDER).glob("iteration_*.parquet"))


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers as text: 1-3, 7."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _rows(groups: Sequence[RolloutGroup], advantages: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for group in groups:
        unused = np.full(len(group.rollouts), np.nan)
        for row, rollout, advantage in zip(
            completion_rows([group]), group.rollouts, advantages.get(group.position, unused), strict=True
        ):
            more = {
                "position": group.position,
                "advantage": None if np.isnan(advantage) else float(advantage),
                "weights_version": rollout.weights_version,
                "prompt_ids": rollout.prompt_ids,
                "completion_ids": rollout.completion_ids,
                "sampler_logprobs": rollout.sampler_logprobs,
            }
            rows.append(row | more)
    return rows


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[RolloutGroup]:
    groups = []
    for position, rows_of_group in groupby(rows, key=lambda row: row["position"]):
        members = list(rows_of_group)
        rollouts = tuple(map(_rollout, members))
        groups.append(RolloutGroup(position, members[0]["index"], members[0]["prompt"], rollouts))
    return groups


def _rollout(row: Mapping[str, Any]) -> Rollout:
    return Rollout(
        prompt_ids=np.array(row["prompt_ids"], np.int32),
        completion_ids=np.array(row["completion_ids"], np.int32),
        sampler_logprobs=np.array(row["sampler_logprobs"], np.float32),
        finish_reason=row["finish_reason"],
        completion=row["completion"],
        reward=row["reward"],
        correct=row["correct"],
        weights_version=row["weights_version"],
        info={name: row[name] for name in ("data_source", "difficulty", "extracted", "grade_status")},
        repetition_frac=row["repetition"],
        rewards=dict(row["rewards"] or ()),
    )
