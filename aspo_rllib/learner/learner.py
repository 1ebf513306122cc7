"""The learner: computes the old logprobs once, then takes one optimizer step per mini-batch and epoch."""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import LEARNER_RESULTS
from torch import Tensor
from torch.distributed.tensor import DTensor

from aspo_rllib.config.placement import engine_sleeps
from aspo_rllib.learner import mismatch
from aspo_rllib.learner.microbatch import Microbatch, build_microbatch
from aspo_rllib.learner.policy_learner import PolicyLearner
from aspo_rllib.learner.tally import Tally, tally_frozen, tally_loss
from aspo_rllib.losses import PolicyLoss, entropy_class, kl_penalty, policy_loss
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.types import Minibatch, TrainBatch, UpdateResult

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings


class ASPOTorchLearner(PolicyLearner):
    """Updates the policy over a TrainBatch, with any loss of the family. Subclass it for another loss or update."""

    def update(  # type: ignore[override]
        self, *, training_data: TrainingData, timesteps: dict[str, Any] | None = None, **kwargs: Any
    ) -> UpdateResult:
        """Take all optimizer steps over one TrainBatch; returns their metrics.

        RLlib's own update splits padded MultiAgentBatches at random. Here the driver has decided every split.
        """
        self.before_gradient_based_update(timesteps=timesteps or {})
        batch: TrainBatch = training_data.batch  # type: ignore[assignment]
        self.tally, grad_norms = Tally(), []
        start = time.perf_counter()
        steps = [self._cut(batch, minibatch) for minibatch in batch.minibatches]
        self._score_reference(steps)
        for m in chain.from_iterable(steps[1:]):  # the first step's training passes also use the old policy
            with torch.no_grad():
                self._freeze(m, *self._forward(self.policy, m.tokens))
        scored_s = time.perf_counter() - start
        for _ in range(self.config.num_epochs):
            grad_norms += [self._optimizer_step(microbatches) for microbatches in steps]
        self._weights_seq_no += 1
        interval = self.config.reference_reset_interval
        if self.reference is not None and interval and self._weights_seq_no % interval == 0:
            self.reference.reset()
        self.after_gradient_based_update(timesteps=timesteps or {})
        if engine_sleeps(self.config):
            self._free_memory()

        finite = [norm for norm in grad_norms if math.isfinite(norm)]
        return UpdateResult(
            sums=self.tally.sums(),
            maxima=self.tally.maxima(),
            values={
                "optim/lr": self._applied_lr,
                "optim/grad_norm": sum(finite) / len(finite) if finite else math.nan,
                "optim/steps": self.num_optimizer_steps,
                "optim/skipped": self.num_skipped_steps,
            },
            learner_metrics=self.metrics.reduce(),
            old_logprobs_s=scored_s,
            histograms=self.tally.histograms(),
        )

    def _free_memory(self) -> None:
        """Release the GPU memory of the update, so that the engine on the same GPU can wake up."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _cut(self, batch: TrainBatch, minibatch: Minibatch) -> list[Microbatch]:
        """The micro-batches of one optimizer step."""
        return [
            build_microbatch(
                batch,
                rows,
                minibatch,
                pack=LAYOUTS[self.layout].pack,
                aggregation=self.config.method.aggregation,
                max_completion_tokens=self.config.max_completion_tokens,
                device=self.device,
            )
            for rows in minibatch.microbatches
        ]

    def _freeze(self, m: Microbatch, logprobs: Tensor, entropy: Tensor) -> None:
        """Store what stays fixed during the update.

        logprobs, entropy: `[B, T]`, from the policy as it was before the update.
        """
        m.old_logprobs = logprobs
        m.high_entropy = entropy_class(entropy, m.loss_mask, self.config.entropy_quantile)
        self._correct_for_sampler(m)
        tally_frozen(self.tally, logprobs, m.sampler_logprobs, entropy, m.high_entropy, m.advantages, m.loss_mask)
        if self.config.method.old_logprobs == "sampler":
            m.old_logprobs = m.sampler_logprobs
        m.is_frozen = True

    @torch.no_grad()
    def _score_reference(self, steps: list[list[Microbatch]]) -> None:
        if self.reference is not None:
            with self.reference.in_place() as reference:
                for m in chain.from_iterable(steps):
                    m.ref_logprobs, _ = self._forward(reference, m.tokens)

    def _correct_for_sampler(self, m: Microbatch) -> None:
        """Record how far the engine's probabilities are from the learner's; `sampler_correction` corrects for it."""
        floor, cap = self.config.sampler_ratio_floor, self.config.sampler_ratio_cap
        ratio = mismatch.sampler_ratio(
            m.old_logprobs, m.sampler_logprobs, m.loss_mask, self.config.sampler_correction_level
        )
        num_tokens = m.loss_mask.sum()
        self.tally.add("sampler/ratio_mean", ratio[m.loss_mask].sum(), num_tokens)
        self.tally.add("sampler/outside_cap_frac", mismatch.outside(ratio, floor, cap).sum(), num_tokens)
        if self.config.sampler_correction is not None:
            weights = mismatch.correction_weights(ratio, self.config.sampler_correction, floor, cap)
            m.policy_coefficients = m.coefficients * weights

    def _optimizer_step(self, microbatches: list[Microbatch]) -> float:
        """Accumulate the gradient of one mini-batch and take an optimizer step; returns the gradient's norm.

        A step whose gradient is not finite is skipped and counted.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for m in microbatches:
            logprobs, entropy = self._forward(self.policy, m.tokens)
            if not m.is_frozen:
                self._freeze(m, logprobs.detach(), entropy.detach())
            loss = self.compute_loss_for_module(
                module_id=DEFAULT_MODULE_ID,
                config=self.config,
                batch=m,
                fwd_out={"logprobs": logprobs, "entropy": entropy},
            )
            self._tally_loss("total_loss", loss, m)
            # A loss that is not finite can have finite gradients, for example if the reference is broken. Multiplied
            # with NaN, its gradient makes every rank skip the step.
            (loss if loss.isfinite() else loss * torch.nan).backward()
        limit = self.config.grad_clip if self.config.grad_clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(grad_norm):
            self._applied_lr = self._lr()
            self._set_optimizer_lr(self.optimizer, self._applied_lr)
            self.optimizer.step()
            self.num_optimizer_steps += 1
        else:
            self.num_skipped_steps += 1
        return grad_norm

    def _tally_loss(self, name: str, loss: Tensor, m: Microbatch) -> None:
        """Record a part of the loss under RLlib's name for it: its mean over optimizer steps."""
        # A step's loss is the sum over its micro-batches and over the learners.
        share = m.share_of_step / max(1, self.config.num_learners)
        self.tally.add(f"{LEARNER_RESULTS}/{DEFAULT_MODULE_ID}/{name}", loss.detach(), share)

    def compute_loss_for_module(  # type: ignore[override]
        self, *, module_id: str, config: ASPOSettings, batch: Microbatch, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """One micro-batch's share of the mini-batch's loss, a scalar.

        Override this method for a loss that cannot be written as a weight per token.

        fwd_out: "logprobs" and "entropy" of the current policy, `[B, T]`.
        """
        method, m, logprobs = config.method, batch, fwd_out["logprobs"]
        out = self.policy_term(m, logprobs)
        loss = out.loss
        self._tally_loss("policy_loss", loss, m)
        if m.ref_logprobs is not None:
            kl = kl_penalty(logprobs, m.ref_logprobs, m.loss_mask, config.kl_estimator, clamp=config.kl_clamp)
            kl_coef = m.by_entropy(method.kl_coef, config.kl_coef_high_entropy)
            kl_loss = (m.coefficients * kl_coef * kl).sum()
            self._tally_loss("kl_loss", kl_loss, m)
            loss = loss + kl_loss
            self.tally.add("kl/ref", kl.detach().sum(), m.loss_mask.sum())
        if config.entropy_coef:
            loss = loss - config.entropy_coef * (m.coefficients * fwd_out["entropy"]).sum()
        return loss

    def policy_term(self, m: Microbatch, logprobs: Tensor) -> PolicyLoss:
        """The policy's term of one micro-batch's loss, with its ratios and token weights. logprobs: `[B, T]`."""
        method, config = self.config.method, self.config
        out = policy_loss(
            logprobs,
            m.old_logprobs,
            m.advantages,
            m.loss_mask,
            loss=method.token_weight,
            coefficients=m.policy_coefficients,
            clip_low=m.by_entropy(method.clip_low, config.clip_low_high_entropy),
            clip_high=m.by_entropy(method.clip_high, config.clip_high_high_entropy),
            weight_cap=method.weight_cap,
        )
        tally_loss(self.tally, out, logprobs, m.old_logprobs, m.advantages, m.loss_mask)
        return out
