"""The learner: old logprobs once, and epochs x mini-batches of policy loss, backward, one optimizer step each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor
from torch.distributed.tensor import DTensor

from aspo_rllib import checkpoints, mismatch
from aspo_rllib.layers import compile_layers, recompute_layers
from aspo_rllib.losses import entropy_class, kl_penalty, policy_loss
from aspo_rllib.metrics import Tally, tally_frozen, tally_loss
from aspo_rllib.microbatch import Microbatch, build_microbatch
from aspo_rllib.model import Policy, full_weights, load_policy
from aspo_rllib.packing import LAYOUTS, TokenBatch, resolve_layout
from aspo_rllib.placement import engine_sleeps
from aspo_rllib.policy_weights import PolicyWeights
from aspo_rllib.reference import AdapterReference, ModelReference
from aspo_rllib.rl_module import CausalLMModule
from aspo_rllib.sharding import awaits_weights, shard_policy
from aspo_rllib.types import Minibatch, TrainBatch, UpdateResult
from aspo_rllib.watchdog import watch
from aspo_rllib.weight_sync import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config import ASPOConfig

T = TypeVar("T")


def _policy_of(module: MultiRLModule) -> Policy:
    causal_lm = module[DEFAULT_MODULE_ID]
    assert isinstance(causal_lm, CausalLMModule)
    return causal_lm.policy


class ASPOTorchLearner(TorchLearner):
    """RLlib's TorchLearner for completions: FSDP2 instead of DDP, TrainBatch instead of padded episodes."""

    config: ASPOConfig

    # ---- set-up ----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The policy being trained."""
        return _policy_of(self.module)

    def build(self) -> None:
        super().build()
        self.num_optimizer_steps = 0
        self.num_skipped_steps = 0
        self._weights = PolicyWeights(self.policy, self.config)
        self._lr_schedule = Scheduler(fixed_value_or_schedule=self.config.lr, framework="torch")
        self.reference = self._make_reference() if self.config.method.kl_coef > 0 else None

    def _make_reference(self) -> ModelReference | AdapterReference:
        if self.config.lora is not None:
            return AdapterReference(self.policy)
        initial = load_policy(
            self.config.base_model, trust_remote_code=self.config.trust_remote_code, meta=awaits_weights()
        ).requires_grad_(False)  # before it is placed: a frozen model is sharded in another way
        self._place(initial)
        return ModelReference(initial, self.policy)

    def _make_module(self) -> MultiRLModule:
        # Placed here, before the optimizer is made over the parameters.
        module = super()._make_module()
        policy = _policy_of(module)
        self.layout = resolve_layout(self.config.layout, policy.hf_model)
        if self.config.compile_learner:
            compile_layers(policy.hf_model)
        if self.config.gradient_checkpointing:
            recompute_layers(policy.hf_model)
        self._place(policy)
        return module

    def _map_module_to_device(self, module: MultiRLModule) -> None:
        """`_place` does it: what awaits rank 0's weights has nothing to move yet."""

    def _make_modules_ddp_if_necessary(self) -> None:
        """FSDP2 has done it."""

    def _place(self, policy: Policy) -> None:
        """Move a policy to the device, or give each learner its shard of it."""
        if self.config.num_learners > 1:
            shard_policy(
                policy,
                getattr(torch, self.config.dtype),
                device=self.device,
                cpu_offload=self.config.cpu_offload,
            )
        else:
            policy.to(self.device)

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        params = [p for p in self.get_parameters(self.module[module_id]) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(params, betas=self.config.betas, weight_decay=self.config.weight_decay)
        # Checkpoints need the state before the first step; DCP would make it itself, with a step count of 1.
        for p in params:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.optimizer.state[p] = {"step": torch.zeros(()), **moments}
        self.register_optimizer(module_id=module_id, optimizer=self.optimizer, params=params)

    # ---- one iteration ---------------------------------------------------------------------------------------

    def update(  # type: ignore[override]
        self, *, training_data: TrainingData, timesteps: dict[str, Any] | None = None, **kwargs: Any
    ) -> UpdateResult:
        """All optimizer steps over one TrainBatch.

        RLlib's own update cuts padded MultiAgentBatches at random; here the driver has decided every cut.
        """
        self.before_gradient_based_update(timesteps=timesteps or {})
        batch: TrainBatch = training_data.batch  # type: ignore[assignment]
        self.tally, grad_norms = Tally(), []
        start = time.perf_counter()
        steps = [self._cut(batch, minibatch) for minibatch in batch.minibatches]
        self._score_reference(steps)
        for m in chain.from_iterable(steps[1:]):  # the first step's own forward passes are by the old policy, too
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
                "optim/lr": self._lr(),
                "optim/grad_norm": sum(finite) / len(finite) if finite else math.nan,
                "optim/steps": self.num_optimizer_steps,
                "optim/skipped": self.num_skipped_steps,
            },
            learner_metrics=self.metrics.reduce(),
            old_logprobs_s=scored_s,
        )

    def _free_memory(self) -> None:
        """Give back what an update has taken of a GPU that the engine wants to wake up on."""
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
                layout=LAYOUTS[self.layout],
                aggregation=self.config.method.aggregation,
                max_completion_tokens=self.config.max_completion_tokens,
                device=self.device,
            )
            for rows in minibatch.microbatches
        ]

    def _freeze(self, m: Microbatch, logprobs: Tensor, entropy: Tensor) -> None:
        """Note what stays fixed during the update, from the policy's answers as it was before: `[B, T]` each."""
        m.old_logprobs = logprobs
        m.high_entropy = entropy_class(entropy, m.loss_mask, self.config.entropy_quantile)
        self._correct_for_sampler(m)
        tally_frozen(self.tally, logprobs, m.sampler_logprobs, entropy, m.high_entropy, m.advantages, m.loss_mask)
        if self.config.old_logprobs == "sampler":
            m.old_logprobs = m.sampler_logprobs
        m.is_frozen = True

    @torch.no_grad()
    def _score_reference(self, steps: list[list[Microbatch]]) -> None:
        if self.reference is not None:
            with self.reference.in_place() as reference:
                for m in chain.from_iterable(steps):
                    m.ref_logprobs, _ = self._forward(reference, m.tokens)

    def _correct_for_sampler(self, m: Microbatch) -> None:
        """Weigh in what the engine's probabilities differ from the learner's, if asked for; count it always."""
        cap = self.config.sampler_ratio_cap
        ratio = mismatch.sampler_ratio(
            m.old_logprobs, m.sampler_logprobs, m.loss_mask, self.config.sampler_correction_level
        )
        num_tokens = m.loss_mask.sum()
        self.tally.add("sampler/ratio_mean", ratio[m.loss_mask].sum(), num_tokens)
        self.tally.add("sampler/outside_cap_frac", mismatch.outside(ratio, cap).sum(), num_tokens)
        if self.config.sampler_correction is not None:
            weights = mismatch.correction_weights(ratio, self.config.sampler_correction, cap)
            m.coefficients = m.coefficients * weights

    def _optimizer_step(self, microbatches: list[Microbatch]) -> float:
        """Accumulate the gradient of one mini-batch and step; returns the gradient's norm."""
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
            # A broken value may have finite gradients (a broken reference, say): make every rank skip the step.
            (loss if loss.isfinite() else loss * torch.nan).backward()
        limit = self.config.grad_clip if self.config.grad_clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(grad_norm):
            self._set_optimizer_lr(self.optimizer, self._lr())
            self.optimizer.step()
            self.num_optimizer_steps += 1
        else:
            self.num_skipped_steps += 1
        return grad_norm

    def compute_loss_for_module(  # type: ignore[override]
        self, *, module_id: str, config: ASPOConfig, batch: Microbatch, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        """One micro-batch's share of the mini-batch's loss; override it for a loss that no token weight can express.

        fwd_out: "logprobs" and "entropy" of the current policy, `[B, T]`.
        """
        method, m, logprobs = config.method, batch, fwd_out["logprobs"]
        out = policy_loss(
            logprobs,
            m.old_logprobs,
            m.advantages,
            m.loss_mask,
            loss=method.token_weight,
            coefficients=m.coefficients,
            clip_low=m.by_entropy(method.clip_low, config.clip_low_high_entropy),
            clip_high=m.by_entropy(method.clip_high, config.clip_high_high_entropy),
            weight_cap=config.weight_cap,
        )
        tally_loss(self.tally, out, logprobs, m.old_logprobs, m.advantages, m.loss_mask, cap=config.weight_cap)
        loss = out.loss
        if m.ref_logprobs is not None:
            kl = kl_penalty(logprobs, m.ref_logprobs, m.loss_mask, config.kl_estimator)
            kl_coef = m.by_entropy(method.kl_coef, config.kl_coef_high_entropy)
            loss = loss + (m.coefficients * kl_coef * kl).sum()
            self.tally.add("kl/ref", kl.detach().sum(), m.loss_mask.sum())
        if config.entropy_coef:
            loss = loss - config.entropy_coef * (m.coefficients * fwd_out["entropy"]).sum()
        return loss

    # ---- helpers ---------------------------------------------------------------------------------------------

    def _forward(self, policy: Policy, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies of the completion tokens under the sampling distribution, `[B, T]` float32."""
        low_precision = self.config.dtype != "float32" and self.config.num_learners < 2
        precision = (
            torch.autocast(self.device.type, getattr(torch, self.config.dtype)) if low_precision else nullcontext()
        )
        with precision:
            logprobs, entropy = policy(tokens, self.config.temperature)
            return logprobs, entropy

    def _lr(self) -> float:
        """The learning rate of the next optimizer step."""
        warmup = self.config.warmup_steps
        factor = min(1.0, (self.num_optimizer_steps + 1) / warmup) if warmup else 1.0
        return float(self._lr_schedule.update(timestep=self.num_optimizer_steps)) * factor

    # ---- weights out, checkpoints ----------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # RLlib's version ends the actor and leaves the traceback in its log; here the driver gets to see it.
        with watch("learner", self.config.stage_timeout_s):
            return func(self, *args, **kwargs)

    def score(self, prompt_ids: list[np.ndarray], completion_ids: list[np.ndarray]) -> list[np.ndarray]:
        """Logprobs of given completions, one `[T]` array each. Collective."""
        with torch.no_grad():
            logprobs, _ = self._forward(self.policy, LAYOUTS[self.layout](prompt_ids, completion_ids, self.device))
        return [row[: len(c)].cpu().numpy() for row, c in zip(logprobs, completion_ids, strict=True)]

    def publish_weights(self) -> WeightsHandle | None:
        """Put what training changes into the object store; rank 0 returns the handle. Collective."""
        return self._weights.publish(self._weights_seq_no)

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None:
        """Set up vLLM's weight transfer to these runners, in place of any earlier one. Collective."""
        self._weights.connect(group, runners)

    def send_weights(self) -> WeightsHandle:
        """Send all weights to the runners of the last `connect`. Collective; rank 0's handle is what they hold."""
        return self._weights.send(self._weights_seq_no)

    def load_weights(self, handle: WeightsHandle) -> None:
        """Replace what training changes by what was published; ValueError if that is of another kind. Collective."""
        self._weights.load(handle)
        self._weights_seq_no = handle.version

    def save_checkpoint(self, path: Path) -> None:
        """Write training state and a Hugging Face folder below `path`. Collective."""
        checkpoints.save_state(path, self.policy, self.optimizer, self._counters(), self._moving_reference())
        weights = full_weights(self.policy)
        if weights:
            checkpoints.export_hf(path, self.policy, weights, self.config.base_model)

    def load_checkpoint(self, path: Path) -> None:
        """Continue from what `save_checkpoint` wrote. Collective."""
        counters = checkpoints.load_state(path, self.policy, self.optimizer, self._counters(), self._moving_reference())
        self._weights_seq_no = counters["weights_version"]
        self.num_optimizer_steps = counters["num_optimizer_steps"]
        self.num_skipped_steps = counters["num_skipped_steps"]

    def _moving_reference(self) -> dict[str, Tensor] | None:
        """The reference's tensors, if it is more than the initial model."""
        if self.reference is None or not self.config.reference_reset_interval:
            return None
        return self.reference.tensors()

    def _counters(self) -> dict[str, int]:
        return {
            "weights_version": self._weights_seq_no,
            "num_optimizer_steps": self.num_optimizer_steps,
            "num_skipped_steps": self.num_skipped_steps,
        }
