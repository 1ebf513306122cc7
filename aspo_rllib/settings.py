"""Every setting of a run: the fields, and RLlib's builder methods that set and explain them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from aspo_rllib.base_config import TextAlgorithmConfig
from aspo_rllib.losses import Loss

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class ASPOSettings(TextAlgorithmConfig):
    """The fields of ASPOConfig, flat attributes that Tune can search."""

    def __init__(self, algo_class: type[Algorithm]) -> None:
        super().__init__(algo_class=algo_class)

        # llm()
        self.llm_model: str | None = None
        self.engine = "vllm"
        self.dtype = "float32"
        self.max_prompt_tokens = 1024
        self.chat_template: str | None = None
        self.trust_remote_code = False
        self.kv_cache_memory_bytes: int | None = None
        self.gpu_memory_utilization = 0.9
        self.tensor_parallel_size = 1
        self.max_num_seqs = 256
        self.weight_transport: str | type[Any] = "auto"
        self.sleep: bool | None = None
        self.lora: dict[str, Any] | None = None
        self.gradient_checkpointing = False
        self.cpu_offload = False
        self.compile_learner = False

        # sampling()
        self.group_size = 16
        self.temperature = 1.0
        self.top_p = 1.0
        self.max_completion_tokens = 1024
        self.max_refills = 0
        self.oversampling = 1.0
        self.seed_completions: bool | None = None
        self.num_graders: int | None = None
        self.grader_timeout_s = 120.0

        # training()
        self.loss: str | Loss | Callable[..., Any] = "aspo"
        self.batch_prompts = 64
        self.minibatch_prompts = 16
        self.num_epochs = 3
        self.max_staleness = 0
        self.old_logprobs = "learner"
        self.clip_low: float | None = None
        self.clip_high: float | None = None
        self.clip_low_high_entropy: float | None = None
        self.clip_high_high_entropy: float | None = None
        self.entropy_quantile = 0.8
        self.weight_cap = 3.0
        self.aggregation: str | None = None
        self.normalize_std: bool | None = None
        self.kl_coef: float | None = None
        self.kl_coef_high_entropy: float | None = None
        self.kl_estimator = "k3"
        self.reference_reset_interval: int | None = None
        self.sampler_correction: str | None = None
        self.sampler_correction_level = "token"
        self.sampler_ratio_cap = 2.0
        self.entropy_coef = 0.0
        self.drop_uniform_groups = True
        self.overlong_buffer_tokens = 0
        self.overlong_penalty_factor = 1.0
        self.lr = 1e-6
        self.warmup_steps = 0
        self.weight_decay = 0.1
        self.betas = (0.9, 0.999)
        self.grad_clip = 1.0  # type: ignore[assignment]  # RLlib declares it by its default, None
        self.max_tokens_per_microbatch = 16384
        self.layout: str | None = None
        self.max_sync_drift: float | None = None

        # evaluation()
        self.evaluate_before_training = True
        self.eval_sets: dict[str, dict[str, Any]] | None = None

        # fault_tolerance()
        self.stage_timeout_s: float | None = 3600.0
        self.max_entropy: float | None = None
        self.max_kl: float | None = None
        self.on_bad_numbers = "stop"

    # ---- builder methods -------------------------------------------------------------------------------------

    def llm(
        self,
        *,
        model: str = NotProvided,
        engine: str = NotProvided,
        dtype: str = NotProvided,
        max_prompt_tokens: int = NotProvided,
        chat_template: str | None = NotProvided,
        trust_remote_code: bool = NotProvided,
        kv_cache_memory_bytes: int | None = NotProvided,
        gpu_memory_utilization: float = NotProvided,
        tensor_parallel_size: int = NotProvided,
        max_num_seqs: int = NotProvided,
        weight_transport: str | type[Any] = NotProvided,
        sleep: bool | None = NotProvided,
        lora: dict[str, Any] | None = NotProvided,
        gradient_checkpointing: bool = NotProvided,
        cpu_offload: bool = NotProvided,
        compile_learner: bool = NotProvided,
        **unknown: Any,
    ) -> Self:
        """The language model and its engine.

        Args:
            model: Folder or hub id of a Hugging Face causal LM; the attribute is `llm_model`.
            engine: What generates: "vllm", or "transformers", for platforms without a vLLM wheel: one device
                per engine, models with attention layers only.
            dtype: "float32" or "bfloat16": compute type of the engine and of the learner's forward and backward pass.
                Master weights and gradient reduction stay float32.
            max_prompt_tokens: Longest templated prompt, >= 1 (paper: 2048). Tasks with a longer one are passed over and
                counted.
            chat_template: Jinja chat template; None takes the tokenizer's own.
                `"{{ messages[-1]['content'] }}"` gives the bare prompt to a base model.
            trust_remote_code: Whether code in the model's folder may run.
            kv_cache_memory_bytes: vLLM's KV cache; None: 256 MiB on CPU, `gpu_memory_utilization` on GPU. That of
                engine="transformers" grows with what is running; `max_num_seqs` bounds it.
            gpu_memory_utilization: Share of GPU memory for vLLM, in (0, 1].
            tensor_parallel_size: GPUs per vLLM engine, >= 1; on GPUs equal to `num_gpus_per_env_runner`.
            max_num_seqs: Completions that the engine decodes at once, >= 1. With `max_staleness`, an engine that takes
                more than a batch works on two and finishes both late; on CPUs give it a runner's share of a batch.
            weight_transport: How weights get into the engines: "object_store" (any machines), "nccl" (GPUs of their
                own for runners and learners) or "ipc" (one GPU for both). "auto" takes the fastest that the
                placement allows; with `lora` and with engine="transformers" that is the object store. Or a subclass of
                vLLM's TrainerInitInfo, in a module that registers its `backend` in both of vLLM's weight-transfer
                factories when it is imported.
            sleep: Whether the engine gives its GPU memory back while the learner updates; needs max_staleness=0. None:
                if runner and learner share a GPU, which they do when the only one of each asks for a part of one, e.g.
                num_gpus_per_env_runner=0.5 and num_gpus_per_learner=0.5. What the learner keeps between updates
                (weights, optimizer state, reference) must fit beside `gpu_memory_utilization`.
            lora: Keywords of peft.LoraConfig: train adapters alone, e.g. {"r": 16, "target_modules": "all-linear"}.
                Plain LoRA only, r in [1, 512]; on GPU engines it needs dtype="bfloat16". Weight syncs and training
                state hold the adapters alone, exported folders merged weights. None: train all weights.
            gradient_checkpointing: Whether the learner recomputes each layer in the backward pass instead of keeping
                its activations: about a third more compute for a fraction of the memory.
            cpu_offload: Whether the learners' shards and optimizer state live in host memory; needs num_learners > 1.
            compile_learner: Whether the learner's layers go through torch.compile.
        """
        given = dict(locals())
        given["llm_model"] = given.pop("model")  # RLlib has a `model` of its own, for its old API stack
        return self._set("llm", given)

    def sampling(
        self,
        *,
        group_size: int = NotProvided,
        temperature: float = NotProvided,
        top_p: float = NotProvided,
        max_completion_tokens: int = NotProvided,
        max_refills: int = NotProvided,
        oversampling: float = NotProvided,
        seed_completions: bool | None = NotProvided,
        num_graders: int | None = NotProvided,
        grader_timeout_s: float = NotProvided,
        **unknown: Any,
    ) -> Self:
        """How completions are drawn and graded. For evaluation, override these in `evaluation_config`.

        Args:
            group_size: Completions per prompt (G), >= 1 (paper: 16). In training 1 needs drop_uniform_groups=False, and
                there is no baseline to compare with then.
            temperature: > 0 in training (paper: 1.0); the learner's logprobs are taken at the same temperature.
            top_p: In (0, 1] (paper: 1.0). Below 1 the engine's logprobs are renormalised over the kept tokens and
                differ from the learner's.
            max_completion_tokens: Longest completion, >= 1 (paper: 32768 for 1.5B models).
            max_refills: How often an iteration asks further prompts in place of those whose groups are all right or all
                wrong, >= 0 (paper: 0; DAPO's dynamic sampling: 10 or so). It then goes on with what there is.
            oversampling: Prompts asked per prompt needed, >= 1. Above 1 the slowest ones are given up once the batch is
                full, which favours short completions.
            seed_completions: Whether every completion has a random seed of its own, made of the run's seed and its
                prompt's place in it: then it does not depend on which runner draws it beside what, and a resumed run is
                exact. vLLM draws for such completions one by one: on CPU 10 % of a tiny model's time. None: on CPU;
                on GPU, where probabilities depend on what else is in the batch, it would buy nothing.
            num_graders: Worker processes per env runner that grade on copies of the env while the engine generates,
                >= 1. None: as many as the runner has CPUs (`num_cpus_per_env_runner`).
            grader_timeout_s: Longest time for one completion, > 0; then it earns 0 and counts as a timeout. A last
                resort: the graders of `envs` have tighter limits of their own.
        """
        return self._set("sampling", dict(locals()))

    def training(  # type: ignore[override]
        self,
        *,
        loss: str | Loss | Callable[..., Any] = NotProvided,
        batch_prompts: int = NotProvided,
        minibatch_prompts: int = NotProvided,
        num_epochs: int = NotProvided,
        max_staleness: int = NotProvided,
        old_logprobs: str = NotProvided,
        lr: float | list[Any] = NotProvided,
        warmup_steps: int = NotProvided,
        weight_decay: float = NotProvided,
        betas: tuple[float, float] = NotProvided,
        grad_clip: float | None = NotProvided,
        clip_low: float | None = NotProvided,
        clip_high: float | None = NotProvided,
        clip_low_high_entropy: float | None = NotProvided,
        clip_high_high_entropy: float | None = NotProvided,
        entropy_quantile: float = NotProvided,
        weight_cap: float = NotProvided,
        aggregation: str | None = NotProvided,
        normalize_std: bool | None = NotProvided,
        kl_coef: float | None = NotProvided,
        kl_coef_high_entropy: float | None = NotProvided,
        kl_estimator: str = NotProvided,
        reference_reset_interval: int | None = NotProvided,
        sampler_correction: str | None = NotProvided,
        sampler_correction_level: str = NotProvided,
        sampler_ratio_cap: float = NotProvided,
        entropy_coef: float = NotProvided,
        drop_uniform_groups: bool = NotProvided,
        overlong_buffer_tokens: int = NotProvided,
        overlong_penalty_factor: float = NotProvided,
        max_tokens_per_microbatch: int = NotProvided,
        layout: str | None = NotProvided,
        max_sync_drift: float | None = NotProvided,
        **rllib: Any,
    ) -> Self:
        """The loss, the optimizer and the batch. Other keywords go to RLlib's `AlgorithmConfig.training`.

        Args:
            loss: A name in `losses.LOSSES`, a `losses.Loss`, or a token-weight function of one's own.
            batch_prompts: Prompts per iteration (P), >= 1 (paper: 64). With fewer tasks, down to a single one, they are
                asked more than once per batch, with a warning.
            minibatch_prompts: Prompts per optimizer step, in [1, batch_prompts] (paper: 16).
            num_epochs: Passes over an iteration's rollouts, >= 1 (paper: 3).
            max_staleness: Batches that are sampled ahead, >= 0 (paper: 0). With k the runners sample the next k batches
                while the learner trains; new weights enter the running engines, and no rollout is older than k updates.
            old_logprobs: What the importance ratio is taken to: "learner", the learner's own policy right before the
                update (paper), or "sampler", the policy that sampled, by the engine's logprobs: with stale rollouts the
                ratio then holds all that has changed since. "sampler" needs top_p=1 and no sampler_correction.
            lr: AdamW's learning rate > 0 (paper: 1e-6), or RLlib's schedule [[step, lr], ...] in optimizer steps.
            warmup_steps: Optimizer steps of linear warm-up, >= 0 (paper: 10 iterations of 12 steps).
            weight_decay: AdamW's, >= 0 (paper: 0.1).
            betas: AdamW's, each in [0, 1).
            grad_clip: Largest global gradient norm, > 0 (paper: 1.0), or None. A step whose norm is not finite is
                skipped.
            clip_low, clip_high: Distances of the clip bounds from ratio 1, clip_low in [0, 1], clip_high >= 0
                (paper: 0.2, 0.2). None: the loss's own.
            clip_low_high_entropy, clip_high_high_entropy: The same for high-entropy tokens (archer2: 0.4, 0.4).
                None: no distinction.
            entropy_quantile: Tokens above this quantile of their response's entropies are high-entropy, in (0, 1)
                (archer2: 0.8).
            weight_cap: c, the soft cap of the token weight, > 1 (paper: 3).
            aggregation: "token", "sequence" or "constant"; see `losses.aggregation_coefficients` (paper: "sequence").
            normalize_std: Whether advantages are divided by the group's standard deviation (paper: True).
            kl_coef: Weight of the k3 KL to the initial model, >= 0 (paper: 0.001). Above 0 a second copy of it is kept;
                with `lora` the policy without its adapters takes that part.
            kl_coef_high_entropy: The same for high-entropy tokens (archer2: 0). None: no distinction.
            kl_estimator: "k1", "k2" or "k3" (paper: "k3"); see `losses.kl_penalty`.
            reference_reset_interval: Iterations after which the reference becomes the policy, >= 1; None: never.
            sampler_correction: Whether to weigh in the sampler ratio pi_old / mu: None, "truncated" or "masked"; see
                `mismatch`. Its statistics are logged in any case.
            sampler_correction_level: "token" or "sequence".
            sampler_ratio_cap: Where the sampler ratio is truncated, or masked outside [1/cap, cap], > 1.
            entropy_coef: Entropy bonus, >= 0 (paper: 0).
            drop_uniform_groups: Whether groups that are all right or all wrong are left out (paper: True).
            overlong_buffer_tokens: Length of DAPO's soft punishment before max_completion_tokens; 0: off (paper: 16).
            overlong_penalty_factor: Its size at the end, >= 0 (paper: 1.0).
            max_tokens_per_microbatch: Tokens of one forward pass, padding included. Memory only: results do not depend
                on it.
            layout: "packed" puts all rollouts of a forward pass into one row without padding, "padded" gives each a row
                as wide as the longest; None: packed, unless the model would mix the rollouts. Same results. "shared" is
                "packed" with each prompt once for all of its group, which saves (G - 1) / G of the prompts' work but
                for attention; same results but for rounding.
            max_sync_drift: Largest allowed |engine - learner| logprob of a probe after a weight sync, > 0.
                None: 0.01 in float32, 1.0 in bfloat16.
        """
        given = dict(locals())
        unknown = self._split_off_unknown(given.pop("rllib"), AlgorithmConfig.training)
        super().training(**rllib)
        return self._set("training", given | {"unknown": unknown})

    def evaluation(
        self,
        *,
        evaluate_before_training: bool = NotProvided,
        eval_sets: dict[str, dict[str, Any]] | None = NotProvided,
        **rllib: Any,
    ) -> Self:
        """Evaluation on the training runners, between iterations. Other keywords go to RLlib's `evaluation`.

        The ones that matter: `evaluation_interval` (iterations), `evaluation_duration` (how many prompts: the first
        ones of the env; each gets `group_size` completions), `evaluation_config` (overrides for evaluation alone, such
        as `{"env_config": {"split": "test"}, "group_size": 64, "temperature": 0.8}`; the paper: k = 64 at 0.8).

        Args:
            evaluate_before_training: Whether, with an `evaluation_interval`, the first `train()` starts with an
                evaluation. Its result stands in the first result as `evaluation_at_start`.
            eval_sets: Several sets of prompts by name, e.g. {"aime24": {"env": "aspo/Math-v0", "env_config": {"data":
                "aime24.parquet"}, "evaluation_duration": 30, "group_size": 64}}. Each set's settings, those of
                `evaluation_sets.SETTINGS`, go on top of `evaluation_config`; one that names its env does not get the
                training env's `env_config`. Results stand under `evaluation/<name>/`, and `evaluation/accuracy` is the
                mean over the sets. None: one set, whose results stand under `evaluation/`.
        """
        unknown = self._split_off_unknown(rllib, AlgorithmConfig.evaluation)
        super().evaluation(**rllib)
        given = {"evaluate_before_training": evaluate_before_training, "eval_sets": eval_sets}
        return self._set("evaluation", given | {"unknown": unknown})

    def fault_tolerance(
        self,
        *,
        stage_timeout_s: float | None = NotProvided,
        max_entropy: float | None = NotProvided,
        max_kl: float | None = NotProvided,
        on_bad_numbers: str = NotProvided,
        **rllib: Any,
    ) -> Self:
        """What to do when something fails or goes astray. Other keywords go to RLlib's `fault_tolerance`.

        RLlib's that matter: `restart_failed_env_runners` (True: a runner that dies, raises or hangs is started anew,
        and others sample its prompts; False: its error is raised), `env_runner_restore_timeout_s` (600: how long a run
        without any runner waits for one). A learner that fails ends the run, which Tune's FailureConfig restores.

        An iteration is bad if `entropy/mean`, `kl/sampler`, `kl/old` or `kl/ref` is not finite or above its limit here,
        if every optimizer step was skipped for a gradient that is not finite, or if a weight is not finite. A single
        skipped step is counted and no more.

        Args:
            stage_timeout_s: Longest time for a stage of an iteration, > 0. Processes that take longer print where they
                are; then a runner is restarted, and learners end the run. None: no limit.
            max_entropy: Largest `entropy/mean`, in nats, > 0. It is that of the policy before the update. None: any
                finite one.
            max_kl: Largest `kl/old`, in nats per token, > 0: the k3 estimate of KL(old || new), where old is what
                the ratio is taken to, as a mean over the update's steps. None: any finite one.
            on_bad_numbers: What a bad iteration does: "stop" raises BadNumbersError, before engines or checkpoints get
                the weights. "rollback" puts weights, optimizer and learning rate schedule back to the last good
                checkpoint that the run wrote or was restored from, and goes on with the next tasks; without one, or
                after 3 times to the same, it stops. "warn" goes on, and saves such weights, too.
        """
        given = dict(locals())
        unknown = self._split_off_unknown(given.pop("rllib"), AlgorithmConfig.fault_tolerance)
        super().fault_tolerance(**rllib)
        return self._set("fault_tolerance", given | {"unknown": unknown})
