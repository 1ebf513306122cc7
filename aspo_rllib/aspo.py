"""ASPO as an RLlib Algorithm: the table of contents of the package."""

from __future__ import annotations

import math
from collections.abc import Collection
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
)
from ray.train import Checkpoint

from aspo_rllib import health, preflight, provenance, weight_sync
from aspo_rllib.advantages import group_advantages, informative_groups, overlong_penalty
from aspo_rllib.base_algorithm import TextAlgorithm
from aspo_rllib.batching import COSTS, UNITS, build_train_batches
from aspo_rllib.config import ASPOConfig, GRPOConfig
from aspo_rllib.evaluation_sets import open_sets, prompts_of
from aspo_rllib.learner_group import ASPOLearnerGroup
from aspo_rllib.metrics import merge_updates, rollout_metrics, staleness_metrics
from aspo_rllib.placement import engine_sleeps
from aspo_rllib.prompts import load_tokenizer
from aspo_rllib.rollback import NumbersGuard
from aspo_rllib.rollout_queue import RolloutQueue
from aspo_rllib.runner_pool import RunnerPool
from aspo_rllib.task_order import TaskOrder
from aspo_rllib.transports import make_transport
from aspo_rllib.types import RolloutGroup, TrainBatch

PROBE_PROMPTS = 8
PROBE_TOKENS = 4  # the first comes from the prompt's pass, the others from steps over the cache


class ASPO(TextAlgorithm):
    """Asymmetric Importance Sampling Policy Optimization (arXiv 2510.06062), and its relatives by `config.loss`."""

    config: ASPOConfig
    env_runner_group: EnvRunnerGroup
    learner_group: ASPOLearnerGroup
    # For callbacks: the last batch, the advantages of those of its groups that were trained on by position, and the
    # groups of the last evaluation by set.
    latest_groups: list[RolloutGroup]
    latest_advantages: dict[int, np.ndarray]
    latest_evaluation_groups: dict[str, list[RolloutGroup]]

    @classmethod
    def get_default_config(cls) -> ASPOConfig:
        return ASPOConfig()

    def training_step(self) -> None:
        """One iteration: sample -> advantages -> update -> sync, each timed.

        With `max_staleness` the runners sample the next batches all the while, and `wait` is short.
        """
        with self._timed("wait"):
            groups = self._sample()
        with self._timed("batch"):
            batches = self._train_batches(groups)
        if batches:
            with self._timed("update"):
                if engine_sleeps(self.config):
                    self.runners.sleep()
                metrics = self._update(batches)
            self.guard.check(metrics)
            with self._timed("sync"):
                self._sync_weights()
                self._check_sync(groups)
        self._log_rollouts(groups)
        self.latest_groups = groups  # for callbacks
        self.iterations_trained += 1

    def _sample(self) -> list[RolloutGroup]:
        """A whole batch of groups, each with at least two rollouts to compare."""
        sampled = self.rollouts.next_batch()
        num_nonfinite = sum(g.num_nonfinite for g in sampled)
        num_failed = sum(g.num_ungraded for g in sampled) - num_nonfinite
        counts = {"grader/errors": num_failed, "sampler/nonfinite": num_nonfinite}
        self._log(counts | {"tasks/overlong": self.rollouts.num_overlong})
        groups = list(filter(self.rollouts.is_usable, sampled))
        self._log(staleness_metrics(groups, self.weights_version))
        return groups

    def _fits(self, index: int) -> bool:
        return self.prompts.num_tokens(index) <= self.config.max_prompt_tokens

    def _train_batches(self, groups: list[RolloutGroup]) -> list[TrainBatch]:
        """Filter on correctness, shape the rewards, normalise in groups: one batch per learner, [] if none is left."""
        config = self.config
        kept = groups
        if config.drop_uniform_groups:
            kept = [g for g in groups if informative_groups([[r.correct for r in g.rollouts]])[0]]
        self._log({"groups/used_frac": len(kept) / len(groups)})
        self.latest_advantages = {g.position: self._advantages(g) for g in kept}
        if not kept:
            return []
        return build_train_batches(
            kept,
            list(self.latest_advantages.values()),
            num_learners=config.num_learners,
            minibatch_prompts=config.minibatch_prompts,
            max_tokens_per_microbatch=config.max_tokens_per_microbatch,
            cost=COSTS[self._layout],
            units=UNITS[self._layout],
        )

    def _advantages(self, group: RolloutGroup) -> np.ndarray:
        config = self.config
        penalties = overlong_penalty(
            [len(r.completion_ids) for r in group.rollouts],
            max_completion_tokens=config.max_completion_tokens,
            buffer_tokens=config.overlong_buffer_tokens,
            factor=config.overlong_penalty_factor,
        )
        rewards = np.array([r.reward for r in group.rollouts]) + penalties
        advantages: np.ndarray = group_advantages([rewards], normalize_std=config.method.normalize_std)[0]
        return advantages

    def _update(self, batches: list[TrainBatch]) -> dict[str, float]:
        """One update on every learner; its metrics."""
        # RLlib would cut a single `batch` for remote learners itself; theirs come as a list.
        batch = {"batches": batches} if self.learner_group.is_remote else {"batch": batches[0]}
        results = self.learner_group.update(**batch)
        metrics = merge_updates(results) | {
            "time/old_logprobs_s": max(r.old_logprobs_s for r in results),
            health.NONFINITE_WEIGHTS: sum(self.learner_group.on_all(health.num_nonfinite_weights)),
        }
        self._log(metrics)
        self.metrics.aggregate([r.learner_metrics for r in results], key=LEARNER_RESULTS)
        return metrics

    def _sync_weights(self) -> None:
        """Bring the learner's weights to every runner in service and wait until they have them."""
        handle = self.transport.send()
        self.weights_version = handle.version
        self._log({"sync/weights_version": handle.version, "sync/bytes": handle.num_bytes})

    def _check_sync(self, groups: list[RolloutGroup]) -> None:
        """Compare every engine's logprobs with the learner's on a few prompts; raises SyncDriftError."""
        prompts = [g.rollouts[0].prompt_ids for g in groups[:PROBE_PROMPTS]]
        max_tokens = min(PROBE_TOKENS, self.config.max_completion_tokens)
        drifts = []
        for samples in self.runners.call(lambda runner: runner.probe(prompts, max_tokens)).values():
            completions = [s.completion_ids for s in samples]
            scores = self.learner_group.on_all(methodcaller("score", prompts, completions))[0]
            drifts.append(weight_sync.drift(scores, [s.sampler_logprobs for s in samples]))
        if not drifts:  # all runners are being restarted
            return
        self._log({"sync/max_abs_dlogp": max(drifts)})
        weight_sync.check_drift(max(drifts), self.config.sync_drift_limit, self.weights_version)

    # ---- set-up ----------------------------------------------------------------------------------------------

    def setup(self, config: ASPOConfig) -> None:  # type: ignore[override]
        # What can be wrong with env and tokenizer is found here, before any engine boots.
        preflight.check(self.config)
        tokenizer, _ = load_tokenizer(self.config)
        self.prompts = prompts_of(self.config, tokenizer)
        self.evaluation_sets = open_sets(self.config, lambda config: prompts_of(config, tokenizer))
        print(self.config.plan(), flush=True)
        self.task_order = TaskOrder(len(self.prompts), seed=self.config.seed or 0)
        self.iterations_trained = 0
        self.latest_groups, self.latest_advantages = [], {}
        self.latest_evaluation_groups, self._latest_evaluation = {}, {}
        super().setup(config)
        self.runners = RunnerPool(self.env_runner_group, self.config, self.learner_group.weights)
        self.transport = make_transport(self.config, self.learner_group, self.runners)
        self.rollouts = RolloutQueue(self.runners, self.task_order, self.config, self._fits)
        self.guard = NumbersGuard(self)
        self._layout = self.learner_group.on_all(lambda learner: learner.layout)[0]
        provenance.write(self)
        # RLlib's initial sync is skipped when connector states are not broadcast.
        self._sync_weights()

    def restore_env_runners(self, env_runner_group: EnvRunnerGroup) -> list[int]:
        """What RLlib calls before every iteration."""
        return self.runners.recover()

    def cleanup(self) -> None:
        self.runners.stop()  # RLlib would wait for one that hangs
        super().cleanup()
        for prompts in (self.prompts, *(s.prompts for s in self.evaluation_sets.values())):
            prompts.close()

    def _log_rollouts(self, groups: list[RolloutGroup]) -> None:
        metrics = rollout_metrics(groups)
        self._log(metrics)
        rollouts = [r for g in groups for r in g.rollouts]
        # What users' callbacks logged on the runners.
        reports = self.runners.call(lambda r: (r.get_metrics(), r.take_times())).values()
        self.metrics.aggregate([metrics for metrics, _ in reports], key=ENV_RUNNER_RESULTS)
        for stage in ("generate_s", "grade_s"):
            self._log({f"time/{stage}": max((times[stage] for _, times in reports), default=math.nan)})
        self._log({"runners/in_service": len(self.runners.healthy), "runners/lost": self.runners.num_lost})
        self.metrics.log_value(
            (ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN), metrics["reward/mean"], reduce="mean", window=1
        )
        for name, reduce in (
            (NUM_EPISODES, "sum"),
            (NUM_ENV_STEPS_SAMPLED, "sum"),
            (NUM_ENV_STEPS_SAMPLED_LIFETIME, "lifetime_sum"),
        ):
            self.metrics.log_value((ENV_RUNNER_RESULTS, name), len(rollouts), reduce=reduce)
        self._log(
            {
                "tokens/completion": sum(len(r.completion_ids) for r in rollouts),
                "tokens/prompt": sum(len(r.prompt_ids) for r in rollouts),
                "tasks/position": self.task_order.position,
                **self.guard.counts(),
            }
        )

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        state["rollouts"] = self.rollouts.get_state()
        state["guard"] = self.guard.get_state()
        state["iterations_trained"] = self.iterations_trained
        state["latest_evaluation"] = self._latest_evaluation
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.rollouts.set_state(state["rollouts"])
        self.guard.set_state(state["guard"])
        self.iterations_trained = state["iterations_trained"]
        self._latest_evaluation = state["latest_evaluation"]

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; the engines hold its weights when this returns."""
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._sync_weights()
        self.on_checkpoint(path)

    def on_checkpoint(self, checkpoint: str | Path | Checkpoint) -> None:
        self.guard.remember(checkpoint)


class GRPO(ASPO):
    """The same algorithm with `loss="grpo"` by default."""

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()
