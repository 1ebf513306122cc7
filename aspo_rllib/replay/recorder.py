"""A learner that records each optimizer step: its metrics, and what each token adds to the gradient's norm.

The norm of a gradient g is the sum, over the tokens, of dL/dlogp_t times the derivative of logp_t in the direction of
g / |g|. These products are the tokens' parts of the norm: they add up to it, and a token that the others outweigh has
a negative part. The first factor is autograd's. The second one is a central difference, for which the policy scores
the step's completions twice more, in float32, with its weights moved a little to both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aspo_rllib.learner.learner import ASPOTorchLearner
from aspo_rllib.learner.microbatch import Microbatch
from aspo_rllib.learner.tally import Number, Tally, merge_updates
from aspo_rllib.losses import PolicyLoss
from aspo_rllib.types import Minibatch, TrainBatch, UpdateResult

# The largest change of a logprob between the two sides, in nats: above, the difference is not a derivative any more,
# and below, float32's rounding shows. In between, DIFFERENCE is aimed at.
LEAST_DIFFERENCE, DIFFERENCE, LARGEST_DIFFERENCE = 0.01, 0.05, 0.2


@dataclass(frozen=True)
class Row:
    """One completion in one optimizer step.

    number: of the rollout in the TrainBatch.
    logprobs, ratios, token_weights: `[T]`, before the step; the last two are NaN for a loss without a policy term.
    parts: `[T]`, what the tokens add to the gradient's norm. If that is not finite: the size of dL/dlogp, and inf where
        that is not finite.
    """

    number: int
    logprobs: np.ndarray
    ratios: np.ndarray
    token_weights: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class Step:
    """One optimizer step. metrics: as in a result of `train()`, and "ratio/min"; of this step alone."""

    metrics: dict[str, float]
    grad_norm: float
    rows: list[Row]


class _Pass(NamedTuple):
    """A micro-batch's forward pass in the step under way. Tensors `[B, T]`."""

    microbatch: Microbatch
    logprobs: Tensor
    terms: PolicyLoss | None
    derivatives: tuple[Tensor, Tensor]  # of the loss, by logprobs and by entropies


class _StepTally(Tally):
    """The tally of a step, which hands each number on to the update's. Adding sums to sums would round differently."""

    def __init__(self, whole: Tally) -> None:
        super().__init__()
        self.whole = whole

    def add(self, name: str, numerator: Number, denominator: Number) -> None:
        super().add(name, numerator, denominator)
        self.whole.add(name, numerator, denominator)

    def highest(self, name: str, value: Number) -> None:
        super().highest(name, value)
        self.whole.highest(name, value)

    def count_weights(self, name: str, weights: Tensor) -> None:
        super().count_weights(name, weights)
        self.whole.count_weights(name, weights)


class StepRecorder(ASPOTorchLearner):
    """To be put before a run's own learner class, whose update it leaves as it is."""

    def build(self) -> None:
        super().build()
        self.steps: list[Step] = []
        self._epsilon = 1e-3  # how far the weights are moved, as a norm
        self._rows: dict[int, np.ndarray] = {}
        self._passes: list[_Pass] = []
        self._terms: PolicyLoss | None = None
        self._parts: list[np.ndarray] = []
        self.optimizer.register_step_pre_hook(lambda *_: self._take_parts())

    @property
    def weights_version(self) -> int:
        return self._weights_seq_no

    def _cut(self, batch: TrainBatch, minibatch: Minibatch) -> list[Microbatch]:
        microbatches = super()._cut(batch, minibatch)
        self._rows |= {id(m): rows for m, rows in zip(microbatches, minibatch.microbatches, strict=True)}
        return microbatches

    def policy_term(self, m: Microbatch, logprobs: Tensor) -> PolicyLoss:
        self._terms = super().policy_term(m, logprobs)
        return self._terms

    def compute_loss_for_module(self, *, batch: Microbatch, fwd_out: dict[str, Tensor], **kwargs: Any) -> Tensor:  # type: ignore[override]
        self._terms = None
        loss = super().compute_loss_for_module(batch=batch, fwd_out=fwd_out, **kwargs)
        answers = fwd_out["logprobs"], fwd_out["entropy"]
        by_answer = torch.autograd.grad(loss, answers, retain_graph=True, allow_unused=True)
        derivatives = [torch.zeros_like(a) if d is None else d for a, d in zip(answers, by_answer, strict=True)]
        self._passes.append(_Pass(batch, answers[0].detach(), self._terms, (derivatives[0], derivatives[1])))
        return loss

    def _optimizer_step(self, microbatches: list[Microbatch]) -> float:
        whole = self.tally
        self.tally = step = _StepTally(whole)
        self._passes, self._parts = [], []
        grad_norm = super()._optimizer_step(microbatches)
        self.tally = whole
        if not math.isfinite(grad_norm):  # the optimizer's step was left out
            sizes = [one.derivatives[0].abs().nan_to_num(math.inf, math.inf) for one in self._passes]
            self._parts = [size.cpu().numpy() for size in sizes]
        metrics = merge_updates([UpdateResult(step.sums(), step.maxima(), {}, {}, 0.0)])
        ratios = [p.terms.ratio[p.microbatch.loss_mask] for p in self._passes if p.terms is not None]
        lowest = [float(r.min()) for r in ratios if len(r)]
        metrics |= {"ratio/min": min(lowest)} if lowest else {}
        self.steps.append(Step(metrics, grad_norm, self._recorded()))
        return grad_norm

    def _recorded(self) -> list[Row]:
        rows = []
        for one, parts in zip(self._passes, self._parts, strict=True):
            lengths = one.microbatch.loss_mask.sum(-1).tolist()
            unknown = torch.full_like(one.logprobs, torch.nan)
            ratio, weight = (unknown, unknown) if one.terms is None else (one.terms.ratio, one.terms.token_weight)
            for row, number in enumerate(self._rows[id(one.microbatch)]):
                of_row = [v[row, : lengths[row]].detach().cpu().numpy() for v in (one.logprobs, ratio, weight)]
                rows.append(Row(int(number), of_row[0], of_row[1], of_row[2], parts[row, : lengths[row]]))
        return rows

    @torch.no_grad()
    def _take_parts(self) -> None:
        """Compute the tokens' parts of the norm; called when gradients are there and weights are still the step's."""
        params = [p for p in self.policy.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in params if p.grad is not None]).norm()
        if norm == 0:
            self._parts = [np.zeros(one.logprobs.shape, np.float32) for one in self._passes]
            return
        saved = [p.clone() for p in params]
        changes = self._changes(params, saved, norm)
        largest = max(float(of_logprobs.abs().max()) for of_logprobs, _ in changes)
        if largest > 0 and not LEAST_DIFFERENCE < largest < LARGEST_DIFFERENCE:
            self._epsilon *= DIFFERENCE / largest
            changes = self._changes(params, saved, norm)
        for p, weight in zip(params, saved, strict=True):
            p.copy_(weight)
        self._parts = []
        for one, change in zip(self._passes, changes, strict=True):
            products = [d * c for d, c in zip(one.derivatives, change, strict=True)]
            parts = torch.where(one.microbatch.loss_mask, products[0] + products[1], 0.0) / (2 * self._epsilon)
            self._parts.append(parts.cpu().numpy())

    def _changes(self, params: Sequence[Tensor], saved: Sequence[Tensor], norm: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each pass: how logprobs and entropies differ between the weights' two sides. Leaves the weights moved."""
        sides = []
        for sign in (1, -1):
            for p, weight in zip(params, saved, strict=True):
                torch.add(weight, p.grad, alpha=sign * self._epsilon / float(norm), out=p)  # type: ignore[arg-type]
            sides.append([self.policy(one.microbatch.tokens, self.config.temperature) for one in self._passes])
        return [(up[0] - down[0], up[1] - down[1]) for up, down in zip(*sides, strict=True)]
