"""ASPO as an RLlib algorithm: the table of contents of the package."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import LEARNER_RESULTS
from ray.train import Checkpoint

from aspo_rllib.config import validation
from aspo_rllib.config.placement import engine_sleeps
from aspo_rllib.config.plan import describe_plan
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.doctor import preflight
from aspo_rllib.evaluate import in_training
from aspo_rllib.evaluate.sets import EvaluationSet, load_report, open_sets, print_load_report
from aspo_rllib.learner.advantages import resolve_advantage
from aspo_rllib.learner.group import ASPOLearnerGroup
from aspo_rllib.learner.learner import ASPOTorchLearner
from aspo_rllib.learner.rl_module import CausalLMModule
from aspo_rllib.learner.shaping import shape_batch
from aspo_rllib.learner.tally import merge_histograms, merge_updates
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.replay.saved import SavedBatch
from aspo_rllib.rollout.env_runner import TextEnvRunner
from aspo_rllib.rollout.pool import RunnerPool
from aspo_rllib.rollout.prompts import PromptEncoder, first_prompts, load_tokenizer, prompts_of, task_hashes
from aspo_rllib.rollout.queue import RolloutQueue
from aspo_rllib.rollout.stats import failure_metrics, staleness_metrics
from aspo_rllib.rollout.task_order import TaskOrder
from aspo_rllib.run import health
from aspo_rllib.run.base_algorithm import TextAlgorithm
from aspo_rllib.run.rollback import NumbersGuard
from aspo_rllib.run.trial_folder import trial_folder
from aspo_rllib.types import RolloutGroup, TrainBatch
from aspo_rllib.weights.sync import Transport, check_engines, check_first_batch, make_transport

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


class ASPOConfig(ASPOSettings):
    """Settings of ASPO (arXiv 2510.06062) and of every method in `losses.LOSSES`.

    Fields that are None get the value of the method chosen by `loss`; `plan()` shows the resolved values.

    ```python
    config = (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
        .llm(model=aspo_rllib.TINY_MODEL, max_prompt_tokens=16)
        .sampling(group_size=16, max_completion_tokens=8)
        .training(batch_prompts=32, minibatch_prompts=8, num_epochs=2, lr=1e-4)
    )
    algo = config.build_algo()
    algo.train()
    ```
    """

    def __init__(self, algo_class: type[Algorithm] | None = None, **settings: Never) -> None:
        super().__init__(algo_class=algo_class or ASPO, **settings)
        # RLlib does not annotate these fields, so that mypy infers the type None from their defaults.
        self.env_runner_cls = TextEnvRunner  # type: ignore[assignment]
        self.custom_evaluation_function = ASPO.run_evaluation  # type: ignore[assignment]

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        model = {"model": self.llm_model, "trust_remote_code": self.trust_remote_code, "lora": self.lora}
        return RLModuleSpec(module_class=CausalLMModule, model_config=model)

    def get_default_learner_class(self) -> type[ASPOTorchLearner]:
        return ASPOTorchLearner

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] | None = None,
        rl_module_spec: RLModuleSpec | MultiRLModuleSpec | None = None,
        placement_group: PlacementGroup | None = None,
    ) -> ASPOLearnerGroup:
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return ASPOLearnerGroup(config=self.copy(), module_spec=spec, placement_group=placement_group)

    def plan(self) -> str:
        """A readable summary of what one iteration does, in a few lines."""
        return describe_plan(self)

    def validate(self) -> None:
        """Check every field. Raises ValueError with the field's name, its value and the legal range."""
        validation.check_lr(self)  # before RLlib's own check, which raises TypeError for some values
        super().validate()
        validation.check(self)
        resolve_advantage(self.method.advantage)  # an unknown one raises here, with the nearest name


class ASPO(TextAlgorithm):
    """Asymmetric Importance Sampling Policy Optimization (arXiv 2510.06062), or the related method of `config.loss`."""

    config: ASPOConfig
    # Made by `setup`, in the order in which an iteration uses them.
    prompts: PromptEncoder
    evaluation_sets: dict[str, EvaluationSet]
    task_order: TaskOrder
    runners: RunnerPool
    rollouts: RolloutQueue
    layout: str  # of the learners' batches, a name in LAYOUTS
    guard: NumbersGuard
    transport: Transport

    @classmethod
    def get_default_config(cls) -> ASPOConfig:
        return ASPOConfig()

    def training_step(self) -> None:
        """One iteration: sample -> advantages -> update -> sync. Each stage is timed.

        With `max_staleness` the runners sample the next batches during all stages, and `wait` is short.
        """
        with self._timed("wait"):
            groups = self._sample()
        with self._timed("batch"):
            batches = self._train_batches(groups)
            self._save_rollouts(groups)  # before the update, which may fail because of them
        if batches:
            with self._timed("update"):
                if engine_sleeps(self.config):
                    self.runners.sleep()
                metrics = self._update(batches)
            self._check_numbers(metrics)
            with self._timed("sync"):
                self._sync_weights()
                self._check_sync([g.rollouts[0].prompt_ids for g in groups])
        self._log_rollouts(groups)
        self.iterations_trained += 1

    def _sample(self) -> list[RolloutGroup]:
        """Get a whole batch of groups, each with enough graded rollouts to compare."""
        sampled = self.rollouts.next_batch()
        self._log(failure_metrics(sampled) | {"tasks/overlong": self.rollouts.num_overlong})
        groups = list(filter(self.rollouts.is_usable, sampled))
        self._log(staleness_metrics(groups, self.weights_version))
        return groups

    def _train_batches(self, groups: list[RolloutGroup]) -> list[TrainBatch]:
        """Filter groups on correctness, shape rewards and compute advantages; returns one batch per learner.

        Returns [] if no group is left after the filter.
        """
        shaped = shape_batch(groups, self.config, LAYOUTS[self.layout])
        self._log({"groups/used_frac": shaped.num_used / len(groups)})
        self.latest_groups, self.latest_histograms = groups, {}
        self.latest_advantages = shaped.advantages
        return shaped.batches

    def _save_rollouts(self, groups: list[RolloutGroup]) -> None:
        """Keep the batch on disk for `aspo_rllib.replay`, if `saved_batches` asks for it."""
        if self.config.saved_batches:
            batch = SavedBatch(self.iterations_trained + 1, self.weights_version, self.config, groups)
            batch.write(trial_folder(self), self.latest_advantages, keep=self.config.saved_batches)

    def _update(self, batches: list[TrainBatch]) -> dict[str, float]:
        """Run one update on every learner; returns its merged metrics."""
        # With remote learners, RLlib would split a single `batch` itself; therefore they get a list.
        batch = {"batches": batches} if self.learner_group.is_remote else {"batch": batches[0]}
        results = self.learner_group.update(**batch)
        metrics = merge_updates(results) | {
            "time/old_logprobs_s": max(r.old_logprobs_s for r in results),
            health.NONFINITE_WEIGHTS: sum(self.learner_group.on_all(health.num_nonfinite_weights)),
        }
        self._log(metrics)
        self.latest_histograms = merge_histograms(results)
        self.metrics.aggregate([r.learner_metrics for r in results], key=LEARNER_RESULTS)
        return metrics

    def _check_numbers(self, metrics: dict[str, float]) -> None:
        """Check an update before its weights are used. Raises BadNumbersError or restores a good checkpoint."""
        if not self.iterations_trained:
            check_first_batch(metrics["kl/sampler"], self.config)
        good = self.guard.check(metrics, self.config, self.iterations_trained)
        if good is not None:
            with good.as_directory() as folder:
                self.learner_group.restore_from_path(Path(folder) / COMPONENT_LEARNER_GROUP)
            # Tasks in progress are cancelled here, and sampled again after the sync of the restored weights.
            self.rollouts.set_state(self.rollouts.get_state())

    def _sync_weights(self) -> None:
        """Load the learner's weights into every runner in service, and wait until all have them."""
        handle = self.transport.send()
        self.weights_version = handle.version
        self._log({"sync/weights_version": handle.version, "sync/bytes": handle.num_bytes})

    def _check_sync(self, prompt_ids: Sequence[np.ndarray]) -> None:
        """Compare every engine's logprobs with the learner's on a few prompts. Raises SyncDriftError if they differ."""
        drift = check_engines(self.learner_group, self.runners, prompt_ids, self.config, self.weights_version)
        if drift is not None:
            self._log({"sync/max_abs_dlogp": drift})

    def _log_rollouts(self, groups: list[RolloutGroup]) -> None:
        self._log_groups(groups)
        self._log_runner_reports(self.runners.call(lambda runner: (runner.get_metrics(), runner.take_times())).values())
        counts = {"runners/in_service": len(self.runners.healthy), "runners/lost": self.runners.num_lost}
        self._log(counts | self.guard.counts() | {"tasks/position": self.task_order.position})

    @staticmethod
    def run_evaluation(algorithm: ASPO, eval_env_runner_group: object) -> tuple[dict[str, float], int, int]:
        """RLlib's `custom_evaluation_function`: results of all evaluation sets, env steps and agent steps."""
        groups = in_training.sample_sets(algorithm.runners, algorithm.evaluation_sets)
        results = in_training.summarize_sets(groups, named=bool(algorithm.config.eval_sets))
        algorithm.latest_evaluation_groups = {name: sampled.groups for name, sampled in groups.items()}
        algorithm.log_evaluation(results)
        num_completions = sum(len(g.rollouts) for sampled in groups.values() for g in sampled.groups)
        return results, num_completions, num_completions

    # ---- set-up ----------------------------------------------------------------------------------------------

    def setup(self, config: ASPOConfig) -> None:  # type: ignore[override]
        # Mistakes in env, model and tokenizer are found here, before any engine starts.
        preflight.check(self.config)
        tokenizer, _ = load_tokenizer(self.config)
        self.prompts = prompts_of(self.config, tokenizer)
        self.evaluation_sets = open_sets(self.config, lambda config: prompts_of(config, tokenizer))
        print(self.config.plan(), flush=True)
        data_report = load_report(self.prompts, self.evaluation_sets)
        print_load_report(data_report)
        super().setup(config)
        self.runners = RunnerPool(self.env_runner_group, self.config, self.learner_group.weights)
        self.runners.wait_for_engines()
        self.transport = make_transport(self.config, self.learner_group, self.runners)
        self.task_order = TaskOrder(len(self.prompts), seed=self.config.seed or 0)
        self.rollouts = RolloutQueue(self.runners, self.task_order, self.config, self.prompts.num_tokens)
        self.guard = NumbersGuard()
        self.layout = self.learner_group.on_all(lambda learner: learner.layout)[0]
        for line in self.learner_group.on_all(methodcaller("describe_layers"))[0]:
            print(f"  {line}", flush=True)
        self._write_provenance(plan=self.config.plan(), tasks=task_hashes(self.prompts), data=data_report)
        # RLlib skips its initial sync if connector states are not broadcast.
        self._sync_weights()
        self._check_sync(first_prompts(self.prompts, self.config))

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """Put restarted runners back into service. RLlib calls this before every iteration."""
        return self.runners.recover()

    def cleanup(self) -> None:
        self.runners.stop()  # before RLlib's cleanup, which would wait for a runner that hangs
        super().cleanup()
        for prompts in (self.prompts, *(s.prompts for s in self.evaluation_sets.values())):
            prompts.close()

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        return state | {"rollouts": self.rollouts.get_state(), "guard": self.guard.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.rollouts.set_state(state["rollouts"])
        self.guard.set_state(state["guard"])

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint. The engines hold its weights when this returns."""
        super().restore_from_path(path, *args, **kwargs)
        self._sync_weights()
        self.on_checkpoint(path)

    def on_checkpoint(self, checkpoint: str | Path | Checkpoint) -> None:
        self.guard.remember(checkpoint, self.iterations_trained, self.weights_version)


class GRPOConfig(ASPOConfig):
    """The config of `GRPO`: `loss="grpo"`, the baseline on the same data path."""

    def __init__(self, algo_class: type[Algorithm] | None = None, **settings: Never) -> None:
        super().__init__(algo_class=algo_class or GRPO, **settings)
        self.loss = "grpo"


class GRPO(ASPO):
    """The same algorithm with `loss="grpo"` by default."""

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()
