"""Runs a saved batch through the learner again, from the weights that the run had then, or from the nearest ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ray.rllib.core import COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.tune.utils import flatten_dict

from aspo_rllib.config.assign import assign
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.learner.checkpoints import saved_weights_version
from aspo_rllib.learner.shaping import shape_batch
from aspo_rllib.learner.tally import merge_updates
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.replay.recorder import Step, StepRecorder
from aspo_rllib.replay.saved import SavedBatch
from aspo_rllib.types import Rollout, RolloutGroup
from envs.text_env import TextSpace

# A replay has one learner, on the CPU, and no engine. `assignments` may set these again.
_ALONE = {
    "num_learners": 0,
    "num_gpus_per_learner": 0,
    "num_gpus_per_env_runner": 0,
    "tensor_parallel_size": 1,
    "compile_learner": False,
    "cpu_offload": False,
    "sleep": None,
    "weight_transport": "auto",
}


@dataclass(frozen=True)
class Start:
    """The weights that a replay begins with. path: of the checkpoint; None: the initial model."""

    path: Path | None
    iteration: int
    weights_version: int


@dataclass(frozen=True)
class Replay:
    """A batch and its update.

    config: the run's, for one learner alone, with the replay's changes.
    start: the weights that the update began with, after those batches that were caught up on.
    rollouts: by their number in the update, with their group and their number in it.
    metrics: of the whole update, by the names in a result of `train()`.
    of_run: the numbers of the run's own result; {} if it is not there.
    """

    batch: SavedBatch
    config: ASPOSettings
    start: Start
    steps: list[Step]
    rollouts: list[tuple[RolloutGroup, int, Rollout]]
    advantages: list[float]
    metrics: dict[str, float]
    of_run: dict[str, Any]


def replay(
    trial: Path,
    iteration: int | None = None,
    *,
    checkpoint: Path | None = None,
    catch_up: bool = False,
    assignments: Sequence[str] = (),
) -> Replay:
    """Replay the batch of an iteration, by default of the last one that is saved.

    Args:
        trial: the trial's folder.
        checkpoint: where the weights come from. None: the latest checkpoint in the trial's folder that was written
            before the iteration, or the initial model if there is none.
        catch_up: replay the saved batches between that checkpoint and the iteration first.
        assignments: changes of the run's settings, as texts `field=value`.

    Raises ValueError if a file is missing, for a setting that is not legal, and if the batch teaches nothing.
    """
    batch = SavedBatch.read(trial, iteration)
    start = _start(checkpoint) if checkpoint else find_start(trial, batch.iteration)
    missed = range(start.iteration + 1, batch.iteration) if catch_up else ()
    earlier = [SavedBatch.read(trial, number) for number in missed]
    config = _config(batch.config, assignments)
    learner = _build_learner(config)
    if start.path is not None:
        learner.load_checkpoint(start.path / COMPONENT_LEARNER_GROUP)
    for one in earlier:
        _update(learner, config, one)
    start = Start(start.path, start.iteration, learner.weights_version)
    learner.steps.clear()
    updated = _update(learner, config, batch)
    if updated is None:
        raise ValueError(f"iteration={batch.iteration}: no group of this batch teaches anything, so it had no update.")
    metrics, rollouts, advantages = updated
    lowest = [step.metrics["ratio/min"] for step in learner.steps if "ratio/min" in step.metrics]
    metrics |= {"ratio/min": min(lowest)} if lowest else {}
    of_run = _result(trial, batch.iteration)
    return Replay(batch, config, start, learner.steps, rollouts, advantages, metrics, of_run)


def find_start(trial: Path, iteration: int) -> Start:
    """The latest checkpoint in a trial's folder from before an iteration; the initial model if there is none."""
    found = [_start(state.parent) for state in trial.glob("checkpoint_*/algorithm_state.pkl")]
    before = [start for start in found if start.iteration < iteration]
    return max(before, key=lambda start: start.iteration, default=Start(None, 0, 0))


def _start(checkpoint: Path) -> Start:
    state = checkpoint / "algorithm_state.pkl"
    if not state.is_file():
        raise ValueError(f"checkpoint={str(checkpoint)!r}: expected the folder of a checkpoint, with {state.name}.")
    iteration = pickle.loads(state.read_bytes())["iterations_trained"]
    return Start(checkpoint, iteration, saved_weights_version(checkpoint / COMPONENT_LEARNER_GROUP))


def _config(of_run: ASPOSettings, assignments: Sequence[str]) -> ASPOSettings:
    config = of_run.copy(copy_frozen=False)
    for name, value in _ALONE.items():
        setattr(config, name, value)
    assign(config, assignments)
    try:
        config.validate()
    except ValueError as error:
        raise ValueError(f"{error} Change the run's settings for the replay with --set FIELD=VALUE.") from error
    return config


def _build_learner(config: ASPOSettings) -> StepRecorder:
    """The run's learner in this process, without Ray, with a recorder of its steps."""
    spec = config.get_multi_rl_module_spec(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    learner_class = type("RecordingLearner", (StepRecorder, config.learner_class), {})
    learner = cast(StepRecorder, learner_class(config=config, module_spec=spec))
    learner.build()
    return learner


def _update(
    learner: StepRecorder, config: ASPOSettings, batch: SavedBatch
) -> tuple[dict[str, float], list[tuple[RolloutGroup, int, Rollout]], list[float]] | None:
    """One update; returns its metrics, and the rollouts with their advantages. None if no group is left to train on."""
    batches = shape_batch(batch.groups, config, LAYOUTS[learner.layout]).batches
    if not batches:
        return None
    (train_batch,) = batches
    # A TrainBatch has the arrays of the rollouts themselves.
    known = {
        id(rollout.completion_ids): (group, number, rollout)
        for group in batch.groups
        for number, rollout in enumerate(group.rollouts)
    }
    result = learner.update(training_data=TrainingData(batch=train_batch))  # type: ignore[arg-type]
    return merge_updates([result]), [known[id(ids)] for ids in train_batch.completion_ids], [*train_batch.advantages]


def _result(trial: Path, iteration: int) -> dict[str, Any]:
    """The run's result of an iteration, with names joined by "/"; {} without one, as of an iteration that failed."""
    path = trial / "result.json"
    results = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
    found = [result for result in results if result.get("training_iteration") == iteration]
    return flatten_dict(found[-1]) if found else {}
