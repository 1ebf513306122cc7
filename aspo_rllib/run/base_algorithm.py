"""The base class of an algorithm on text rollouts: what RLlib and Tune need besides the training step in `aspo.py`."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    EVALUATION_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.train import Checkpoint

from aspo_rllib.config.env_creators import EnvCreator, env_creator_of
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.internals import checkpoint_of
from aspo_rllib.learner.checkpoints import whole_folder
from aspo_rllib.learner.group import ASPOLearnerGroup
from aspo_rllib.rollout.stats import rollout_metrics
from aspo_rllib.run import provenance
from aspo_rllib.run.trial_folder import trial_folder
from aspo_rllib.run.tune_table import table_values
from aspo_rllib.types import RolloutGroup
from aspo_rllib.watchdog import watch

HELD_OUT_ACCURACY = "held_out_accuracy"


class TextAlgorithm(Algorithm):
    """RLlib's Algorithm with the latest evaluation in every result, and with atomic checkpoints."""

    config: ASPOSettings
    metrics: MetricsLogger
    env_runner_group: EnvRunnerGroup
    learner_group: ASPOLearnerGroup
    iterations_trained: int
    weights_version: int
    # Callbacks read these: the groups of the last batch, the advantages of the groups that were trained on (by
    # position), the histograms of the last update's token weights ("weight/pos", "weight/neg"; {} without an update),
    # and the groups of the last evaluation (by the set's name).
    latest_groups: list[RolloutGroup]
    latest_advantages: dict[int, np.ndarray]
    latest_histograms: dict[str, np.ndarray]
    latest_evaluation_groups: dict[str, list[RolloutGroup]]
    _latest_evaluation: dict[str, Any]

    def setup(self, config: ASPOSettings) -> None:  # type: ignore[override]
        self.iterations_trained = self.weights_version = 0
        self.latest_groups, self.latest_advantages, self.latest_histograms = [], {}, {}
        self.latest_evaluation_groups, self._latest_evaluation = {}, {}
        super().setup(config)

    def on_checkpoint(self, checkpoint: str | Path | Checkpoint) -> None:
        """Called after this algorithm was saved to the checkpoint, or restored from it."""

    def step(self) -> dict[str, Any]:
        """Run one iteration. Every result contains the latest evaluation, for Tune's schedulers and loggers."""
        at_start: dict[str, Any] = {}
        if self.iteration == 0 and self.config.evaluation_interval and self.config.evaluate_before_training:
            self._latest_evaluation = {**self.evaluate(), "iteration": 0}
            at_start = {f"{EVALUATION_RESULTS}_at_start": self._latest_evaluation}
        # Otherwise RLlib would repeat the keys of this evaluation as NaN in every result.
        self.metrics.delete(EVALUATION_RESULTS, key_error=False)  # type: ignore[arg-type]
        start = time.perf_counter()
        results = super().step()
        seconds = time.perf_counter() - start
        if EVALUATION_RESULTS in results:
            self._latest_evaluation = {**results[EVALUATION_RESULTS], "iteration": self.iteration + 1}
        if not self._latest_evaluation:
            return table_values(results, seconds) | results
        # At the top, too, for CheckpointConfig(checkpoint_score_attribute=...), which finds no nested name.
        latest = self._latest_evaluation
        top = {HELD_OUT_ACCURACY: latest["accuracy"]} if "accuracy" in latest else {}
        results = {**results, **at_start, **top, EVALUATION_RESULTS: latest}
        return table_values(results, seconds) | results

    @staticmethod
    def _get_env_id_and_creator(env_specifier: Any, config: AlgorithmConfig) -> tuple[Any, EnvCreator]:
        assert env_specifier == config.env
        return env_specifier, env_creator_of(config)

    def __repr__(self) -> str:
        # RLlib's version needs the config, which does not exist yet if __init__ raises. It would hide the first error.
        if not self.config:
            return type(self).__name__
        return str(super().__repr__())  # type: ignore[no-untyped-call]

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> RLModule | None:
        """The policy's module in the local learner, or None if `module_id` is unknown. `.policy.hf_model` generates.

        Raises RuntimeError with `num_learners` above 0: the weights are then in other processes.
        """
        if self.learner_group.is_remote:
            raise RuntimeError(
                f"num_learners={self.config.num_learners}: the policy is in the learners' processes, and get_module() "
                "returns that of a learner in this process (num_learners=0). Use algo.learner_group.on_all(f), which "
                "calls f(learner) on every learner, whose policy is learner.policy; or algo.save_to_path(folder), and "
                "load the model from folder/learner_group/hf."
            )
        modules: MultiRLModule = self.learner_group.on_all(lambda learner: learner.module)[0]
        return modules.get(module_id)

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: AlgorithmConfig) -> bool:
        return False  # evaluation runs on the training runners

    # ---- logging ---------------------------------------------------------------------------------------------

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        log_time = self.metrics.log_time(("time", f"{stage}_s"), reduce="mean", window=1)
        with log_time, watch(f"training_step, {stage}", self.config.stage_timeout_s):
            yield

    def _log(self, values: Mapping[str, Any]) -> None:
        _log_means(self.metrics, values)

    def _log_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Log the metrics of a batch, under our names and under the names that RLlib's users expect."""
        metrics = rollout_metrics(groups)
        rollouts = [r for g in groups for r in g.rollouts]
        tokens = {
            "tokens/completion": sum(len(r.completion_ids) for r in rollouts),
            "tokens/prompt": sum(len(r.prompt_ids) for r in rollouts),
        }
        episodes = {
            f"{ENV_RUNNER_RESULTS}/{EPISODE_RETURN_MEAN}": metrics["reward/mean"],
            f"{ENV_RUNNER_RESULTS}/{EPISODE_LEN_MEAN}": metrics["length/mean"],
        }
        self._log(metrics | tokens | episodes)
        for name, reduce in (
            (NUM_EPISODES, "sum"),
            (NUM_ENV_STEPS_SAMPLED, "sum"),
            (NUM_ENV_STEPS_SAMPLED_LIFETIME, "lifetime_sum"),
        ):
            self.metrics.log_value((ENV_RUNNER_RESULTS, name), len(rollouts), reduce=reduce)

    def _log_runner_reports(self, reports: Collection[tuple[dict[str, Any], dict[str, float]]]) -> None:
        """Log what users' callbacks logged on the runners, and the time of the slowest runner in each stage."""
        self.metrics.aggregate([metrics for metrics, _ in reports], key=ENV_RUNNER_RESULTS)
        for stage in ("generate_s", "grade_s"):
            self._log({f"time/{stage}": max((times[stage] for _, times in reports), default=math.nan)})

    def log_evaluation(self, results: Mapping[str, float]) -> None:
        """Log the results of an evaluation under `evaluation/`."""
        logger = MetricsLogger(root=False)
        _log_means(logger, results)
        self.metrics.aggregate([logger.reduce()], key=EVALUATION_RESULTS)

    def _write_provenance(self, **facts: Any) -> None:
        provenance.write(trial_folder(self), config=self.config.to_dict(), **facts)

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        return state | {"iterations_trained": self.iterations_trained, "latest_evaluation": self._latest_evaluation}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.iterations_trained = state["iterations_trained"]
        self._latest_evaluation = state["latest_evaluation"]

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """Write a checkpoint atomically: RLlib's state, the learners' shards, and by `export` a loadable model.

        transformers and vLLM can load that model from `<path>/learner_group/hf`.
        """
        path = Path(path if path is not None else tempfile.mkdtemp()).resolve()
        with whole_folder(path) as partial:
            super().save_to_path(partial, **kwargs)
            # Not in the background: Tune copies the folder when this returns, and callbacks may upload the copy.
            if self.config.exports(self.iteration):
                self.learner_group.export(partial / COMPONENT_LEARNER_GROUP)
        self.on_checkpoint(path)
        return str(path)

    @classmethod
    def from_checkpoint(cls, path: str | Path | Checkpoint, filesystem: Any = None, **kwargs: Any) -> Self:
        """A new algorithm that goes on from a checkpoint of `save_to_path` or of Tune. Relative paths are legal."""
        if filesystem is None:
            path = _absolute(path)
        algorithm = super().from_checkpoint(path, filesystem=filesystem, **kwargs)  # type: ignore[arg-type]
        assert isinstance(algorithm, cls)
        return algorithm

    def restore_from_path(self, path: str | Path, *args: Any, filesystem: Any = None, **kwargs: Any) -> None:
        if filesystem is None:
            path = _absolute(path)
        super().restore_from_path(path, *args, filesystem=filesystem, **kwargs)  # type: ignore[no-untyped-call]

    # Tune calls these two. They call RLlib's methods with temporary folders; only here is the final checkpoint known.
    def save(self, checkpoint_dir: str | None = None) -> Any:
        result = super().save(checkpoint_dir)
        assert result.checkpoint is not None
        self.on_checkpoint(result.checkpoint)
        return result

    def restore(self, checkpoint_path: Any) -> None:
        super().restore(checkpoint_path)
        checkpoint = checkpoint_of(checkpoint_path)
        assert checkpoint is not None
        self.on_checkpoint(checkpoint)


def _absolute(path: Any) -> Any:
    """A folder's path without "." and "..", which pyarrow refuses; other places, such as s3://..., as they are."""
    is_folder = isinstance(path, Path) or (isinstance(path, str) and "://" not in path)
    return str(Path(path).resolve()) if is_folder else path


def _log_means(logger: MetricsLogger, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        logger.log_value(tuple(name.split("/")), float(value), reduce="mean", window=1)
