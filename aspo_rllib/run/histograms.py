"""Histograms of rewards, completion lengths and token weights in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib.learner.tally import WEIGHT_EDGES
from aspo_rllib.run.trial_folder import trial_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from aspo_rllib.run.base_algorithm import TextAlgorithm

FOLDER = "histograms"


class HistogramsCallback(RLlibCallback):
    """Writes histograms of every iteration for TensorBoard. The scripts in `tuned_examples/` use it.

    `.callbacks(HistogramsCallback)` writes into the folder `histograms` of the trial, which TensorBoard shows as a run:

    - `reward` and `length`: the rewards, and the completions' lengths in tokens, of the sampled batch;
    - `weight/pos` and `weight/neg`: token weights of the update, of completions with positive and with negative
      advantage. The first bucket, up to 0, has the tokens that the clip masks.
    """

    _writer: SummaryWriter | None = None

    def on_train_result(self, *, algorithm: TextAlgorithm, **kwargs: Any) -> None:
        rollouts = [rollout for group in algorithm.latest_groups for rollout in group.rollouts]
        if not rollouts:
            return
        writer, iteration = self._open(algorithm), algorithm.iterations_trained
        writer.add_histogram("reward", np.array([r.reward for r in rollouts]), iteration)
        writer.add_histogram("length", np.array([len(r.completion_ids) for r in rollouts]), iteration)
        for name, counts in algorithm.latest_histograms.items():
            if counts.any():
                writer.add_histogram_raw(name, **_raw(counts), global_step=iteration)
        writer.flush()

    def _open(self, algorithm: TextAlgorithm) -> SummaryWriter:
        if self._writer is None:
            # Imported here, because the copies of this callback on the runners do not need it.
            from torch.utils.tensorboard import SummaryWriter

            # In a folder of its own: of two event files in one folder TensorBoard follows only the newer one.
            self._writer = SummaryWriter(str(trial_folder(algorithm) / FOLDER))
        return self._writer


def _raw(counts: np.ndarray) -> dict[str, Any]:
    """The arguments of `add_histogram_raw`. Sums are computed as if each weight was its bucket's upper edge."""
    edges, filled = np.array(WEIGHT_EDGES), np.flatnonzero(counts)
    edges, counts = edges[: filled[-1] + 1], counts[: filled[-1] + 1]
    return {
        "min": edges[filled[0]],
        "max": edges[-1],
        "num": counts.sum(),
        "sum": edges @ counts,
        "sum_squares": edges**2 @ counts,
        "bucket_limits": edges.tolist(),
        "bucket_counts": counts.tolist(),
    }
