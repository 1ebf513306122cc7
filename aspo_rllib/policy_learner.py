"""A learner's policy under RLlib: made, placed or sharded, handed out, saved. How it learns: `learner`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from aspo_rllib import checkpoints
from aspo_rllib.layers import compile_layers, recompute_layers
from aspo_rllib.model import Policy, full_weights, load_policy
from aspo_rllib.packing import LAYOUTS, TokenBatch, resolve_layout
from aspo_rllib.policy_weights import PolicyWeights
from aspo_rllib.reference import AdapterReference, ModelReference
from aspo_rllib.rl_module import CausalLMModule
from aspo_rllib.sharding import awaits_weights, shard_policy
from aspo_rllib.watchdog import watch
from aspo_rllib.weight_sync import WeightsHandle

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config import ASPOConfig

T = TypeVar("T")


class PolicyLearner(TorchLearner):
    """RLlib's TorchLearner for language models: FSDP2 instead of DDP, a frozen reference, sharded checkpoints."""

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

    def apply(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # RLlib's version ends the actor and leaves the traceback in its log; here the driver gets to see it.
        with watch("learner", self.config.stage_timeout_s):
            return func(self, *args, **kwargs)

    # ---- the policy's answers --------------------------------------------------------------------------------

    def _forward(self, policy: Policy, tokens: TokenBatch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropies of the completion tokens under the sampling distribution, `[B, T]` float32."""
        low_precision = self.config.dtype != "float32" and self.config.num_learners < 2
        precision = (
            torch.autocast(self.device.type, getattr(torch, self.config.dtype)) if low_precision else nullcontext()
        )
        with precision:
            logprobs, entropy = policy(tokens, self.config.temperature)
            return logprobs, entropy

    def score(self, prompt_ids: list[np.ndarray], completion_ids: list[np.ndarray]) -> list[np.ndarray]:
        """Logprobs of given completions, one `[T]` array each. Collective."""
        with torch.no_grad():
            logprobs, _ = self._forward(self.policy, LAYOUTS[self.layout](prompt_ids, completion_ids, self.device))
        return [row[: len(c)].cpu().numpy() for row, c in zip(logprobs, completion_ids, strict=True)]

    def _lr(self) -> float:
        """The learning rate of the next optimizer step."""
        warmup = self.config.warmup_steps
        factor = min(1.0, (self.num_optimizer_steps + 1) / warmup) if warmup else 1.0
        return float(self._lr_schedule.update(timestep=self.num_optimizer_steps)) * factor

    # ---- weights out, checkpoints ----------------------------------------------------------------------------

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


def _policy_of(module: MultiRLModule) -> Policy:
    causal_lm = module[DEFAULT_MODULE_ID]
    assert isinstance(causal_lm, CausalLMModule)
    return causal_lm.policy
