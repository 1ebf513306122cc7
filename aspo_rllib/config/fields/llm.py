"""The settings of `.llm()`: the language model, the engine that samples from it, and how the learner computes."""

from datetime import date

from aspo_rllib.config.field import (
    ANYTHING,
    AUTOMATIC,
    BOOLEAN,
    Builder,
    Field,
    Legal,
    instance_of,
    integer,
    number,
    one_of,
)
from envs.chat import BARE_TEMPLATE, TEMPLATE_DATE

OBJECT_STORE = "object_store"
TRANSPORTS = ("auto", OBJECT_STORE, "nccl", "ipc")


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


LLM = Builder(
    "llm",
    "The language model, the engine that samples from it, and how the learner computes with it.",
    "",
    (
        Field(
            "llm_model",
            "str | None",
            None,
            ANYTHING,
            "Folder or hub id of a Hugging Face causal LM. RLlib has a field `model` of its own, for its old API "
            "stack; therefore the attribute is `llm_model`.",
            argument="model",
        ),
        Field(
            "engine",
            "str",
            "vllm",
            one_of("vllm", "transformers"),
            'What generates the completions. "transformers" is for platforms without a vLLM wheel; it uses one '
            "device per engine and takes models with attention layers only.",
        ),
        Field(
            "dtype",
            "str",
            "float32",
            one_of("float32", "bfloat16"),
            "Compute type of the engine and of the learner's forward and backward pass. Master weights and gradient "
            "reduction stay float32.",
        ),
        Field(
            "max_prompt_tokens",
            "int",
            1024,
            integer(1),
            "Longest prompt, with the chat template. Tasks with a longer prompt are skipped and counted.",
            paper="2048",
        ),
        Field(
            "chat_template",
            "str | None",
            None,
            ANYTHING,
            "Jinja chat template, or the path of a file with one. None takes the tokenizer's own. "
            f'`"{BARE_TEMPLATE}"` gives the bare prompt to a base model, with the text of the system prompt '
            "before it.",
        ),
        Field(
            "chat_template_kwargs",
            "dict[str, Any] | None",
            None,
            instance_of(dict, "a dict of what the template takes").or_none(),
            'What the chat template takes besides the messages, for example {"enable_thinking": False} for Qwen3. An '
            "evaluation set may have its own.",
        ),
        Field(
            "template_date",
            "str",
            TEMPLATE_DATE,
            Legal("a date, YYYY-MM-DD", _is_date),
            "What the chat template gets for today's date. Some templates write it into every prompt (Llama 3, "
            "SmolLM3). A fixed one makes prompts the same on every day, so that a run can be repeated, resumed and "
            "evaluated.",
        ),
        Field(
            "trust_remote_code",
            "bool",
            False,
            BOOLEAN,
            "Whether code in the model's folder may run.",
        ),
        Field(
            "kv_cache_memory_bytes",
            "int | None",
            None,
            integer(1).or_none(),
            "Size of vLLM's KV cache. None: 256 MiB on CPU, and what `gpu_memory_utilization` leaves on GPU. The "
            'cache of engine="transformers" grows with what is running; `max_num_seqs` bounds it.',
        ),
        Field(
            "gpu_memory_utilization",
            "float",
            0.9,
            number("in (0, 1]", lambda v: 0 < v <= 1),
            "Share of the GPU's memory that vLLM may take.",
        ),
        Field(
            "tensor_parallel_size",
            "int",
            1,
            integer(1),
            "GPUs per vLLM engine. On GPUs it equals `num_gpus_per_env_runner`.",
        ),
        Field(
            "max_num_seqs",
            "int",
            256,
            integer(1),
            "Completions that the engine decodes at the same time. With `max_staleness`, an engine for which one "
            "batch is not enough works on two batches at once and finishes both late. On CPUs, set it to one "
            "runner's share of a batch.",
        ),
        Field(
            "engine_kwargs",
            "dict[str, Any] | None",
            None,
            instance_of(dict, "a dict of vLLM's engine arguments").or_none(),
            "Further arguments of `vllm.LLM`, handed to it as they are, for example speculative_config, quantization, "
            "kv_cache_dtype or max_num_batched_tokens. What other settings set is refused. Arguments that change the "
            "engine's arithmetic, such as a quantization, move its probabilities away from the learner's: "
            "`max_sync_drift` limits by how much, and `sampler_correction` corrects for it.",
        ),
        Field(
            "weight_transport",
            "str | type[Any]",
            "auto",
            Legal(
                f"one of {TRANSPORTS}, or a subclass of vLLM's TrainerInitInfo",
                lambda v: v in TRANSPORTS if isinstance(v, str) else isinstance(v, type) and hasattr(v, "backend"),
            ),
            'How weights get into the engines. "object_store" works on any machines, "nccl" needs GPUs of their '
            'own for runners and learners, "ipc" needs one GPU for both. "auto" takes the fastest one that the '
            'placement allows; with `lora` and with engine="transformers" that is the object store. A subclass of '
            "vLLM's TrainerInitInfo must be in a module that registers its `backend` in both of vLLM's "
            "weight-transfer factories when it is imported.",
        ),
        Field(
            "sleep",
            "bool | None",
            None,
            AUTOMATIC,
            "Whether the engine gives its GPU memory back while the learner updates; this needs max_staleness=0. "
            "None: it does if runner and learner share a GPU. They share one when there is one of each and both "
            "ask for a part of a GPU, for example num_gpus_per_env_runner=0.5 and num_gpus_per_learner=0.5. The "
            "engine's share, `gpu_memory_utilization`, must leave enough memory for what the learner keeps between "
            "updates: weights, optimizer state and reference.",
        ),
        Field(
            "lora",
            "dict[str, Any] | None",
            None,
            instance_of(dict, "a dict of peft.LoraConfig keywords").or_none(),
            'Keywords of peft.LoraConfig, for example {"r": 16, "target_modules": "all-linear"}: only the adapters '
            'are trained. Plain LoRA only, with r in [1, 512]; on GPU engines it needs dtype="bfloat16". Weight '
            "syncs and training state hold the adapters alone, exported folders hold merged weights. None: train "
            "all weights.",
        ),
        Field(
            "gradient_checkpointing",
            "bool | None",
            None,
            AUTOMATIC,
            "Whether the learner recomputes each layer in the backward pass instead of keeping its activations. "
            "This costs about a third more compute and saves most of the activations' memory. None: on a GPU if "
            "the largest micro-batch does not fit otherwise, by the estimate that `--dry-run` prints; never on "
            "CPUs.",
        ),
        Field(
            "deterministic",
            "bool",
            False,
            BOOLEAN,
            "Whether a run computes exactly what an earlier run with the same seed has computed, on GPUs as well: "
            "vLLM's kernels that do not depend on the batch (`VLLM_BATCH_INVARIANT`) and torch's deterministic "
            "algorithms, which are slower. It needs a seed, max_staleness=0 and oversampling=1. Runs on CPUs with "
            "these settings always do.",
        ),
        Field(
            "cpu_offload",
            "bool",
            False,
            BOOLEAN,
            "Whether the learners' shards and their optimizer state stay in host memory; this needs num_learners > 1.",
        ),
        Field(
            "compile_learner",
            "bool | None",
            None,
            AUTOMATIC,
            "Whether the learner's layers, and on GPUs the arithmetic on logits, go through torch.compile. On an "
            "H100 this gives twice the speed with two thirds of the memory, for 10 to 30 s of compiling in the "
            "first update. None: on GPUs.",
        ),
    ),
    takes_rllib=False,
)
