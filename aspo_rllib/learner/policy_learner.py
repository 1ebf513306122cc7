"""A learner's policy under RLlib: makes it, places or shards it, gives out its weights, and saves it.

The update of the policy is in `learner`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
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

from aspo_rllib.config.placement import turn_on_shared_gpu
from aspo_rllib.learner import checkpoints
from aspo_rllib.learner.base_model import BaseModel
from aspo_rllib.learner.memory_fit import recomputes_layers
from aspo_rllib.learner.reference import AdapterReference, ModelReference
from aspo_rllib.learner.rl_module import CausalLMModule
from aspo_rllib.model.layers import recompute_layers
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.packing import TokenBatch, set_attention
from aspo_rllib.model.policy import Policy, compile_policy, load_policy
from aspo_rllib.model.scoring_check import Scoring, choose_scoring
from aspo_rllib.model.sharding import agree, awaits_weights, full_weights, shard_policy
from aspo_rllib.watchdog import watch
from aspo_rllib.weights.object_store import WeightsHandle
from aspo_rllib.weights.policy_weights import PolicyWeights

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from aspo_rllib.config.settings import ASPOSettings

T = TypeVar("T")


class PolicyLearner(TorchLearner):
    """RLlib's TorchLearner for language models: FSDP2 instead of DDP, a frozen reference, sharded checkpoints."""

    config: ASPOSettings

    # ---- set-up ----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The policy being trained."""
        return _policy_of(self.module)

    def build(self) -> None:
        with turn_on_shared_gpu(self.config):
            self._build()

    def _build(self) -> None:
        if self.config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads this at its first use
            torch.use_deterministic_algorithms(True)
        super().build()
        self.num_optimizer_steps = 0
        self.num_skipped_steps = 0
        self._weights = PolicyWeights(self.policy, self.config)
        self._applied_lr = 0.0  # of the last optimizer step; 0 before the first one
        self._lr_schedule = Scheduler(fixed_value_or_schedule=self.config.lr, framework="torch")
        self.reference = self._make_reference() if self.config.method.kl_coef > 0 else None

    def _make_reference(self) -> ModelReference | AdapterReference:
        if self.config.lora is not None:
            return AdapterReference(self.policy)
        initial = load_policy(
            self.config.base_model, trust_remote_code=self.config.trust_remote_code, meta=awaits_weights()
        ).requires_grad_(False)  # before `_place`, because a frozen model is sharded in another way
        set_attention(initial.hf_model, self.scoring.attention)
        if self.config.learner_is_compiled:
            compile_policy(initial, self.device)
        self._place(initial)
        return ModelReference(initial, self.policy)

    def _make_module(self) -> MultiRLModule:
        # The policy is placed here because the optimizer, which is made later, needs the final parameters.
        module = super()._make_module()
        policy = _policy_of(module)
        self.scoring = self._choose_scoring(policy)
        self.layout = self.scoring.layout  # the layout of the micro-batches, a name in LAYOUTS
        if self.config.learner_is_compiled:
            compile_policy(policy, self.device)
        self.recomputes_layers = recomputes_layers(self.config, self._gpu_bytes())
        if self.recomputes_layers:
            recompute_layers(policy.hf_model)
        self._place(policy)
        return module

    def _choose_scoring(self, policy: Policy) -> Scoring:
        """Rank 0, which has the weights, chooses for all learners. Collective."""
        choose = partial(choose_scoring, policy, self.config.layout, self.config.max_model_len)
        if self.config.num_learners < 2:
            policy.to(self.device)
            return choose()
        scoring = agree(choose)
        set_attention(policy.hf_model, scoring.attention)
        return scoring

    def describe_layers(self) -> list[str]:
        """Lines for the plan about layers that are recomputed without being asked, or compiled."""
        lines = []
        if self.recomputes_layers and self.config.gradient_checkpointing is None:
            lines.append("layers are recomputed in the backward pass: the largest micro-batch does not fit otherwise")
        if self.config.learner_is_compiled:
            lines.append("compiling the learner's layers in the first update, which takes up to a minute")
        return lines

    def _gpu_bytes(self) -> int | None:
        """Memory of this learner's GPU; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def _map_module_to_device(self, module: MultiRLModule) -> None:
        """Do nothing: `_place` moves the module. Ranks that wait for rank 0's weights have nothing to move yet."""

    def _make_modules_ddp_if_necessary(self) -> None:
        """Do nothing: `_place` has sharded the module with FSDP2."""

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
        params: list[Any] = [p for p in self.get_parameters(self.module[module_id]) if p.requires_grad]
        fused = all(p.is_cuda for p in params)  # the fused kernel for GPUs, torch's default for CPUs
        self.optimizer = torch.optim.AdamW(
            self._decay_groups(params),
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=fused or None,
        )
        # Checkpoints need the optimizer's state before the first step. DCP would create it with a step count of 1.
        for p in params:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            # The fused kernel needs its step count on the device.
            self.optimizer.state[p] = {"step": torch.zeros((), device=p.device if fused else "cpu"), **moments}
        self.register_optimizer(module_id=module_id, optimizer=self.optimizer, params=params)

    def _decay_groups(self, params: list[Tensor]) -> list[dict[str, Any]]:
        """The optimizer's parameter groups. Without `decay_norms`, the second group has no weight decay."""
        embeddings = self.policy.hf_model.get_input_embeddings()
        spared = [p for p in params if not self.config.decay_norms and (p.ndim < 2 or p is embeddings.weight)]
        kept = set(params) - set(spared)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in params if p in kept]},
            {"params": spared, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def apply(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # RLlib's method ends the actor and leaves the traceback in its log. This one raises the error on the driver.
        with watch("learner", self.config.stage_timeout_s):
            return func(self, *args, **kwargs)

    # ---- logprobs ---------------------------------------------------------------------------------------------

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
            logprobs, _ = self._forward(self.policy, LAYOUTS[self.layout].pack(prompt_ids, completion_ids, self.device))
        return [row[: len(c)].cpu().numpy() for row, c in zip(logprobs, completion_ids, strict=True)]

    def _lr(self) -> float:
        """The learning rate of the next optimizer step."""
        warmup = self.config.warmup_steps
        factor = min(1.0, (self.num_optimizer_steps + 1) / warmup) if warmup else 1.0
        return float(self._lr_schedule.update(timestep=self.num_optimizer_steps)) * factor

    # ---- weights and checkpoints ------------------------------------------------------------------------------

    def publish_weights(self) -> WeightsHandle | None:
        """Put the trained weights into the object store; rank 0 returns the handle. Collective."""
        return self._weights.publish(self._weights_seq_no)

    def connect(self, group: str, runners: Sequence[ActorHandle[Any]]) -> None:
        """Set up vLLM's weight transfer to these runners. This closes any earlier connection. Collective."""
        self._weights.connect(group, runners)

    def send_weights(self) -> WeightsHandle:
        """Send all weights to the runners of the last `connect`; the runners hold the handle of rank 0. Collective."""
        return self._weights.send(self._weights_seq_no)

    def load_weights(self, handle: WeightsHandle) -> None:
        """Replace the trained weights by published ones. Raises ValueError on another kind of weights. Collective."""
        self._weights.load(handle)
        self._weights_seq_no = handle.version

    def save_checkpoint(self, path: Path) -> None:
        """Write the training state below `path`. Collective."""
        checkpoints.save_state(path, self.policy, self.optimizer, self._counters(), self._moving_reference())
        if not awaits_weights():
            BaseModel.of(self.config).write(path)

    def export(self, folder: Path) -> None:
        """Write the current weights as a Hugging Face folder. Collective."""
        if weights := full_weights(self.policy):
            checkpoints.export_hf(folder, self.policy, weights, *BaseModel.of(self.config).companions())

    def load_checkpoint(self, path: Path) -> None:
        """Load a checkpoint of `save_checkpoint`. Collective."""
        counters = checkpoints.load_state(path, self.policy, self.optimizer, self._counters(), self._moving_reference())
        self._weights_seq_no = counters["weights_version"]
        self.num_optimizer_steps = counters["num_optimizer_steps"]
        self.num_skipped_steps = counters["num_skipped_steps"]

    def _moving_reference(self) -> dict[str, Tensor] | None:
        """The reference's tensors if the reference is reset during training; None if it stays the initial model."""
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
