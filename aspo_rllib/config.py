"""ASPOConfig: the settings of a run, their presets, and what they resolve to."""

from __future__ import annotations

from typing import Self

from ray.rllib.algorithms.algorithm import Algorithm

from aspo_rllib import validation
from aspo_rllib.losses import Loss, resolve_loss
from aspo_rllib.plan import describe_plan
from aspo_rllib.settings import ASPOSettings


class ASPOConfig(ASPOSettings):
    """Settings of ASPO (arXiv 2510.06062) and of every method in `losses.LOSSES`.

    Fields left at None take the value of the method chosen by `loss`; `plan()` shows what a run resolves to.

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

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        from aspo_rllib.aspo import ASPO

        super().__init__(algo_class=algo_class or ASPO)

    # ---- presets ---------------------------------------------------------------------------------------------

    @classmethod
    def paper(cls) -> Self:
        """The paper's training recipe for DeepSeek-R1-Distill-Qwen-1.5B; set env, model and hardware yourself."""
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
        """`paper()` with what the authors' released code does: wider clips, and no KL, on high-entropy tokens."""
        return cls.paper().training(
            clip_low_high_entropy=0.4,
            clip_high_high_entropy=0.4,
            entropy_quantile=0.8,
            kl_coef_high_entropy=0.0,
        )

    # ---- what a run resolves to ------------------------------------------------------------------------------

    @property
    def base_model(self) -> str:
        """`llm_model`, which every run has."""
        assert self.llm_model is not None  # `validate` refuses it
        return self.llm_model

    @property
    def method(self) -> Loss:
        """The chosen loss with every field that the config overrides."""
        loss = resolve_loss(self.loss)
        chosen = {
            name: getattr(self, name) if getattr(self, name) is not None else getattr(loss, name)
            for name in ("clip_low", "clip_high", "aggregation", "kl_coef", "normalize_std")
        }
        return Loss(loss.token_weight, **chosen)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps per iteration when no group is dropped."""
        return self.num_epochs * -(-self.batch_prompts // self.minibatch_prompts)

    @property
    def graders(self) -> int:
        """Grading workers of one env runner."""
        return self.num_graders or max(1, int(self.num_cpus_per_env_runner))

    @property
    def completions_are_seeded(self) -> bool:
        """`seed_completions`, or what suits the device of the engines."""
        return not self.num_gpus_per_env_runner if self.seed_completions is None else self.seed_completions

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest possible rollout."""
        return self.max_prompt_tokens + self.max_completion_tokens

    @property
    def sync_drift_limit(self) -> float:
        """`max_sync_drift`, or the compute type's own limit."""
        if self.max_sync_drift is not None:
            return self.max_sync_drift
        return {"float32": 0.01, "bfloat16": 1.0}[self.dtype]

    def plan(self) -> str:
        """What one iteration will do, in a few lines for people."""
        return describe_plan(self)

    def validate(self) -> None:
        """Check every field; raises ValueError naming the field, its value and the legal range."""
        validation.check_lr(self)  # RLlib's own check of it lets a TypeError through
        super().validate()
        validation.check(self)


class GRPOConfig(ASPOConfig):
    """The same algorithm with `loss="grpo"`: the baseline, on the same data path."""

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        from aspo_rllib.aspo import GRPO

        super().__init__(algo_class=algo_class or GRPO)
        self.loss = "grpo"
