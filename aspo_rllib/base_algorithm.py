"""What RLlib and Tune want of an algorithm on text rollouts besides its training step: `aspo.py` has that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.metrics import EVALUATION_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.train import Checkpoint
from ray.train._internal.checkpoint_manager import _TrainingResult

from aspo_rllib.checkpoints import whole_folder
from aspo_rllib.config import ASPOConfig
from aspo_rllib.env_creators import EnvCreator, env_creator_of
from aspo_rllib.watchdog import watch

HELD_OUT_ACCURACY = "held_out_accuracy"


class TextAlgorithm(Algorithm):
    """RLlib's Algorithm with the latest evaluation in every result, and checkpoints that are whole or not there."""

    config: ASPOConfig
    metrics: MetricsLogger
    _latest_evaluation: dict[str, Any]

    def on_checkpoint(self, checkpoint: str | Path | Checkpoint) -> None:
        """Called when all of this has been written there, or restored from there."""

    def step(self) -> dict[str, Any]:
        """RLlib's iteration. Every result carries the latest evaluation, for Tune's schedulers and loggers."""
        at_start: dict[str, Any] = {}
        if self.iteration == 0 and self.config.evaluation_interval and self.config.evaluate_before_training:
            self._latest_evaluation = {**self.evaluate(), "iteration": 0}
            at_start = {f"{EVALUATION_RESULTS}_at_start": self._latest_evaluation}
        # Else RLlib would repeat this evaluation's keys as NaN in every result.
        self.metrics.delete(EVALUATION_RESULTS, key_error=False)  # type: ignore[arg-type]
        results = super().step()
        if EVALUATION_RESULTS in results:
            self._latest_evaluation = {**results[EVALUATION_RESULTS], "iteration": self.iteration + 1}
        if not self._latest_evaluation:
            return results
        # At the top, too, for CheckpointConfig(checkpoint_score_attribute=...), which finds no nested name.
        top = {HELD_OUT_ACCURACY: self._latest_evaluation["accuracy"]}
        return {**results, **at_start, **top, EVALUATION_RESULTS: self._latest_evaluation}

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: AlgorithmConfig) -> tuple[Any, EnvCreator]:
        assert env_specifier == config.env
        return env_specifier, env_creator_of(config)

    def __repr__(self) -> str:
        # RLlib's needs the config, which is not there yet when __init__ raises: the actor would die of that instead.
        if not self.config:
            return type(self).__name__
        return str(super().__repr__())  # type: ignore[no-untyped-call]

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        return False  # evaluation runs on the training runners

    # ---- logging ---------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        log_time = self.metrics.log_time(("time", f"{stage}_s"), reduce="mean", window=1)
        with log_time, watch(f"training_step, {stage}", self.config.stage_timeout_s):
            yield

    def _log(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.metrics.log_value(tuple(name.split("/")), float(value), reduce="mean", window=1)

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """Write a checkpoint, whole or not at all: RLlib's state, the learners' shards, and a loadable model.

        `<path>/learner_group/hf` opens in transformers and vLLM.
        """
        path = Path(path if path is not None else tempfile.mkdtemp()).resolve()
        with whole_folder(path) as partial:
            super().save_to_path(partial, **kwargs)
        self.on_checkpoint(path)
        return str(path)

    # Tune's two, around RLlib's: the folders of those are temporary ones, the checkpoint is where Tune keeps it.
    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        result = super().save(checkpoint_dir)
        assert result.checkpoint is not None
        self.on_checkpoint(result.checkpoint)
        return result

    def restore(self, checkpoint_path: str | tune.Checkpoint | _TrainingResult) -> None:
        super().restore(checkpoint_path)
        checkpoint = checkpoint_path.checkpoint if isinstance(checkpoint_path, _TrainingResult) else checkpoint_path
        assert checkpoint is not None
        self.on_checkpoint(checkpoint)
