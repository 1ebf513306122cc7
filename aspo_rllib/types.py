"""The four frozen records that carry a prompt from the env to the optimizer. Numpy inside, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rollout:
    """One completion of one prompt, graded.

    prompt_ids: `[T_prompt]` int32, the chat-templated prompt as the engine saw it.
    completion_ids: `[T]` int32, exactly the sampled tokens (the end-of-sequence token included).
    sampler_logprobs: `[T]` float32, the engine's log-probability of each sampled token.
    finish_reason: "stop" (the model ended it) or "length" (cut at max_completion_tokens).
    reward: the env's reward, before any shaping; correct: the verifier's verdict.
    weights_version: the learner's version of the weights that sampled it.
    info: what the env said of the step (extracted, grade_status, grade_seconds, ...).
    repetition_frac: `metrics.repetition` of the completion, counted by the runner, of which there are many.
    """

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str
    completion: str
    reward: float
    correct: bool
    weights_version: int
    info: dict[str, Any] = field(default_factory=dict)
    repetition_frac: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens together: what one forward pass over the rollout costs."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one prompt: all G, but for those whose grading failed through no fault of theirs.

    position: how many prompts the run had drawn before this one; it seeds the group's sampling.
    index: the task's index in the env.
    num_ungraded: completions that are missing here: the grader itself failed on them, twice, or they are
    num_nonfinite: those whose log-probabilities from the engine are not all finite.
    """

    position: int
    index: int
    prompt: str
    rollouts: tuple[Rollout, ...]
    num_ungraded: int = 0
    num_nonfinite: int = 0


@dataclass(frozen=True)
class Minibatch:
    """One learner's part of one optimizer step.

    microbatches: row numbers into the TrainBatch, one array per forward pass. Every learner has equally many
        (an empty array pads the count), so that collectives meet.
    num_loss_tokens, num_sequences: counted over the whole step, all learners: the loss's denominators.
    """

    microbatches: tuple[np.ndarray, ...]
    num_loss_tokens: int
    num_sequences: int


@dataclass(frozen=True)
class TrainBatch:
    """One learner's rollouts of an iteration and the optimizer steps to take over them, in order.

    prompt_ids, completion_ids, sampler_logprobs: one array per row; advantages: `[B]` float32.
    minibatches: the steps of one epoch.
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
    """What one learner reports of an update.

    sums: metric name -> (numerator, denominator), added over learners before the division.
    maxima: metric name -> value, of which the largest over learners counts.
    values: metric name -> value, equal on every learner (lr, grad_norm, optimizer steps).
    learner_metrics: the learner's own MetricsLogger, reduced, for users who log from a Learner subclass.
    old_logprobs_s: seconds spent on scoring, by policy and reference, before the first optimizer step.
    """

    sums: dict[str, tuple[float, float]]
    maxima: dict[str, float]
    values: dict[str, float]
    learner_metrics: dict[str, Any]
    old_logprobs_s: float
