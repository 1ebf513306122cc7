"""Checks of a config before a run starts. Each message has the field, its value and what was expected."""

from __future__ import annotations

import os
import warnings
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING

from aspo_rllib.config import placement
from aspo_rllib.config.engine_kwargs import check_engine_kwargs
from aspo_rllib.config.eval_sets import check_eval_sets, set_configs
from aspo_rllib.config.field import Legal, integer, is_integer, is_number, number, require
from aspo_rllib.config.fields import FIELDS
from aspo_rllib.config.ignored import check_fields
from aspo_rllib.losses import resolve_loss
from aspo_rllib.losses.trial import check_token_weight
from aspo_rllib.model.lora import check_settings

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

# Settings, and the fields of `Loss` that must not be None for them to have an effect.
_PARTS_OF_LOSSES = {
    "clip_low": ["clip_low"],
    "clip_high": ["clip_high"],
    "clip_low_high_entropy": ["clip_low"],
    "clip_high_high_entropy": ["clip_high"],
    "weight_cap": ["weight_cap"],
}
# Settings that have an effect only with a kl_coef.
_PARTS_OF_KL = ("kl_clamp", "kl_estimator", "reference_reset_interval")
# Settings of the sampler, with the values at which it samples from the learner's own distribution.
_SAME = (("top_p", 1), ("top_k", 0), ("min_p", 0), ("repetition_penalty", 1))
_NEUTRAL = ", ".join(f"{name}={same}" for name, same in _SAME)


def check(config: ASPOSettings) -> None:
    """Raise ValueError for the first illegal field or combination. Warn if the settings make ASPO equal to GRPO."""
    for field in FIELDS:
        field.check(getattr(config, field.name))
    config.method  # noqa: B018  raises for an unknown loss, with the nearest name
    if not isinstance(config.loss, str):
        check_token_weight(config.method)
    _check_unused(config)
    _check_model(config)
    _check_engine(config)
    check_engine_kwargs(config)
    _check_lora(config)
    if config.in_evaluation:
        _require(config, "temperature", number(">= 0", lambda v: v >= 0))
        _require(config, "evaluation_duration", integer(1))
        _require(config, "env", Legal("the id of an env, or its class", lambda v: isinstance(v, (str, type))))
        if config.temperature == 0 and config.group_size > 1:
            raise ValueError(
                f"group_size={config.group_size} at temperature=0: all completions of a prompt would be the same; "
                "set group_size=1 for the evaluation."
            )
        return
    _require(config, "env", Legal("the id of an env, or its class: set .environment(...)", lambda v: v is not None))
    _require(config, "temperature", number("in (0, 2]", lambda v: 0 < v <= 2))
    _require(config, "num_env_runners", Legal("an int >= 1: the engines run there", lambda v: is_integer(v) and v >= 1))
    _check_group_size(config)
    placement.check(config)
    _check_combinations(config)
    _check_sampling(config)
    _check_deterministic(config)
    _check_evaluation(config)
    if config.steps_per_iteration == 1 and config.loss == "aspo" and config.method.old_logprobs == "learner":
        warnings.warn(
            "One optimizer step per batch: every ratio is 1 there and ASPO equals GRPO. "
            "Lower minibatch_prompts or raise num_epochs to take several steps.",
            stacklevel=2,
        )


def _check_unused(config: ASPOSettings) -> None:
    """Raise ValueError for settings of parts that the chosen loss does not have."""
    loss = resolve_loss(config.loss)
    for name, parts in _PARTS_OF_LOSSES.items():
        value = getattr(config, name)
        if value is not None and any(getattr(loss, part) is None for part in parts):
            raise ValueError(f"{name}={value!r}: expected None with loss={config.loss!r}, which does not use it.")
    for field in FIELDS:
        value = getattr(config, field.name)
        if field.name in _PARTS_OF_KL and value != field.default and not config.method.kl_coef:
            raise ValueError(
                f"{field.name}={value!r}: expected {field.default!r} without a kl_coef: nothing is compared with a "
                "reference."
            )
    if config.sampler_correction is None and config.sampler_ratio_floor is not None:
        raise ValueError(
            f"sampler_ratio_floor={config.sampler_ratio_floor!r}: expected None without a sampler_correction."
        )
    if config.advantage == "maxrl" and config.overlong_buffer_tokens:
        raise ValueError(
            f"overlong_buffer_tokens={config.overlong_buffer_tokens}: expected 0 with advantage='maxrl', which divides "
            "by the mean reward; the penalty would make it negative."
        )


def _check_combinations(config: ASPOSettings) -> None:
    if config.minibatch_prompts > config.batch_prompts:
        raise ValueError(
            f"minibatch_prompts={config.minibatch_prompts}: expected at most batch_prompts={config.batch_prompts}."
        )
    if config.kl_coef_high_entropy and not config.method.kl_coef:
        raise ValueError(
            f"kl_coef_high_entropy={config.kl_coef_high_entropy}: expected None or 0 without a kl_coef, because there "
            "is no reference model then."
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


def _check_deterministic(config: ASPOSettings) -> None:
    if not config.deterministic:
        return
    because = "when weights reach a completion, or a prompt is given up, depends on the clock"
    _require(config, "max_staleness", Legal(f"0 with deterministic=True: {because}", lambda v: v == 0))
    _require(config, "oversampling", Legal(f"1 with deterministic=True: {because}", lambda v: v == 1))
    _require(config, "seed", Legal("an int with deterministic=True: set .debugging(seed=...)", is_integer))
    _require(config, "seed_completions", Legal("None or True with deterministic=True", lambda v: v is not False))
    if config.num_gpus_per_env_runner:
        one = "'vllm' with deterministic=True on GPUs, whose kernels can be independent of the batch"
        _require(config, "engine", Legal(one, lambda v: v == "vllm"))


def _check_sampling(config: ASPOSettings) -> None:
    if config.max_refills and not (config.drop_uniform_groups and config.group_size > 1):
        raise ValueError(
            f"max_refills={config.max_refills}: expected 0 with group_size={config.group_size} and "
            f"drop_uniform_groups={config.drop_uniform_groups}: it replaces groups that are dropped as uniform."
        )
    moved = [f"{name}={getattr(config, name):g}" for name, same in _SAME if getattr(config, name) != same]
    if moved and config.sampler_correction is None and config.method.old_logprobs == "learner":
        raise ValueError(
            f"{', '.join(moved)}: expected {_NEUTRAL} in training without a sampler_correction: the engine would "
            "sample from other probabilities than the learner trains."
        )
    if config.method.old_logprobs == "sampler" and (moved or config.sampler_correction is not None):
        of_loss = "" if config.old_logprobs else f", the default of loss={config.loss!r}"
        raise ValueError(
            f"old_logprobs='sampler'{of_loss}: expected {_NEUTRAL} and sampler_correction=None, got "
            f"{', '.join([*moved, f'sampler_correction={config.sampler_correction!r}'])}: the ratio is already "
            "relative to the sampler's policy."
        )


def _check_evaluation(config: ASPOSettings) -> None:
    if config.eval_sets is not None:
        check_eval_sets(config.eval_sets)
    for name, set_config in set_configs(config).items():
        try:
            check_fields(vars(set_config), vars(type(config)()))
            check(set_config)
        except ValueError as error:
            where = f"eval_sets[{name!r}]" if config.eval_sets else "evaluation_config"
            raise ValueError(f"{where}: {error}") from None


def _check_model(config: ASPOSettings) -> None:
    if not isinstance(config.llm_model, str) or not config.llm_model:
        raise ValueError(
            f"llm_model={config.llm_model!r}: expected the folder or hub id of a causal LM; set .llm(model=...)."
        )
    looks_local = config.llm_model.startswith((".", "/", "~")) or os.path.isdir(config.llm_model)
    if looks_local and not os.path.isfile(os.path.join(config.llm_model, "config.json")):
        raise ValueError(f"llm_model={config.llm_model!r}: expected a folder with a config.json.")


def _check_engine(config: ASPOSettings) -> None:
    if config.engine == "transformers":
        _require(config, "tensor_parallel_size", Legal("1 with engine='transformers'", lambda v: v == 1))
        bounded = "None with engine='transformers', whose cache is limited by max_num_seqs"
        _require(config, "kv_cache_memory_bytes", Legal(bounded, lambda v: v is None))


def _check_lora(config: ASPOSettings) -> None:
    if config.lora is None:
        return
    check_settings(config.lora)
    if config.engine == "vllm" and config.num_gpus_per_env_runner and config.dtype == "float32":
        raise ValueError("dtype='float32': expected 'bfloat16' with lora on GPU engines, as vLLM's kernels need it.")


def _check_group_size(config: ASPOSettings) -> None:
    if config.group_size > 1:
        return
    if config.drop_uniform_groups:
        raise ValueError(
            "group_size=1: expected at least 2. A single completion is a uniform group, and drop_uniform_groups=True "
            "excludes all uniform groups, so that there would be no training."
        )
    warnings.warn(
        "group_size=1: a prompt has no other completions as a baseline, so that the advantage is the bare reward. "
        "Raise group_size for a baseline.",
        stacklevel=3,
    )


def check_lr(config: ASPOSettings) -> None:
    """Raise ValueError if `lr` is neither a learning rate nor a schedule of learning rates."""
    if isinstance(config.lr, Real):
        _require(config, "lr", number("> 0, or a schedule [[0, lr], [step, lr], ...]", lambda v: v > 0))
        return
    expected = (
        "a number > 0, or a schedule [[0, lr], [step, lr], ...] of at least two points with rising steps, lr >= 0"
    )
    _require(config, "lr", Legal(expected, _is_schedule))


def _is_schedule(value: object) -> bool:
    """Whether RLlib accepts the schedule. It would find some of these mistakes only when the learner is built."""
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return False
    if not all(isinstance(point, (list, tuple)) and len(point) == 2 for point in value):
        return False
    steps, rates = zip(*value, strict=True)
    if not all(is_number(v) for v in (*steps, *rates)):
        return False
    return steps[0] == 0 and all(a < b for a, b in pairwise(steps)) and min(rates) >= 0


def _require(config: ASPOSettings, name: str, legal: Legal) -> None:
    require(name, getattr(config, name), legal)
