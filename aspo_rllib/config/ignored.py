"""RLlib's settings that have no effect in this package, each with what to use instead.

RLlib has one config class for all of its algorithms. Silently ignored settings would look as if they worked, so that
they are errors here. Values that RLlib sets itself, such as its defaults, are never errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROLLOUTS = (
    "rollouts are text and token ids, which no connector processes; the env's `reset` and `grade` get the whole text"
)
_ENV_STEPS = "whole groups of completions are sampled: see batch_prompts and group_size in .training()/.sampling()"
_OLD_STACK = "it belongs to RLlib's old API stack"
_LEARNER = "subclass ASPOTorchLearner and set .learners(learner_class=...)"
_MODULE = "the module is a Hugging Face causal LM: set .llm(model=...)"
_COMPILE = "use .llm(compile_learner=...)"
_OFFLINE = "there is no offline training: rollouts are sampled by the env runners"
_POLICIES = "there is one policy, the language model"

IGNORED: Mapping[str, str] = {
    # training()
    "gamma": "an episode has one step, so nothing is discounted",
    "grad_clip_by": "grad_clip is always the global norm of the gradient",
    "train_batch_size": "use batch_prompts and group_size",
    "train_batch_size_per_learner": "use batch_prompts and group_size; a batch is divided over the learners",
    "minibatch_size": "use minibatch_prompts",
    "num_sgd_iter": "use num_epochs",
    "shuffle_batch_per_epoch": "mini-batches keep the order of the prompts, which is shuffled per pass over the tasks",
    "model": _MODULE,
    "optimizer": "the optimizer is AdamW: use .training(lr=..., betas=..., weight_decay=...)",
    "num_aggregator_actors_per_learner": "the driver builds the batches",
    "max_requests_in_flight_per_aggregator_actor": "the driver builds the batches",
    "max_requests_in_flight_per_sampler_worker": "use max_staleness",
    "learner_connector": _ROLLOUTS,
    "add_default_connectors_to_learner_pipeline": _ROLLOUTS,
    # env_runners()
    "create_local_env_runner": "the driver has no engine; use num_env_runners",
    "create_env_on_local_worker": "the driver has no engine; use num_env_runners",
    "num_envs_per_env_runner": "use max_num_seqs for the completions that an engine decodes at once, and num_graders",
    "num_envs_per_worker": "use max_num_seqs for the completions that an engine decodes at once, and num_graders",
    "gym_env_vectorize_mode": "envs are not vectorized; use num_graders",
    "validate_env_runners_after_construction": "engines start in parallel with the learners and are checked afterwards",
    "validate_workers_after_construction": "engines start in parallel with the learners and are checked afterwards",
    "sample_timeout_s": "use .fault_tolerance(stage_timeout_s=...)",
    "max_requests_in_flight_per_env_runner": "use max_staleness",
    "env_to_module_connector": _ROLLOUTS,
    "module_to_env_connector": _ROLLOUTS,
    "add_default_connectors_to_env_to_module_pipeline": _ROLLOUTS,
    "add_default_connectors_to_module_to_env_pipeline": _ROLLOUTS,
    "episode_lookback_horizon": _ENV_STEPS,
    "merge_env_runner_states": "env runners have no connector states",
    "broadcast_env_runner_states": "env runners have no connector states",
    "use_env_runner_state_server": "env runners have no connector states",
    "env_runner_state_server_max_concurrency": "env runners have no connector states",
    "compress_observations": _ROLLOUTS,
    "rollout_fragment_length": _ENV_STEPS,
    "batch_mode": _ENV_STEPS,
    "explore": "completions are always sampled; use .sampling(temperature=...)",
    "exploration_config": "completions are always sampled; use .sampling(temperature=...)",
    "episodes_to_numpy": _ROLLOUTS,
    "use_worker_filter_stats": _OLD_STACK,
    "update_worker_filter_stats": _OLD_STACK,
    "sample_collector": _OLD_STACK,
    "remote_worker_envs": "use num_graders",
    "remote_env_batch_wait_ms": "use num_graders",
    "preprocessor_pref": _OLD_STACK,
    "observation_filter": _OLD_STACK,
    "enable_tf1_exec_eagerly": _OLD_STACK,
    "sampler_perf_stats_ema_coef": _OLD_STACK,
    "enable_connectors": _OLD_STACK,
    "synchronize_filter": _OLD_STACK,
    "restart_failed_sub_environments": "an env that raises is restarted with its env runner",
    # learners()
    "local_gpu_idx": "set CUDA_VISIBLE_DEVICES",
    "max_requests_in_flight_per_learner": "an update waits for all learners",
    # evaluation()
    "evaluation_duration_unit": "evaluation_duration counts prompts",
    "evaluation_auto_duration_min_env_steps_per_sample": "evaluation_duration counts prompts",
    "evaluation_auto_duration_max_env_steps_per_sample": "evaluation_duration counts prompts",
    "evaluation_sample_timeout_s": "use .fault_tolerance(stage_timeout_s=...)",
    "evaluation_parallel_to_training": "evaluation runs on the training runners, between iterations",
    "evaluation_force_reset_envs_before_iteration": _ENV_STEPS,
    "evaluation_error_after_n_consecutive_skips": "an evaluation is never skipped",
    "evaluation_unhealthy_workers_timeout_s": "use .fault_tolerance(stage_timeout_s=...)",
    "evaluation_num_workers": "evaluation runs on the training runners, between iterations",
    "off_policy_estimation_methods": _OFFLINE,
    "ope_split_batch_by_episode": _OFFLINE,
    # fault_tolerance()
    "ignore_env_runner_failures": "use restart_failed_env_runners",
    "num_consecutive_env_runner_failures_tolerance": "use restart_failed_env_runners and max_num_env_runner_restarts",
    # checkpointing()
    "export_native_model_files": "use .checkpointing(export=...)",
    "checkpoint_trainable_policies_only": _POLICIES,
    # environment()
    "clip_rewards": "shape rewards in the env",
    "normalize_actions": "actions are texts",
    "clip_actions": "actions are texts",
    "render_env": "use SamplesCallback to see completions",
    "is_atari": "envs are text envs",
    "action_mask_key": "actions are texts",
    # framework()
    "torch_ddp_kwargs": "several learners share the model by FSDP2, not DDP",
    "torch_skip_nan_gradients": "a step whose gradient is not finite is always skipped",
    # rl_module()
    "model_config": _MODULE,
    "model_config_dict": _MODULE,
    "_model_config": _MODULE,
    # multi_agent(), offline_data(), when they are set as fields
    "policies_to_train": _POLICIES,
    "input_": _OFFLINE,
    "output": _OFFLINE,
}


# Builder methods without any effect.
_METHODS = {
    "multi_agent": _POLICIES,
    "offline_data": f"{_OFFLINE}; SamplesCallback writes completions to files",
}
# The fields that RLlib sets in every evaluation config.
_SET_FOR_EVALUATION = ("batch_mode", "rollout_fragment_length")


def check_argument(config: object, method: str, keyword: str, value: object) -> None:
    """Raise ValueError for an argument of one of RLlib's builder methods that would be ignored.

    A value that the config already has is allowed, because RLlib's `from_dict` calls these methods with such values.
    """
    advice = _advice(method, keyword)
    fields = vars(config)
    if advice and not (keyword in fields and fields[keyword] == value):
        raise ValueError(f"{method}() argument {keyword!r} has no effect here: {advice}.")


def _advice(method: str, keyword: str) -> str | None:
    """What to use instead of an argument; None if the argument has an effect."""
    if "offline" in keyword:
        return _OFFLINE
    if keyword.startswith("torch_compile"):
        return _COMPILE
    return _METHODS.get(method) or IGNORED.get(keyword)


def check_fields(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ValueError for a field that would be ignored and that differs from its default.

    fields: the fields of a config.
    defaults: the fields of a new config of the same class.
    """
    # RLlib replaces the values of this dict.
    if set(fields["policies"]) != set(defaults["policies"]):
        raise ValueError(f"policies={fields['policies']!r} has no effect here: {_POLICIES}.")
    for name, advice in IGNORED.items():
        if name not in fields or (fields["in_evaluation"] and name in _SET_FOR_EVALUATION):
            continue
        if fields[name] != defaults[name]:
            raise ValueError(f"{name}={fields[name]!r} has no effect here: {advice}.")
