"""What a config must satisfy before anything is started. Each message: the field, its value, what was expected."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from aspo_rllib import placement
from aspo_rllib.evaluation_sets import check_eval_sets, set_configs
from aspo_rllib.lora import check_settings
from aspo_rllib.losses import KL_ESTIMATORS
from aspo_rllib.mismatch import CORRECTIONS, LEVELS
from aspo_rllib.placement import TRANSPORTS

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

# field, legal range in words, predicate
_RANGES = [
    ("max_prompt_tokens", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("gpu_memory_utilization", "in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1),
    ("kv_cache_memory_bytes", "an int >= 1, or None", lambda v: v is None or (_is_int(v) and v >= 1)),
    ("tensor_parallel_size", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("max_num_seqs", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    (
        "weight_transport",
        f"one of {TRANSPORTS}, or a subclass of vLLM's TrainerInitInfo",
        lambda v: v in TRANSPORTS if isinstance(v, str) else isinstance(v, type) and hasattr(v, "backend"),
    ),
    ("sleep", "True, False or None", lambda v: v is None or isinstance(v, bool)),
    ("group_size", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("top_p", "in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1),
    ("max_completion_tokens", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("num_graders", "an int >= 1, or None", lambda v: v is None or (_is_int(v) and v >= 1)),
    ("grader_timeout_s", "> 0", lambda v: _is_number(v) and v > 0),
    ("batch_prompts", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("minibatch_prompts", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("num_epochs", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("max_staleness", "an int >= 0", lambda v: _is_int(v) and v >= 0),
    ("max_refills", "an int >= 0", lambda v: _is_int(v) and v >= 0),
    ("oversampling", "a number >= 1", lambda v: _is_number(v) and v >= 1),
    ("seed_completions", "True, False or None", lambda v: v in (None, True, False)),
    ("old_logprobs", "'learner' or 'sampler'", lambda v: v in ("learner", "sampler")),
    ("clip_low", "in [0, 1], or None", lambda v: v is None or (_is_number(v) and 0 <= v <= 1)),
    ("clip_high", ">= 0, or None", lambda v: v is None or (_is_number(v) and v >= 0)),
    ("clip_low_high_entropy", "in [0, 1], or None", lambda v: v is None or (_is_number(v) and 0 <= v <= 1)),
    ("clip_high_high_entropy", ">= 0, or None", lambda v: v is None or (_is_number(v) and v >= 0)),
    ("entropy_quantile", "in (0, 1)", lambda v: _is_number(v) and 0 < v < 1),
    ("weight_cap", "> 1", lambda v: _is_number(v) and v > 1),
    (
        "aggregation",
        "one of 'token', 'sequence', 'constant', or None",
        lambda v: v in (None, "token", "sequence", "constant"),
    ),
    ("normalize_std", "True, False or None", lambda v: v in (None, True, False)),
    ("kl_coef", ">= 0, or None", lambda v: v is None or (_is_number(v) and v >= 0)),
    ("kl_coef_high_entropy", ">= 0, or None", lambda v: v is None or (_is_number(v) and v >= 0)),
    ("kl_estimator", f"one of {sorted(KL_ESTIMATORS)}", lambda v: v in KL_ESTIMATORS),
    ("reference_reset_interval", "an int >= 1, or None", lambda v: v is None or (_is_int(v) and v >= 1)),
    ("sampler_correction", f"one of {CORRECTIONS}, or None", lambda v: v is None or v in CORRECTIONS),
    ("sampler_correction_level", f"one of {LEVELS}", lambda v: v in LEVELS),
    ("sampler_ratio_cap", "> 1", lambda v: _is_number(v) and v > 1),
    ("entropy_coef", ">= 0", lambda v: _is_number(v) and v >= 0),
    ("overlong_buffer_tokens", "an int >= 0", lambda v: _is_int(v) and v >= 0),
    ("overlong_penalty_factor", ">= 0", lambda v: _is_number(v) and v >= 0),
    ("warmup_steps", "an int >= 0", lambda v: _is_int(v) and v >= 0),
    ("weight_decay", ">= 0", lambda v: _is_number(v) and v >= 0),
    (
        "betas",
        "two numbers in [0, 1)",
        lambda v: isinstance(v, (tuple, list)) and len(v) == 2 and all(_is_number(b) and 0 <= b < 1 for b in v),
    ),
    ("grad_clip", "> 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    ("max_tokens_per_microbatch", "an int >= 1", lambda v: _is_int(v) and v >= 1),
    ("max_sync_drift", "> 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    ("stage_timeout_s", "> 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    ("max_entropy", "> 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    ("max_kl", "> 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    ("on_bad_numbers", "'warn', 'stop' or 'rollback'", lambda v: v in ("warn", "stop", "rollback")),
    ("drop_uniform_groups", "True or False", lambda v: isinstance(v, bool)),
    ("lora", "a dict of peft.LoraConfig keywords, or None", lambda v: v is None or isinstance(v, dict)),
    ("gradient_checkpointing", "True or False", lambda v: isinstance(v, bool)),
    ("cpu_offload", "True or False", lambda v: isinstance(v, bool)),
    ("compile_learner", "True or False", lambda v: isinstance(v, bool)),
    ("layout", "'padded', 'packed', 'shared' or None", lambda v: v in ("padded", "packed", "shared", None)),
    ("engine", "'vllm' or 'transformers'", lambda v: v in ("vllm", "transformers")),
    ("dtype", "'float32' or 'bfloat16'", lambda v: v in ("float32", "bfloat16")),
]


def check(config: ASPOConfig) -> None:
    """Raise ValueError for the first field out of its range; warn where the settings make ASPO pointless."""
    for field, expected, holds in _RANGES:
        _require(config, field, expected, holds)
    config.method  # noqa: B018  an unknown loss raises here, with the nearest name
    _check_model(config)
    _check_engine(config)
    _check_lora(config)
    if config.in_evaluation:
        _require(config, "temperature", ">= 0", lambda v: _is_number(v) and v >= 0)
        _require(config, "evaluation_duration", "an int >= 1", lambda v: _is_int(v) and v >= 1)
        _require(config, "env", "the id of an env, or its class", lambda v: isinstance(v, (str, type)))
        if config.temperature == 0 and config.group_size > 1:
            raise ValueError(
                f"group_size={config.group_size} at temperature=0: all completions of a prompt would be the same; "
                "set group_size=1 for the evaluation."
            )
        return
    _require(config, "env", "the id of an env, or its class: set .environment(...)", lambda v: v is not None)
    _require(config, "temperature", "in (0, 2]", lambda v: _is_number(v) and 0 < v <= 2)
    _require(config, "num_env_runners", "an int >= 1: the engines run there", lambda v: _is_int(v) and v >= 1)
    _check_group_size(config)
    placement.check(config)
    if config.minibatch_prompts > config.batch_prompts:
        raise ValueError(
            f"minibatch_prompts={config.minibatch_prompts}: expected at most batch_prompts={config.batch_prompts}."
        )
    if config.kl_coef_high_entropy and not config.method.kl_coef:
        raise ValueError(
            f"kl_coef_high_entropy={config.kl_coef_high_entropy}: expected None or 0 without a kl_coef: there is no "
            "reference model then."
        )
    if config.overlong_buffer_tokens > config.max_completion_tokens:
        raise ValueError(
            f"overlong_buffer_tokens={config.overlong_buffer_tokens}: expected at most "
            f"max_completion_tokens={config.max_completion_tokens}."
        )
    if config.cpu_offload and config.num_learners < 2:
        raise ValueError(
            f"cpu_offload=True: expected num_learners > 1, got {config.num_learners}; FSDP2 does the offloading."
        )
    if config.evaluation_num_env_runners:
        raise ValueError(
            f"evaluation_num_env_runners={config.evaluation_num_env_runners}: expected 0; evaluation runs on the "
            "training runners, between iterations."
        )
    _check_sampling(config)
    _check_evaluation(config)
    if config.steps_per_iteration == 1 and config.loss == "aspo" and config.old_logprobs == "learner":
        warnings.warn(
            "One optimizer step per batch: every ratio is 1 there and ASPO equals GRPO. "
            "Lower minibatch_prompts or raise num_epochs to tell them apart.",
            stacklevel=2,
        )


def _check_sampling(config: ASPOConfig) -> None:
    if config.max_refills and not (config.drop_uniform_groups and config.group_size > 1):
        raise ValueError(
            f"max_refills={config.max_refills}: expected 0 with group_size={config.group_size} and "
            f"drop_uniform_groups={config.drop_uniform_groups}: it replaces groups that are dropped for being uniform."
        )
    if config.old_logprobs == "sampler" and (config.top_p < 1 or config.sampler_correction is not None):
        raise ValueError(
            f"old_logprobs='sampler': expected top_p=1 and sampler_correction=None, got top_p={config.top_p:g} and "
            f"sampler_correction={config.sampler_correction!r}: the ratio itself is taken to the sampler's policy."
        )


def _check_evaluation(config: ASPOConfig) -> None:
    if config.eval_sets is not None:
        check_eval_sets(config.eval_sets)
    for name, set_config in set_configs(config).items():
        try:
            check(set_config)
        except ValueError as error:
            where = f"eval_sets[{name!r}]" if config.eval_sets else "evaluation_config"
            raise ValueError(f"{where}: {error}") from None


def _check_model(config: ASPOConfig) -> None:
    if not isinstance(config.llm_model, str) or not config.llm_model:
        raise ValueError(
            f"llm_model={config.llm_model!r}: expected the folder or hub id of a causal LM; set .llm(model=...)."
        )
    looks_local = config.llm_model.startswith((".", "/", "~")) or os.path.isdir(config.llm_model)
    if looks_local and not os.path.isfile(os.path.join(config.llm_model, "config.json")):
        raise ValueError(f"llm_model={config.llm_model!r}: expected a folder with a config.json.")


def _check_engine(config: ASPOConfig) -> None:
    if config.engine == "transformers":
        _require(config, "tensor_parallel_size", "1 with engine='transformers'", lambda v: v == 1)
        _require(
            config,
            "kv_cache_memory_bytes",
            "None with engine='transformers', whose cache max_num_seqs bounds",
            lambda v: v is None,
        )


def _check_lora(config: ASPOConfig) -> None:
    if config.lora is None:
        return
    check_settings(config.lora)
    if config.engine == "vllm" and config.num_gpus_per_env_runner and config.dtype == "float32":
        raise ValueError("dtype='float32': expected 'bfloat16' with lora on GPU engines; vLLM's kernels know no other.")


def _check_group_size(config: ASPOConfig) -> None:
    if config.group_size > 1:
        return
    if config.drop_uniform_groups:
        raise ValueError(
            "group_size=1: expected at least 2. A single completion is a uniform group, and drop_uniform_groups=True "
            "leaves all of those out: nothing would be trained."
        )
    warnings.warn(
        "group_size=1: a completion has no others of its prompt to compare with; its advantage is its bare reward. "
        "Raise group_size for a baseline.",
        stacklevel=3,
    )


def check_lr(config: ASPOConfig) -> None:
    """Raise ValueError for what is neither a learning rate nor a schedule of them."""
    if isinstance(config.lr, Real):
        _require(config, "lr", "> 0, or a schedule [[0, lr], [step, lr], ...]", lambda v: _is_number(v) and v > 0)
        return
    expected = (
        "a number > 0, or a schedule [[0, lr], [step, lr], ...] of at least two points with rising steps, lr >= 0"
    )
    _require(config, "lr", expected, _is_schedule)


def _is_schedule(value: object) -> bool:
    """What RLlib takes, and what it would fail on only when the learner is built."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return False
    if not all(isinstance(point, (list, tuple)) and len(point) == 2 for point in value):
        return False
    steps, rates = zip(*value, strict=True)
    if not all(_is_number(v) for v in (*steps, *rates)):
        return False
    return steps[0] == 0 and all(a < b for a, b in pairwise(steps)) and min(rates) >= 0


def _require(config: ASPOConfig, field: str, expected: str, holds: Callable[[Any], bool]) -> None:
    value = getattr(config, field)
    if not holds(value):
        raise ValueError(f"{field}={value!r}: expected {expected}.")


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value
