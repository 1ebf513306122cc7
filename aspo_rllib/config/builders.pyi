"""Made by `python docs/config_reference.py` from the table in `fields`; a test keeps it up to date."""

from collections.abc import Callable
from typing import Any, Never, Self

from ray.rllib.algorithms.algorithm import Algorithm

from aspo_rllib.config.field import Builder, Field
from aspo_rllib.config.rllib import TextAlgorithmConfig
from aspo_rllib.losses import Loss

def docstring(builder: Builder) -> str: ...
def facts(field: Field) -> str: ...

class SettingsBuilder(TextAlgorithmConfig):
    """The fields of the table as flat attributes that Tune can search, and a method for each group of them."""

    llm_model: str | None
    engine: str
    dtype: str
    max_prompt_tokens: int
    chat_template: str | None
    chat_template_kwargs: dict[str, Any] | None
    template_date: str
    trust_remote_code: bool
    kv_cache_memory_bytes: int | None
    gpu_memory_utilization: float
    tensor_parallel_size: int
    max_num_seqs: int
    engine_kwargs: dict[str, Any] | None
    weight_transport: str | type[Any]
    sleep: bool | None
    lora: dict[str, Any] | None
    gradient_checkpointing: bool | None
    deterministic: bool
    cpu_offload: bool
    compile_learner: bool | None
    group_size: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    stop: list[str] | None
    max_completion_tokens: int
    max_refills: int
    oversampling: float
    seed_completions: bool | None
    reward_weights: dict[str, float] | None
    num_graders: int | None
    grader_timeout_s: float
    loss: str | Loss | Callable[..., Any]
    batch_prompts: int
    minibatch_prompts: int
    num_epochs: int  # type: ignore[assignment, unused-ignore]
    max_staleness: int
    old_logprobs: str | None
    lr: float | list[Any]  # type: ignore[assignment, unused-ignore]
    warmup_steps: int
    weight_decay: float
    decay_norms: bool
    betas: tuple[float, float]
    grad_clip: float | None  # type: ignore[assignment, unused-ignore]
    clip_low: float | None
    clip_high: float | None
    clip_low_high_entropy: float | None
    clip_high_high_entropy: float | None
    entropy_quantile: float
    weight_cap: float | None
    aggregation: str | None
    advantage: Any
    kl_coef: float | None
    kl_coef_high_entropy: float | None
    kl_estimator: str
    kl_clamp: float | None
    reference_reset_interval: int | None
    sampler_correction: str | None
    sampler_correction_level: str
    sampler_ratio_cap: float
    sampler_ratio_floor: float | None
    entropy_coef: float
    drop_uniform_groups: bool
    truncated: str
    overlong_buffer_tokens: int
    overlong_penalty_factor: float
    max_tokens_per_microbatch: int
    layout: str | None
    max_sync_drift: float | None
    evaluate_before_training: bool
    eval_sets: dict[str, dict[str, Any]] | None
    stage_timeout_s: float | None
    max_entropy: float | None
    max_kl: float | None
    on_bad_numbers: str
    checkpoint_export: str | int
    saved_batches: int
    def __init__(self, algo_class: type[Algorithm] | None = None, **settings: Never) -> None: ...
    def llm(
        self,
        *,
        model: str | None = ...,
        engine: str = ...,
        dtype: str = ...,
        max_prompt_tokens: int = ...,
        chat_template: str | None = ...,
        chat_template_kwargs: dict[str, Any] | None = ...,
        template_date: str = ...,
        trust_remote_code: bool = ...,
        kv_cache_memory_bytes: int | None = ...,
        gpu_memory_utilization: float = ...,
        tensor_parallel_size: int = ...,
        max_num_seqs: int = ...,
        engine_kwargs: dict[str, Any] | None = ...,
        weight_transport: str | type[Any] = ...,
        sleep: bool | None = ...,
        lora: dict[str, Any] | None = ...,
        gradient_checkpointing: bool | None = ...,
        deterministic: bool = ...,
        cpu_offload: bool = ...,
        compile_learner: bool | None = ...,
    ) -> Self:
        """The language model, the engine that samples from it, and how the learner computes with it.

        Args:
            model: Folder or hub id of a Hugging Face causal LM. RLlib has a field `model` of its own, for its old API
                stack; therefore the attribute is `llm_model`. (default None)
            engine: What generates the completions. "transformers" is for platforms without a vLLM wheel; it uses one
                device per engine and takes models with attention layers only. ('vllm' or 'transformers'; default
                'vllm')
            dtype: Compute type of the engine and of the learner's forward and backward pass. Master weights and
                gradient reduction stay float32. ('float32' or 'bfloat16'; default 'float32')
            max_prompt_tokens: Longest prompt, with the chat template. Tasks with a longer prompt are skipped and
                counted. (an int >= 1; default 1024; paper: 2048)
            chat_template: Jinja chat template, or the path of a file with one. None takes the tokenizer's own. `"{{
                bos_token }}{{ messages[-1]['content'] }}"` gives the bare prompt to a base model, with the text of the
                system prompt before it. (default None)
            chat_template_kwargs: What the chat template takes besides the messages, for example {"enable_thinking":
                False} for Qwen3. An evaluation set may have its own. (a dict of what the template takes, or None;
                default None)
            template_date: What the chat template gets for today's date. Some templates write it into every prompt
                (Llama 3, SmolLM3). A fixed one makes prompts the same on every day, so that a run can be repeated,
                resumed and evaluated. (a date, YYYY-MM-DD; default '2024-07-26')
            trust_remote_code: Whether code in the model's folder may run. (True or False; default False)
            kv_cache_memory_bytes: Size of vLLM's KV cache. None: 256 MiB on CPU, and what `gpu_memory_utilization`
                leaves on GPU. The cache of engine="transformers" grows with what is running; `max_num_seqs` bounds it.
                (an int >= 1, or None; default None)
            gpu_memory_utilization: Share of the GPU's memory that vLLM may take. (in (0, 1]; default 0.9)
            tensor_parallel_size: GPUs per vLLM engine. On GPUs it equals `num_gpus_per_env_runner`. (an int >= 1;
                default 1)
            max_num_seqs: Completions that the engine decodes at the same time. With `max_staleness`, an engine for
                which one batch is not enough works on two batches at once and finishes both late. On CPUs, set it to
                one runner's share of a batch. (an int >= 1; default 256)
            engine_kwargs: Further arguments of `vllm.LLM`, handed to it as they are, for example speculative_config,
                quantization, kv_cache_dtype or max_num_batched_tokens. What other settings set is refused. Arguments
                that change the engine's arithmetic, such as a quantization, move its probabilities away from the
                learner's: `max_sync_drift` limits by how much, and `sampler_correction` corrects for it. (a dict of
                vLLM's engine arguments, or None; default None)
            weight_transport: How weights get into the engines. "object_store" works on any machines, "nccl" needs GPUs
                of their own for runners and learners, "ipc" needs one GPU for both. "auto" takes the fastest one that
                the placement allows; with `lora` and with engine="transformers" that is the object store. A subclass of
                vLLM's TrainerInitInfo must be in a module that registers its `backend` in both of vLLM's weight-
                transfer factories when it is imported. (one of ('auto', 'object_store', 'nccl', 'ipc'), or a subclass
                of vLLM's TrainerInitInfo; default 'auto')
            sleep: Whether the engine gives its GPU memory back while the learner updates; this needs max_staleness=0.
                None: it does if runner and learner share a GPU. They share one when there is one of each and both ask
                for a part of a GPU, for example num_gpus_per_env_runner=0.5 and num_gpus_per_learner=0.5. The engine's
                share, `gpu_memory_utilization`, must leave enough memory for what the learner keeps between updates:
                weights, optimizer state and reference. (True, False or None; default None)
            lora: Keywords of peft.LoraConfig, for example {"r": 16, "target_modules": "all-linear"}: only the adapters
                are trained. Plain LoRA only, with r in [1, 512]; on GPU engines it needs dtype="bfloat16". Weight syncs
                and training state hold the adapters alone, exported folders hold merged weights. None: train all
                weights. (a dict of peft.LoraConfig keywords, or None; default None)
            gradient_checkpointing: Whether the learner recomputes each layer in the backward pass instead of keeping
                its activations. This costs about a third more compute and saves most of the activations' memory. None:
                on a GPU if the largest micro-batch does not fit otherwise, by the estimate that `--dry-run` prints;
                never on CPUs. (True, False or None; default None)
            deterministic: Whether a run computes exactly what an earlier run with the same seed has computed, on GPUs
                as well: vLLM's kernels that do not depend on the batch (`VLLM_BATCH_INVARIANT`) and torch's
                deterministic algorithms, which are slower. It needs a seed, max_staleness=0 and oversampling=1. Runs on
                CPUs with these settings always do. (True or False; default False)
            cpu_offload: Whether the learners' shards and their optimizer state stay in host memory; this needs
                num_learners > 1. (True or False; default False)
            compile_learner: Whether the learner's layers, and on GPUs the arithmetic on logits, go through
                torch.compile. On an H100 this gives twice the speed with two thirds of the memory, for 10 to 30 s of
                compiling in the first update. None: on GPUs. (True, False or None; default None)
        """
    def sampling(
        self,
        *,
        group_size: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        top_k: int = ...,
        min_p: float = ...,
        repetition_penalty: float = ...,
        stop: list[str] | None = ...,
        max_completion_tokens: int = ...,
        max_refills: int = ...,
        oversampling: float = ...,
        seed_completions: bool | None = ...,
        reward_weights: dict[str, float] | None = ...,
        num_graders: int | None = ...,
        grader_timeout_s: float = ...,
    ) -> Self:
        """How completions are drawn and graded.

        For an evaluation, override these in `evaluation_config` or in one of the `eval_sets`.

        Args:
            group_size: Completions per prompt (G). In training, 1 needs drop_uniform_groups=False, and then a
                completion has no others to be compared with. (an int >= 1; default 16; paper: 16)
            temperature: Sampling temperature: in (0, 2] in training, >= 0 in an evaluation. The learner's logprobs are
                taken at the same temperature. (default 1.0; paper: 1.0)
            top_p: Nucleus sampling. Below 1 the engine samples from another distribution than the learner's, and its
                logprobs are those of the kept tokens. Training then needs a `sampler_correction`. (in (0, 1]; default
                1.0; paper: 1.0)
            top_k: Only the k most likely tokens are sampled; 0: all. Above 0, see `top_p`. (an int >= 0; default 0;
                paper: 0)
            min_p: Only tokens are sampled whose probability is at least this share of the most likely one's. Above 0,
                see `top_p`. (in [0, 1); default 0.0; paper: 0)
            repetition_penalty: Logits of tokens that prompt or completion already have are divided by this, or
                multiplied where they are negative. If it is not 1, see `top_p`. (> 0; default 1.0; paper: 1)
            stop: Texts that end a completion as its end token does. The completion's text, which the grader gets, ends
                with the stop text; all of its tokens are trained on. (a list of texts that are not empty, or None;
                default None)
            max_completion_tokens: Longest completion. (an int >= 1; default 1024; paper: 32768 for 1.5B models)
            max_refills: How often an iteration asks further prompts in place of those whose groups are all right or all
                wrong. After that it goes on with what there is. DAPO's dynamic sampling corresponds to about 10. (an
                int >= 0; default 0; paper: 0)
            oversampling: How many prompts are sampled per prompt that the batch needs. Above 1, the slowest prompts are
                dropped once the batch is full. This favours short completions. (a number >= 1; default 1.0)
            seed_completions: Whether every completion has its own random seed, computed from the run's seed and the
                position of its prompt in the run. A completion then depends neither on the runner that samples it nor
                on the other completions in the engine, and a resumed run is exact. vLLM samples such completions one by
                one, which costs 10 % of a tiny model's time on CPU. None: on CPU only, because on GPUs the
                probabilities themselves depend on the other completions in the engine. (True, False or None; default
                None)
            reward_weights: How much each of the env's named rewards counts, for example {"correct": 1, "format": 0.1}.
                Every one of them has a weight. None: the reward that the env itself gives. An evaluation of another env
                does not take over the weights. (a dict of names to finite numbers, not all of them 0, or None; default
                None)
            num_graders: Worker processes of one env runner that grade on copies of the env while the engine generates.
                None: as many as the runner has CPUs (`num_cpus_per_env_runner`). (an int >= 1, or None; default None)
            grader_timeout_s: Longest time for grading one completion. A completion that takes longer earns 0 and counts
                as a timeout. This is the last resort: the graders of `envs` have tighter limits of their own. (> 0;
                default 120.0)
        """
    def training(  # type: ignore[override, unused-ignore]
        self,
        *,
        loss: str | Loss | Callable[..., Any] = ...,
        batch_prompts: int = ...,
        minibatch_prompts: int = ...,
        num_epochs: int = ...,
        max_staleness: int = ...,
        old_logprobs: str | None = ...,
        lr: float | list[Any] = ...,
        warmup_steps: int = ...,
        weight_decay: float = ...,
        decay_norms: bool = ...,
        betas: tuple[float, float] = ...,
        grad_clip: float | None = ...,
        clip_low: float | None = ...,
        clip_high: float | None = ...,
        clip_low_high_entropy: float | None = ...,
        clip_high_high_entropy: float | None = ...,
        entropy_quantile: float = ...,
        weight_cap: float | None = ...,
        aggregation: str | None = ...,
        advantage: Any = ...,
        kl_coef: float | None = ...,
        kl_coef_high_entropy: float | None = ...,
        kl_estimator: str = ...,
        kl_clamp: float | None = ...,
        reference_reset_interval: int | None = ...,
        sampler_correction: str | None = ...,
        sampler_correction_level: str = ...,
        sampler_ratio_cap: float = ...,
        sampler_ratio_floor: float | None = ...,
        entropy_coef: float = ...,
        drop_uniform_groups: bool = ...,
        truncated: str = ...,
        overlong_buffer_tokens: int = ...,
        overlong_penalty_factor: float = ...,
        max_tokens_per_microbatch: int = ...,
        layout: str | None = ...,
        max_sync_drift: float | None = ...,
        **rllib: Any,
    ) -> Self:
        """The loss, the optimizer and the batch. Other keywords go to RLlib's `AlgorithmConfig.training`.

        Args:
            loss: A name in `losses.LOSSES`, a `losses.Loss`, or a token-weight function of one's own. (default 'aspo';
                paper: aspo)
            batch_prompts: Prompts per iteration (P). If the env has fewer tasks, down to a single one, they are asked
                more than once per batch, with a warning. (an int >= 1; default 64; paper: 64)
            minibatch_prompts: Prompts per optimizer step, at most `batch_prompts`. (an int >= 1; default 16; paper: 16)
            num_epochs: Passes over an iteration's rollouts. (an int >= 1; default 3; paper: 3)
            max_staleness: Batches that are sampled ahead. With k, the runners sample the next k batches while the
                learner trains; new weights enter the running engines, and no rollout is older than k updates. (an int
                >= 0; default 0; paper: 0)
            old_logprobs: The policy that the importance ratio is taken to. "learner" is the learner's own policy right
                before the update. "sampler" is the policy that sampled, by the logprobs of the engine: with stale
                rollouts the ratio then holds everything that has changed since. "sampler" needs top_p=1 and no
                sampler_correction. None: the loss's own. ('learner' or 'sampler', or None; default None; paper:
                learner)
            lr: AdamW's learning rate > 0, or a schedule [[0, lr], [step, lr], ...] in optimizer steps, as RLlib takes
                it. (default 1e-06; paper: 1e-6)
            warmup_steps: Optimizer steps of linear warm-up. (an int >= 0; default 0; paper: 120: 10 iterations of 12
                steps)
            weight_decay: AdamW's weight decay. (>= 0; default 0.1; paper: 0.1)
            decay_norms: Whether weight_decay acts on norms, biases and embeddings, too. False spares them;
                transformers' Trainer spares norms and biases. With True all weights decay, as in verl, on which the
                paper's code is built. (True or False; default True; paper: True)
            betas: AdamW's betas. (two numbers in [0, 1); default (0.9, 0.999))
            grad_clip: Largest global gradient norm; a longer gradient is scaled down. A step whose norm is not finite
                is skipped. None: no limit. (> 0, or None; default 1.0; paper: 1.0)
            clip_low: Distance of the lower clip bound from ratio 1. None: the loss's own. (in [0, 1], or None; default
                None; paper: 0.2)
            clip_high: Distance of the upper clip bound from ratio 1. None: the loss's own. (>= 0, or None; default
                None; paper: 0.2)
            clip_low_high_entropy: `clip_low` for high-entropy tokens. None: no distinction. (in [0, 1], or None;
                default None; archer2: 0.4)
            clip_high_high_entropy: `clip_high` for high-entropy tokens. None: no distinction. (>= 0, or None; default
                None; archer2: 0.4)
            entropy_quantile: Tokens above this quantile of their completion's entropies are high-entropy tokens. (in
                (0, 1); default 0.8; archer2: 0.8)
            weight_cap: c: where the token weight is capped, or masked for negative advantages in losses with a dual
                clip. None: the loss's own. Infinity: no cap. (> 1, or None; default None; paper: 3, a literal of the
                released code)
            aggregation: How the tokens' losses become one loss; see `losses.aggregation_coefficients`. None: the loss's
                own. ('token', 'sequence', 'sum' or 'constant', or None; default None; paper: sequence)
            advantage: How rewards become advantages: a name in `learner.advantages.ADVANTAGES`, an `Advantage`, or a
                function from a group's rewards `[G]` to its advantages `[G]`. None: the loss's own. (default None;
                paper: grpo)
            kl_coef: Weight of the KL divergence to the initial model. Above 0 a second copy of the model is kept; with
                `lora` the policy without its adapters takes that part. None: the loss's own. (>= 0, or None; default
                None; paper: 0.001)
            kl_coef_high_entropy: `kl_coef` for high-entropy tokens. None: no distinction. (>= 0, or None; default None;
                archer2: 0)
            kl_estimator: How the KL divergence is estimated from samples; see `losses.kl_penalty`. ('k1', 'k2' or 'k3';
                default 'k3'; paper: k3)
            kl_clamp: Largest absolute value of a token's KL estimate, beyond which it has no gradient. None: no limit.
                (> 0, or None; default None; archer2: 10)
            reference_reset_interval: Iterations after which the policy becomes the reference. None: never. (an int >=
                1, or None; default None)
            sampler_correction: Whether the policy's term of the loss is weighted with the sampler ratio pi_old / mu;
                see `learner.mismatch`. KL and entropy terms are not. The ratio's statistics are logged in any case.
                ('truncated' or 'masked', or None; default None)
            sampler_correction_level: Whether the sampler ratio is that of a token, the product over the completion
                ("sequence"), or the geometric mean over the completion. ('token', 'geometric' or 'sequence'; default
                'token')
            sampler_ratio_cap: Upper bound of the sampler ratio: where "truncated" holds it, and above which "masked"
                leaves tokens out. (> 1; default 2.0)
            sampler_ratio_floor: Lower bound of the sampler ratio, as `sampler_ratio_cap` is the upper one. None: 1 /
                sampler_ratio_cap with "masked", no bound with "truncated". (in [0, 1), or None; default None)
            entropy_coef: Weight of the entropy bonus. (>= 0; default 0.0; paper: 0)
            drop_uniform_groups: Whether groups that are all right or all wrong are left out. (True or False; default
                True; paper: True)
            truncated: Completions that were cut at `max_completion_tokens`. "keep" trains on them, "mask" counts them
                in the baseline of their group but does not train on them (DAPO's overlong filtering), "drop" leaves
                them out before the baseline is taken. ('keep', 'mask' or 'drop'; default 'keep'; paper: keep)
            overlong_buffer_tokens: Tokens before `max_completion_tokens` over which DAPO's soft punishment grows. 0: no
                punishment. (an int >= 0; default 0; paper: 16)
            overlong_penalty_factor: Size of that punishment at the end. (>= 0; default 1.0; paper: 1.0)
            max_tokens_per_microbatch: Tokens of one forward pass, padding included. It bounds the memory; results do
                not depend on it. (an int >= 1; default 16384)
            layout: How the rollouts of a forward pass lie in tensors. "packed" puts all of them into one row without
                padding, "padded" gives each a row as wide as the longest; results are the same. "shared" is "packed"
                with each prompt once for all completions of its group, which saves (G - 1) / G of the prompts' work
                outside of attention; results differ by rounding only. None: packed, unless the model would mix the
                rollouts of a row. ('padded', 'packed' or 'shared', or None; default None)
            max_sync_drift: Largest difference between the engine's and the learner's logprobs of a few tokens that is
                allowed after a weight sync. None: 0.01 in float32, 1.0 in bfloat16. (> 0, or None; default None)
        """
    def evaluation(  # type: ignore[override, unused-ignore]
        self,
        *,
        evaluate_before_training: bool = ...,
        eval_sets: dict[str, dict[str, Any]] | None = ...,
        **rllib: Any,
    ) -> Self:
        """Evaluation on the training runners, between iterations. Other keywords go to RLlib's `evaluation`.

        RLlib's keywords that matter are `evaluation_interval` (iterations), `evaluation_duration` (how many prompts:
        the first ones of the env; each gets `group_size` completions) and `evaluation_config` (settings for the
        evaluation alone, such as `{"env_config": {"split": "test"}, "group_size": 64, "temperature": 0.8}`; the paper:
        64 completions at 0.8).

        Args:
            evaluate_before_training: Whether the first `train()` starts with an evaluation, if there is an
                `evaluation_interval`. Its result stands in the first result as `evaluation_at_start`. (True or False;
                default True)
            eval_sets: Several sets of prompts by name, for example {"aime24": {"env": "aspo/Math-v0", "env_config":
                {"data": "aime24.parquet"}, "evaluation_duration": 30, "group_size": 64}}. The settings of a set, which
                must be among `eval_sets.SETTINGS`, go on top of `evaluation_config`. A set that names its env does not
                get the training env's `env_config`. Results stand under `evaluation/<name>/`, and `evaluation/accuracy`
                is the mean over the sets. None: one set, whose results stand under `evaluation/`. (default None)
        """
    def fault_tolerance(  # type: ignore[override, unused-ignore]
        self,
        *,
        stage_timeout_s: float | None = ...,
        max_entropy: float | None = ...,
        max_kl: float | None = ...,
        on_bad_numbers: str = ...,
        **rllib: Any,
    ) -> Self:
        """What happens when something fails, hangs or diverges. Other keywords go to RLlib's `fault_tolerance`.

        RLlib's keywords that matter are `restart_failed_env_runners` and `env_runner_restore_timeout_s`. With the first
        at True, a runner that dies, raises or hangs is restarted, and the others sample its prompts; at False its error
        is raised. The second (600) is how long a run without any runner waits for one. A learner that fails ends the
        run, which Tune's FailureConfig restores.

        An iteration is bad if `entropy/mean`, `kl/sampler`, `kl/old` or `kl/ref` is not finite or above its limit here,
        if every optimizer step was skipped because its gradient was not finite, or if a weight is not finite. A single
        skipped step is only counted.

        Args:
            stage_timeout_s: Longest time for a stage of an iteration. Processes that take longer print where they are;
                after that a runner is restarted, and learners end the run. None: no limit. (> 0, or None; default
                3600.0)
            max_entropy: Largest `entropy/mean`, in nats. It is that of the policy before the update. None: any finite
                one. (> 0, or None; default None)
            max_kl: Largest `kl/old`, in nats per token: the k3 estimate of KL(old || new), where old is what the ratio
                is taken to, as a mean over the update's steps. None: any finite one. (> 0, or None; default None)
            on_bad_numbers: What a bad iteration does. "stop" raises BadNumbersError before engines or checkpoints get
                the weights. "rollback" puts weights, optimizer and learning rate schedule back to the last good
                checkpoint that the run wrote or was restored from, and goes on with the next tasks; without such a
                checkpoint, or after 3 times to the same one, it stops. "warn" goes on, and saves such weights, too.
                ('warn', 'stop' or 'rollback'; default 'stop')
        """
    def checkpointing(  # type: ignore[override, unused-ignore]
        self,
        *,
        export: str | int = ...,
        **rllib: Any,
    ) -> Self:
        """What a checkpoint has besides the state from which a run goes on.

        How often there is a checkpoint, and how many are kept, are settings of Tune: `CheckpointConfig`.

        Args:
            export: Which checkpoints have a folder learner_group/hf, which transformers and vLLM load. It has a quarter
                of a checkpoint's bytes and is written while training waits. An int n: those after n, 2n, 3n, ...
                iterations. `python -m aspo_rllib.export CHECKPOINT` makes the folder of any other checkpoint later.
                ('every', 'never', or an int >= 1; default 'every')
        """
    def debugging(  # type: ignore[override, unused-ignore]
        self,
        *,
        saved_batches: int = ...,
        **rllib: Any,
    ) -> Self:
        """What makes a run repeatable, and what is kept to look into it. Other keywords go to RLlib's `debugging`.

        RLlib's keyword that matters is `seed`: two runs with the same seed see the same prompts in the same order.

        Args:
            saved_batches: How many of the latest iterations have all their rollouts kept in the trial's folder, as
                `rollouts/iteration_000012.parquet`. `python -m aspo_rllib.replay` runs such a batch through the learner
                again. A batch is written before its update, so that the one that ends a run is there, too. 0: none. (an
                int >= 0; default 0)
        """
