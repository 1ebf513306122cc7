"""The frozen records that carry a prompt from the env to the optimizer. They contain numpy arrays, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt, graded.

    prompt_ids: `[T_prompt]` int32, the chat-templated prompt as the engine saw it.
    completion_ids: `[T]` int32, exactly the sampled tokens (the end-of-sequence token included).
    sampler_logprobs: `[T]` float32, the engine's log-probability of each sampled token.
    finish_reason: "stop" (the model ended it) or "length" (cut at max_completion_tokens).
    reward: the env's reward, before any shaping; with `reward_weights`, the weighted sum of `rewards`.
    correct: the env's verdict; None if it gives none, but only a reward.
    weights_version: the learner's version of the weights that sampled it.
    info: what the env said of the step (extracted, grade_status, grade_seconds, ...).
    repetition_frac: `rollout.stats.repetition` of the completion, counted by the runner, of which there are many.
    rewards: the named components of the reward; None for one that does not apply. Empty if the env names none.
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str
    completion: str
    reward: float
    correct: bool | None
    weights_version: int
    info: dict[str, Any] = field(default_factory=dict)
    repetition_frac: float = 0.0
    rewards: dict[str, float | None] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Number of prompt and completion tokens together."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one prompt: all G completions, without those that could not be graded or had broken logprobs.

    position: number of prompts that the run drew before this one; it seeds the group's sampling.
    index: the task's index in the env.
    num_ungraded: number of completions that are missing in `rollouts`, for one of three reasons: the grader itself
        failed on them twice, their reward was not a finite number, or their log-probabilities from the engine are not
        all finite.
    num_nonfinite: how many of `num_ungraded` are missing because of their log-probabilities.
    grade_error: a text about the first reward that was not a finite number; None if there was none.
    """

    position: int
    index: int
    prompt: str
    rollouts: tuple[Rollout, ...]
    num_ungraded: int = 0
    num_nonfinite: int = 0
    grade_error: str | None = None

    @property
    def is_informative(self) -> bool:
        """Whether the group carries a gradient: its rollouts are neither all correct nor all wrong.

        Decided on the env's verdicts, never on shaped rewards: the penalty of one truncated answer would make an
        all-wrong group look mixed and give its other wrong answers a positive advantage. Without verdicts the env's own
        rewards decide: they must differ. If the rewards have several names, one of them must differ: completions that
        are all wrong may still teach the format.
        """
        columns = self.reward_columns()
        verdicts = {r.correct for r in self.rollouts}
        if len(columns) < 2 and None not in verdicts:
            return len(verdicts) > 1
        columns[""] = [r.reward for r in self.rollouts]
        return any(len(set(values)) > 1 for values in columns.values())

    def reward_columns(self) -> dict[str, list[float | None]]:
        """The rewards of all rollouts by their name; empty without names.

        A completion whose grading took too long has no names of its own, and 0 in every column.
        """
        names = dict.fromkeys(name for r in self.rollouts for name in r.rewards)
        return {name: [r.rewards.get(name, 0.0) for r in self.rollouts] for name in names}

    def without_truncated(self) -> RolloutGroup:
        """The same group without the completions that were cut at max_completion_tokens."""
        return replace(self, rollouts=tuple(r for r in self.rollouts if r.finish_reason != "length"))


@dataclass(frozen=True)
class Minibatch:
    """One learner's part of one optimizer step.

    microbatches: row numbers into the TrainBatch, one array per forward pass. Every learner has the same number of
        them, padded with empty arrays, so that all learners run the same collectives.
    num_loss_tokens, num_sequences: the loss's denominators, counted over the whole step and all learners.
    """

    microbatches: tuple[np.ndarray, ...]
    num_loss_tokens: int
    num_sequences: int


@dataclass(frozen=True)
class TrainBatch:
    """One learner's rollouts of an iteration, and the optimizer steps over them in order.

    prompt_ids, completion_ids, sampler_logprobs: one array per rollout.
    advantages: `[B]` float32.
    minibatches: the optimizer steps of one epoch.
    """

    prompt_ids: tuple[np.ndarray, ...]
    completion_ids: tuple[np.ndarray, ...]
    sampler_logprobs: tuple[np.ndarray, ...]
    advantages: np.ndarray
    minibatches: tuple[Minibatch, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True)
class UpdateResult:
    """The metrics that one learner reports for an update.

    sums: metric name -> (numerator, denominator). Both are summed over the learners before the division.
    maxima: metric name -> value. The largest value over the learners is reported.
    values: metric name -> value that is equal on every learner (lr, grad_norm, optimizer steps).
    histograms: name -> number of tokens in each bucket, which are added over the learners.
    learner_metrics: the reduced values of the learner's MetricsLogger, for users who log from a Learner subclass.
    old_logprobs_s: seconds for the logprobs of policy and reference before the first optimizer step.
    """

    sums: dict[str, tuple[float, float]]
    maxima: dict[str, float]
    values: dict[str, float]
    learner_metrics: dict[str, Any]
    old_logprobs_s: float
    histograms: dict[str, np.ndarray] = field(default_factory=dict)


class BadNumbersError(RuntimeError):
    """The run's values are unusable, for example NaN. A restart from a checkpoint may lead to the same values again."""
