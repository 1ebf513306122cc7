"""The group of learners: returns weights as a handle, writes checkpoints on every rank, and fails on any error."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from aspo_rllib.learner.checkpoints import HF_FOLDER
from aspo_rllib.types import TrainBatch, UpdateResult
from aspo_rllib.watchdog import patience_s
from aspo_rllib.weights.object_store import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config.settings import ASPOSettings
    from aspo_rllib.learner.learner import ASPOTorchLearner

T = TypeVar("T")


class ASPOLearnerGroup(LearnerGroup):
    """RLlib's LearnerGroup for models that are too large to be gathered in one process as numpy arrays.

    It must be a subclass, because `EnvRunnerGroup.sync_weights` checks the type.
    """

    _weights: WeightsHandle | None = None
    config: ASPOSettings
    _workers: list[Any]  # actors

    def on_all(self, func: Callable[[Any], T]) -> list[T]:
        """Run `func(learner)` on every learner; returns the results by rank.

        The error of one learner is raised and ends all of them, which would otherwise wait forever in a collective.
        """
        if self.is_local:
            return [func(self._learner)]
        return self._gather([worker.apply.remote(func) for worker in self._workers])

    def update(  # type: ignore[override]
        self, *, batch: TrainBatch | None = None, batches: Sequence[TrainBatch] = (), **kwargs: Any
    ) -> list[UpdateResult]:
        """Run one update on every learner; see `ASPOTorchLearner.update`.

        batch: the batch of a local learner; batches: one batch per remote learner.
        """
        self._weights = None
        if self.is_local:
            return super().update(batch=batch, **kwargs)  # type: ignore[arg-type,return-value]
        data = [TrainingData(batch=b) for b in batches]  # type: ignore[arg-type]
        return self._gather([w.apply.remote(_update, d) for w, d in zip(self._workers, data, strict=True)])

    def _gather(self, refs: list[ray.ObjectRef[Any]]) -> list[Any]:
        """Wait for all results. An error, or no answer within `stage_timeout_s`, ends all learners and is raised."""
        limit = self.config.stage_timeout_s
        pending = refs
        try:
            while pending:
                done, pending = ray.wait(pending, timeout=patience_s(limit))
                ray.get(done)
                if not done:
                    silent = [rank for rank, ref in enumerate(refs) if ref in pending]
                    raise TimeoutError(f"No answer from learner(s) {silent} within stage_timeout_s={limit:g}.")
        except Exception:
            for worker in self._workers:
                ray.kill(worker)
            raise
        return ray.get(refs)

    def weights(self) -> WeightsHandle:
        """A handle to the current weights in the object store. Each version is exported only once."""
        if self._weights is None or not self._weights.refs:
            published: WeightsHandle = self.on_all(methodcaller("publish_weights"))[0]
            # Engines that got these weights by `send` recognize them by the identity and do not load them again.
            identity = self._weights.identity if self._weights else published.identity
            self._weights = replace(published, identity=identity)
        return self._weights

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None:
        """Connect all learners to these runners, for `send`."""
        self.on_all(methodcaller("connect", group, runners))

    def send(self) -> WeightsHandle:
        """Send the current weights to the runners of the last `connect`; returns the handle that they hold then."""
        handle: WeightsHandle = self.on_all(methodcaller("send_weights"))[0]
        self._weights = handle
        return handle

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The weights as a handle, for env runners. The optimizer's state is only in checkpoints."""
        if not self._check_component(COMPONENT_LEARNER, components, not_components):
            return {}
        handle = self._weights or self.weights()  # weights that were sent are not also published
        return {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: handle, WEIGHTS_SEQ_NO: handle.version}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Load the weights of a handle from `get_state`."""
        if COMPONENT_LEARNER in state:
            handle = state[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
            self._weights = None
            self.on_all(lambda learner: learner.load_weights(handle))

    def save_to_path(  # type: ignore[override]
        self, path: str | Path, *, state: Any = None, filesystem: Any = None, use_msgpack: bool = False
    ) -> str:
        """Write the training state below `path`: every rank writes its shards.

        Raises the error of any rank that fails, and RuntimeError if a learner on another node cannot access `path`.
        """
        path = Path(path).resolve()
        path.mkdir(parents=True, exist_ok=True)
        blind = [rank for rank, sees in enumerate(self.on_all(lambda learner: path.is_dir())) if not sees]
        if blind:
            raise RuntimeError(
                f"Learner(s) {blind} cannot access {path}: their part of the checkpoint would be lost with the nodes. "
                "Set TMPDIR to a folder that all nodes share, or keep the learners on one node."
            )
        self.on_all(lambda learner: learner.save_checkpoint(path))
        return str(path)

    def export(self, path: str | Path) -> None:
        """Write the Hugging Face folder of the current weights below a `path` of `save_to_path`."""
        folder = Path(path).resolve() / HF_FOLDER
        self.on_all(lambda learner: learner.export(folder))

    def restore_from_path(
        self, path: str | Path, *, component: str | None = None, filesystem: Any = None, **kwargs: Any
    ) -> None:
        """Load a checkpoint of `save_to_path`. The number of learners may differ from the one that wrote it."""
        path = Path(path).resolve()
        self._weights = None
        self.on_all(lambda learner: learner.load_checkpoint(path))


def _update(learner: ASPOTorchLearner, data: TrainingData) -> UpdateResult:
    return learner.update(training_data=data)
