"""ASPOSettings: the settings of a run, their presets, and their resolved values."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Self

from aspo_rllib.config.builders import SettingsBuilder
from aspo_rllib.config.fields.checkpointing import EVERY
from aspo_rllib.losses import Loss, resolve_loss


class ASPOSettings(SettingsBuilder):
    """All settings of a run. `aspo.ASPOConfig` adds the classes that use them."""

    # ---- presets ---------------------------------------------------------------------------------------------

    @classmethod
    def paper(cls) -> Self:
        """The paper's training recipe for DeepSeek-R1-Distill-Qwen-1.5B. Env, model and hardware are not set."""
        return (
            cls()
            .llm(dtype="bfloat16", max_prompt_tokens=2048)
            .sampling(group_size=16, temperature=1.0, top_p=1.0, max_completion_tokens=32768)
            .training(
                batch_prompts=64,
                minibatch_prompts=16,
                num_epochs=3,
                lr=1e-6,
                warmup_steps=120,
                weight_decay=0.1,
                grad_clip=1.0,
                clip_low=0.2,
                clip_high=0.2,
                weight_cap=3.0,
                aggregation="sequence",
                kl_coef=0.001,
                overlong_buffer_tokens=16,
                overlong_penalty_factor=1.0,
                max_tokens_per_microbatch=36864,
            )
        )

    @classmethod
    def archer2(cls) -> Self:
        """`paper()` with the changes in the authors' released code: wider clips and no KL on high-entropy tokens."""
        return cls.paper().training(
            clip_low_high_entropy=0.4,
            clip_high_high_entropy=0.4,
            entropy_quantile=0.8,
            kl_coef_high_entropy=0.0,
            kl_clamp=10.0,
        )

    # ---- what a run resolves to ------------------------------------------------------------------------------

    @property
    def base_model(self) -> str:
        """`llm_model` without the type None."""
        assert self.llm_model is not None  # `validate` raises for None
        return self.llm_model

    @property
    def method(self) -> Loss:
        """The chosen loss, with the values that the config overrides."""
        loss = resolve_loss(self.loss)
        chosen = {
            field.name: getattr(self, field.name)
            for field in fields(Loss)
            if getattr(self, field.name, None) is not None
        }
        return replace(loss, **chosen)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps per iteration when no group is dropped."""
        return self.num_epochs * -(-self.batch_prompts // self.minibatch_prompts)

    @property
    def graders(self) -> int:
        """Number of grading workers of one env runner."""
        return self.num_graders or max(1, int(self.num_cpus_per_env_runner))

    @property
    def completions_are_seeded(self) -> bool:
        """The resolved `seed_completions`; None means True on CPUs and with `deterministic`, and False on GPUs."""
        if self.seed_completions is not None:
            return self.seed_completions
        return self.deterministic or not self.num_gpus_per_env_runner

    def exports(self, iteration: int) -> bool:
        """Whether a checkpoint after this iteration has a loadable model, by `checkpoint_export`."""
        if isinstance(self.checkpoint_export, str):
            return self.checkpoint_export == EVERY
        return iteration % self.checkpoint_export == 0

    @property
    def learner_is_compiled(self) -> bool:
        """The resolved `compile_learner`; None means True on GPUs and False on CPUs."""
        return bool(self.num_gpus_per_learner) if self.compile_learner is None else self.compile_learner

    @property
    def max_model_len(self) -> int:
        """Number of tokens of the longest possible rollout."""
        return self.max_prompt_tokens + self.max_completion_tokens

    @property
    def sync_drift_limit(self) -> float:
        """The resolved `max_sync_drift` in nats; None means a limit that depends on `dtype`."""
        if self.max_sync_drift is not None:
            return self.max_sync_drift
        return {"float32": 0.01, "bfloat16": 1.0}[self.dtype]
