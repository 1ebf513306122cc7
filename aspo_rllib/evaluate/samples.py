"""Completions as a readable table: prompt, completion, extracted answer and reward."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib.run.trial_folder import trial_folder
from aspo_rllib.types import RolloutGroup

if TYPE_CHECKING:
    from aspo_rllib.run.base_algorithm import TextAlgorithm

FOLDER = "samples"

COLUMNS = {
    "index": pa.int64(),
    "sample": pa.int64(),
    "data_source": pa.string(),
    "difficulty": pa.string(),
    "prompt": pa.string(),
    "completion": pa.string(),
    "extracted": pa.string(),
    "reward": pa.float64(),
    "rewards": pa.map_(pa.string(), pa.float64()),
    "correct": pa.bool_(),
    "grade_status": pa.string(),
    "finish_reason": pa.string(),
    "num_tokens": pa.int64(),
    "repetition": pa.float64(),
}


def completion_rows(groups: Iterable[RolloutGroup]) -> list[dict[str, Any]]:
    """One row per completion, with `COLUMNS`. Values that are missing in the env's info are None.

    index: the task's index in the env.
    sample: the completion's number in its group.
    rewards: the named components of the reward, as pairs; None if it has none.
    num_tokens: length of the completion.
    """
    return [
        {
            "index": group.index,
            "sample": sample,
            "data_source": _text(rollout.info.get("data_source")),
            "difficulty": _text(rollout.info.get("difficulty")),
            "prompt": group.prompt,
            "completion": rollout.completion,
            "extracted": _text(rollout.info.get("extracted")),
            "reward": rollout.reward,
            "rewards": list(rollout.rewards.items()) or None,
            "correct": rollout.correct,
            "grade_status": _text(rollout.info.get("grade_status")),
            "finish_reason": rollout.finish_reason,
            "num_tokens": len(rollout.completion_ids),
            "repetition": rollout.repetition_frac,
        }
        for group in groups
        for sample, rollout in enumerate(group.rollouts)
    ]


def write_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, pa.DataType],
    metadata: Mapping[bytes, bytes] | None = None,
) -> None:
    """Write rows as a parquet file, atomically. metadata: goes into the file's schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")  # readers of the folder ignore names that begin with a dot
    schema = pa.schema(columns.items(), metadata=metadata)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)
    os.replace(partial, path)


class SamplesCallback(RLlibCallback):
    """Writes some completions of every evaluation, and of some training batches, to read them.

    `.callbacks(SamplesCallback)` writes `samples/evaluation_000010.parquet` and `samples/training_000010.parquet` into
    the trial's folder (the number is the iteration after which they were sampled), and the same into TensorBoard, under
    Text. The columns are `COLUMNS`, and `set` (the evaluation set) or `advantage` (None if the group was dropped).

    Subclass it to change how many prompts, completions of each, and training batches are kept.
    """

    num_prompts = 4
    completions_per_prompt = 2
    training_interval = 10  # iterations

    def on_evaluate_end(self, *, algorithm: TextAlgorithm, **kwargs: Any) -> None:
        rows = [
            {**row, "set": name}
            for name, groups in algorithm.latest_evaluation_groups.items()
            for row in self._first(groups)
        ]
        self._write(algorithm, "evaluation", rows, COLUMNS | {"set": pa.string()})

    def on_train_result(self, *, algorithm: TextAlgorithm, **kwargs: Any) -> None:
        if algorithm.iterations_trained % self.training_interval:
            return
        rows = [
            {**row, "advantage": _advantage(algorithm.latest_advantages.get(group.position), row["sample"])}
            for group in algorithm.latest_groups[: self.num_prompts]
            for row in self._first([group])
        ]
        self._write(algorithm, "training", rows, COLUMNS | {"advantage": pa.float64()})

    def _first(self, groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
        rows = completion_rows(groups[: self.num_prompts])
        return [row for row in rows if row["sample"] < self.completions_per_prompt]

    def _write(
        self, algorithm: TextAlgorithm, name: str, rows: list[dict[str, Any]], columns: Mapping[str, pa.DataType]
    ) -> None:
        folder, iteration = trial_folder(algorithm) / FOLDER, algorithm.iterations_trained
        write_table(folder / f"{name}_{iteration:06d}.parquet", rows, columns)
        # Imported here, because the copies of this callback on the runners do not need it.
        from torch.utils.tensorboard import SummaryWriter

        # The event file is in a separate folder, which TensorBoard shows as a run. Of two event files in one folder
        # TensorBoard follows only the newer one, and would no longer update Tune's.
        with SummaryWriter(str(folder)) as writer:
            writer.add_text(name, as_markdown(rows), global_step=iteration)


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown: for each a line of its other values, then prompt and completion unchanged."""
    return "\n\n".join(_row_as_markdown(row) for row in rows)


def _row_as_markdown(row: Mapping[str, Any]) -> str:
    shown = {**row, **{f"reward {name!r}": value for name, value in row.get("rewards") or ()}}
    names = ("set", "index", "sample", "correct", "reward", *list(shown)[len(row) :])
    names += ("advantage", "extracted", "grade_status")
    facts = ", ".join(f"{name} {shown[name]}" for name in names if shown.get(name) is not None)
    return f"**{facts}**\n\n{_code_block(row['prompt'])}\n\n{_code_block('→ ' + row['completion'])}"


def _code_block(text: str) -> str:
    # The text is indented and not fenced, since a completion may contain any fence.
    return "\n".join(f"    {line}" for line in text.splitlines())


def _advantage(advantages: np.ndarray | None, sample: int) -> float | None:
    return None if advantages is None else float(advantages[sample])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
