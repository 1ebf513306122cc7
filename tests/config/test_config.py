"""The config: flat fields, presets, round trips, and a clear refusal of everything that cannot work."""

import inspect
import re
import warnings
from dataclasses import replace

import pytest
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from aspo_rllib import LOSSES, TINY_MODEL, ASPOConfig, GRPOConfig, Loss
from aspo_rllib.config.fields import BUILDERS, FIELDS
from aspo_rllib.config.other_names import OTHER_NAMES
from envs.text_env import TextSpace


def own_weight(inputs):
    return inputs.ratio


def changed(config, **fields):
    for name, value in fields.items():
        setattr(config, name, value)
    return config


# ---- builder methods ---------------------------------------------------------------------------------------------


def test_builder_methods_set_flat_fields():
    config = (
        ASPOConfig()
        .llm(model=TINY_MODEL, dtype="bfloat16", max_prompt_tokens=7, chat_template="x", max_num_seqs=3)
        .sampling(group_size=5, temperature=0.5, top_p=0.9, max_completion_tokens=11)
        .training(loss="gspo", batch_prompts=6, minibatch_prompts=2, num_epochs=4, lr=0.1, betas=(0.8, 0.9))
    )
    expected = {
        "llm_model": TINY_MODEL,
        "dtype": "bfloat16",
        "max_prompt_tokens": 7,
        "chat_template": "x",
        "max_num_seqs": 3,
        "group_size": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 11,
        "loss": "gspo",
        "batch_prompts": 6,
        "minibatch_prompts": 2,
        "num_epochs": 4,
        "lr": 0.1,
        "betas": (0.8, 0.9),
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_later_call_changes_only_what_it_names():
    config = ASPOConfig().sampling(group_size=5, temperature=0.5).sampling(temperature=0.7)
    assert (config.group_size, config.temperature) == (5, 0.7)


def test_none_is_a_value_and_not_an_omission():
    assert ASPOConfig().training(grad_clip=None).grad_clip is None
    assert ASPOConfig().training(clip_low=0.1).training(clip_low=None).clip_low is None


@pytest.mark.parametrize(
    ("method", "typo", "meant"),
    [
        ("llm", "modle", "model"),
        ("sampling", "groupsize", "group_size"),
        ("training", "clip_hi", "clip_high"),
        ("fault_tolerance", "max_entrpy", "max_entropy"),
        ("learners", "num_learnerz", "num_learners"),
        ("env_runners", "num_env_runer", "num_env_runners"),
        ("environment", "env_conf", "env_config"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(method, typo, meant):
    with pytest.raises(ValueError, match=rf"{method}\(\) argument '{typo}'.*'{meant}'"):
        getattr(ASPOConfig(), method)(**{typo: 1})


RLLIB_METHODS = ("training", "env_runners", "learners", "evaluation", "environment", "fault_tolerance")
# RLlib's keywords that do something here, with a value for each that differs from the default.
KEPT = {
    "env_runner_cls": object,
    "num_env_runners": 3,
    "num_cpus_per_env_runner": 2,
    "num_gpus_per_env_runner": 0.5,
    "custom_resources_per_env_runner": {"fast": 1},
    "num_learners": 2,
    "num_cpus_per_learner": 2,
    "num_gpus_per_learner": 0.5,
    "custom_resources_per_learner": {"fast": 1},
    "learner_class": object,
    "learner_config_dict": {"mine": 1},
    "evaluation_interval": 3,
    "evaluation_duration": 7,
    "evaluation_config": {"temperature": 0.5},
    "custom_evaluation_function": print,
    "evaluation_num_env_runners": 0,
    "env": "aspo/Math-v0",
    "env_config": {"data": "rows.jsonl"},
    "observation_space": TextSpace(),
    "action_space": TextSpace(),
    "disable_env_checking": True,
    "restart_failed_env_runners": False,
    "max_num_env_runner_restarts": 3,
    "delay_between_env_runner_restarts_s": 1.0,
    "env_runner_health_probe_timeout_s": 3.0,
    "env_runner_restore_timeout_s": 3.0,
}


@pytest.mark.parametrize("method", RLLIB_METHODS)
def test_every_keyword_of_rllib_sets_something_or_says_what_to_use(method):
    keywords = inspect.signature(getattr(AlgorithmConfig, method)).parameters.keys() - {"self"}
    own = {field.keyword for field in FIELDS}
    for keyword in keywords - own:
        if keyword in KEPT:
            config = getattr(ASPOConfig(), method)(**{keyword: KEPT[keyword]})
            assert getattr(config, "_learner_class" if keyword == "learner_class" else keyword) == KEPT[keyword]
        else:
            refusal = f"{method}\\(\\) argument {keyword!r} has no effect here: .|{keyword}.* deprecated"
            with pytest.raises(ValueError, match=refusal):
                getattr(ASPOConfig(), method)(**{keyword: "something"})


@pytest.mark.parametrize(
    ("method", "arguments", "instead"),
    [
        ("training", {"train_batch_size": 512}, "batch_prompts"),
        ("training", {"minibatch_size": 16}, "minibatch_prompts"),
        ("env_runners", {"num_envs_per_env_runner": 4}, "max_num_seqs"),
        ("env_runners", {"explore": False}, "temperature"),
        ("rl_module", {"model_config": {"fcnet_hiddens": [64]}}, "llm"),
        ("multi_agent", {"policies": {"a", "b"}}, "one policy"),
        ("offline_data", {"input_": "rollouts.parquet"}, "offline"),
        ("framework", {"torch_compile_learner": True}, "compile_learner"),
    ],
)
def test_rllibs_idioms_get_a_hint(method, arguments, instead):
    with pytest.raises(ValueError, match=instead):
        getattr(ASPOConfig(), method)(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": 1e-5},
            "(learning_rate=...): settings are given to its methods. Here it is .training(lr=...).",
        ),
        ({"lr": 1e-5}, "(lr=...): settings are given to its methods. Use .training(lr=...)."),
        ({"model": "m"}, "(model=...): settings are given to its methods. Use .llm(model=...)."),
        ({"gruop_size": 8}, "(gruop_size=...): settings are given to its methods. Did you mean 'group_size'?"),
    ],
)
@pytest.mark.parametrize("config_class", [ASPOConfig, GRPOConfig])
def test_settings_in_the_constructor_are_refused_with_their_place(config_class, settings, message):
    with pytest.raises(ValueError, match=re.escape(config_class.__name__ + message)):
        config_class(**settings)


@pytest.mark.parametrize(("name", "here"), OTHER_NAMES.items())
def test_names_of_other_libraries_get_a_hint(make_config, name, here):
    builders = {builder.name: {field.keyword for field in builder.fields} for builder in BUILDERS}
    method, arguments = re.match(r"(\w+)\((.*?)\)", here).groups()
    assert set(re.findall(r"(\w+)=", arguments)) <= builders[method]
    fields = vars(ASPOConfig())
    assert name not in fields and not any(name in keywords for keywords in builders.values())
    with pytest.raises(ValueError, match=re.escape(f"Unknown training() argument {name!r}. Here it is .{here}.")):
        ASPOConfig().training(**{name: 1})
    with pytest.raises(ValueError, match=re.escape(f"Here it is .{here}.")):
        make_config().update_from_dict({name: 1}).validate()


@pytest.mark.parametrize(
    "fields",
    [{"policies": {"a", "b"}}, {"policies_to_train": ["a"]}, {"input_": "rows.json"}, {"_model_config": {"dim": 3}}],
)
def test_several_policies_and_offline_data_are_refused_as_fields_too(make_config, fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"{name}=.* has no effect here"):
        changed(make_config(), **fields).validate()


@pytest.mark.parametrize("field", ["train_batch_size", "minibatch_size", "gamma", "rollout_fragment_length"])
def test_a_field_without_effect_is_refused_when_it_was_set_directly(make_config, field):
    with pytest.raises(ValueError, match=f"{field}=7 has no effect here"):
        changed(make_config(), **{field: 7}).validate()
    with pytest.raises(ValueError, match=f"{field}=7 has no effect here"):
        make_config().update_from_dict({field: 7}).validate()


@pytest.mark.parametrize("setting", [{"explore": False}, {"gamma": 0.5}, {"train_batch_size": 8}])
def test_a_setting_without_effect_is_refused_in_an_evaluation_too(make_config, setting):
    (name,) = setting
    config = make_config().evaluation(evaluation_interval=1, evaluation_config=setting)
    with pytest.raises(ValueError, match=f"evaluation_config: {name}=.* has no effect here"):
        config.validate()


def test_a_builder_method_shows_its_settings():
    parameters = inspect.signature(ASPOConfig.sampling).parameters
    assert list(parameters)[:3] == ["self", "group_size", "temperature"]
    assert "group_size: Completions per prompt (G)." in inspect.getdoc(ASPOConfig.sampling)
    assert "an int >= 1; default 16; paper: 16" in " ".join(inspect.getdoc(ASPOConfig.sampling).split())


def test_an_unknown_field_is_refused_with_the_nearest_name(make_config):
    with pytest.raises(ValueError, match=r"config field 'group_sise'.*'group_size'"):
        changed(make_config(), group_sise=4).validate()
    with pytest.raises(ValueError, match=r"config field 'kl_ceof'.*'kl_coef'"):
        make_config().update_from_dict({"kl_ceof": 0.1}).validate()


# ---- presets and methods -----------------------------------------------------------------------------------------

# arXiv 2510.06062, the 1.5B runs; archer2 is what the authors released code does on top.
PAPER = {
    "loss": "aspo",
    "batch_prompts": 64,
    "group_size": 16,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_prompt_tokens": 2048,
    "max_completion_tokens": 32768,
    "minibatch_prompts": 16,
    "num_epochs": 3,
    "steps_per_iteration": 12,
    "lr": 1e-6,
    "warmup_steps": 120,  # 10 iterations of 12 steps
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "weight_cap": 3.0,
    "kl_coef": 0.001,
    "aggregation": "sequence",
    "entropy_coef": 0.0,
    "overlong_buffer_tokens": 16,
    "overlong_penalty_factor": 1.0,
    "drop_uniform_groups": True,
    "clip_low_high_entropy": None,
    "clip_high_high_entropy": None,
    "kl_coef_high_entropy": None,
}
ARCHER2 = PAPER | {
    "clip_low_high_entropy": 0.4,
    "clip_high_high_entropy": 0.4,
    "entropy_quantile": 0.8,
    "kl_coef_high_entropy": 0.0,
    "kl_clamp": 10.0,
}


@pytest.mark.parametrize(("preset", "expected"), [("paper", PAPER), ("archer2", ARCHER2)])
def test_presets_are_the_published_settings(preset, expected):
    config = getattr(ASPOConfig, preset)()
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.method.advantage == "grpo"
    changed(config, llm_model=TINY_MODEL).environment("aspo/Arithmetic-v0").validate()


def test_fields_left_at_none_come_from_the_loss():
    config = ASPOConfig().training(loss="dapo", clip_low=0.1)
    assert config.method == replace(LOSSES["dapo"], clip_low=0.1)
    config.training(loss="dr_grpo", clip_low=None, kl_coef=0.5)
    assert config.method == replace(LOSSES["dr_grpo"], kl_coef=0.5)


def test_a_zero_overrides_the_loss():
    assert ASPOConfig().training(loss="aspo", kl_coef=0.0, clip_low=0.0).method.kl_coef == 0.0
    assert ASPOConfig().training(loss="aspo", advantage="dr_grpo").method.advantage == "dr_grpo"


def test_a_loss_may_be_a_function_or_a_loss():
    assert ASPOConfig().training(loss=own_weight).method.token_weight is own_weight
    own = Loss(own_weight, clip_high=0.7)
    assert ASPOConfig().training(loss=own).method == own


def test_grpo_config_is_the_same_config_with_another_loss():
    aspo, grpo = ASPOConfig().to_dict(), GRPOConfig().to_dict()
    assert {name for name in aspo if repr(aspo[name]) != repr(grpo[name])} == {"loss"}
    assert grpo["loss"] == "grpo" and GRPOConfig().method == LOSSES["grpo"]
    assert (ASPOConfig().algo_class.__name__, GRPOConfig().algo_class.__name__) == ("ASPO", "GRPO")


# ---- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config_class", [ASPOConfig, GRPOConfig])
def test_dict_and_copy_round_trips(make_config, config_class):
    config = make_config(config_class, loss="dapo", clip_high=0.3)
    assert config_class.from_dict(config.to_dict()).to_dict() == config.to_dict()
    copy = config.copy()
    assert copy.to_dict() == config.to_dict() and type(copy) is config_class
    copy.training(clip_high=0.4)
    assert config.clip_high == 0.3


def test_grid_search_survives_to_dict(make_config):
    config = make_config(lr=tune.grid_search([1e-4, 1e-5]), loss=tune.grid_search(["aspo", "grpo"]))
    as_dict = config.to_dict()
    assert as_dict["lr"] == {"grid_search": [1e-4, 1e-5]}
    assert as_dict["loss"] == {"grid_search": ["aspo", "grpo"]}


# ---- what is refused ---------------------------------------------------------------------------------------------

BAD = [
    # field, value, what the message says was expected
    ("llm_model", None, "folder or hub id"),
    ("llm_model", "", "folder or hub id"),
    ("llm_model", "/nowhere/at/all", "config.json"),
    ("dtype", "float16", "'float32' or 'bfloat16'"),
    ("dtype", None, "'float32' or 'bfloat16'"),
    ("max_prompt_tokens", 0, ">= 1"),
    ("max_prompt_tokens", 12.5, "an int"),
    ("gpu_memory_utilization", 1.5, r"(0, 1]"),
    ("gpu_memory_utilization", 0, r"(0, 1]"),
    ("kv_cache_memory_bytes", 0, ">= 1, or None"),
    ("tensor_parallel_size", 0, ">= 1"),
    ("max_num_seqs", "many", ">= 1"),
    ("weight_transport", "rdma", "'nccl', 'ipc'"),
    ("weight_transport", dict, "TrainerInitInfo"),
    ("weight_transport", "nccl", "NCCL cannot share a GPU"),
    ("weight_transport", "ipc", "parts of one GPU"),
    ("sleep", "yes", "True, False or None"),
    ("sleep", True, "on CPUs"),
    ("group_size", 0, ">= 1"),
    ("group_size", True, "an int"),
    ("temperature", 0.0, "(0, 2]"),
    ("temperature", float("nan"), "(0, 2]"),
    ("temperature", 2.5, "(0, 2]"),  # vLLM refuses it, but only when the first request is submitted
    ("top_p", 0.0, r"(0, 1]"),
    ("top_p", 1.1, r"(0, 1]"),
    ("max_completion_tokens", -1, ">= 1"),
    ("loss", "apso", "'aspo'"),
    ("loss", 7, "Known:"),
    ("batch_prompts", 0, ">= 1"),
    ("minibatch_prompts", 0, ">= 1"),
    ("minibatch_prompts", 5, "at most batch_prompts=4"),
    ("num_epochs", 0, ">= 1"),
    ("clip_low", 1.5, "[0, 1]"),
    ("clip_low", -0.1, "[0, 1]"),
    ("clip_high", -0.1, ">= 0"),
    ("clip_low_high_entropy", 2, "[0, 1]"),
    ("clip_high_high_entropy", "wide", ">= 0"),
    ("entropy_quantile", 1.0, "(0, 1)"),
    ("weight_cap", 1.0, "> 1"),
    ("aggregation", "mean", "'token', 'sequence', 'sum' or 'constant', or None"),
    ("kl_clamp", 0.0, "> 0, or None"),
    ("sampler_ratio_floor", 1.0, "in [0, 1), or None"),
    ("sampler_correction_level", "mean", "'token', 'geometric' or 'sequence'"),
    ("truncated", "hide", "'keep', 'mask' or 'drop'"),
    ("old_logprobs", "mu", "'learner' or 'sampler', or None"),
    ("kl_coef", -0.001, ">= 0"),
    ("kl_coef", float("nan"), ">= 0"),
    ("kl_coef_high_entropy", -1, ">= 0"),
    ("entropy_coef", None, ">= 0"),
    ("overlong_buffer_tokens", -1, ">= 0"),
    ("overlong_buffer_tokens", 9, "at most max_completion_tokens=8"),
    ("overlong_penalty_factor", -1.0, ">= 0"),
    ("warmup_steps", 1.5, "an int >= 0"),
    ("weight_decay", -0.1, ">= 0"),
    ("betas", (0.9, 1.0), "[0, 1)"),
    ("betas", 0.9, "two numbers"),
    ("grad_clip", 0.0, "> 0"),
    ("lr", 0.0, "> 0"),
    ("lr", -1e-4, "> 0"),
    ("lr", float("nan"), "> 0"),
    ("max_tokens_per_microbatch", 0, ">= 1"),
    ("max_sync_drift", 0.0, "> 0"),
    ("max_entropy", 0, "> 0, or None"),
    ("max_kl", float("nan"), "> 0, or None"),
    ("max_kl", "low", "> 0, or None"),
    ("on_bad_numbers", "ignore", "'warn', 'stop' or 'rollback'"),
    ("drop_uniform_groups", "no", "True or False"),
    ("num_env_runners", 0, ">= 1"),
    ("evaluation_num_env_runners", 1, "expected 0"),
]


@pytest.mark.parametrize(("field", "value", "expected"), BAD, ids=[f"{f}={v!r}" for f, v, _ in BAD])
def test_a_bad_value_is_named_with_its_field_and_what_was_expected(make_config, field, value, expected):
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        changed(make_config(), **{field: value}).validate()
    assert field in str(error.value) and repr(value) in str(error.value)


BAD_LORA = [
    ("r", 0, "[1, 512]"),
    ("r", 1024, "[1, 512]"),
    ("r", True, "[1, 512]"),
    ("lora_alpha", 0, "> 0"),
    ("use_rslora", "yes", "True or False"),
    ("init_lora_weights", "pissa", "'gaussian'"),
    ("target_modules", ["q_proj", "lm_head"], "without lm_head"),
    ("target_modules", ["model.embed_tokens"], "embed_tokens"),
    ("target_modules", "lm_head", "without lm_head"),
    ("target_modules", [], "names of linear layers"),
    ("rank_pattern", {"q_proj": 600}, "[1, 512]"),
    ("alpha_pattern", {"q_proj": -1}, "> 0"),
    ("use_dora", True, "unset"),
    ("modules_to_save", ["lm_head"], "unset"),
    ("target_parameters", ["experts.gate_up_proj"], "unset"),
    ("bias", "all", "unset"),
    ("lora_dropout", 0.1, "unset"),
    ("rank", 16, "r, lora_alpha"),
]


@pytest.mark.parametrize(("field", "value", "expected"), BAD_LORA, ids=[f"{f}={v!r}" for f, v, _ in BAD_LORA])
def test_adapters_that_the_engine_cannot_load_are_refused(make_config, field, value, expected):
    config = make_config().llm(lora={"r": 8, "target_modules": "all-linear", field: value})
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        config.validate()
    assert f"lora[{field!r}]={value!r}" in str(error.value)


def test_plain_lora_validates(make_config):
    switched_off = {"bias": "none", "lora_dropout": 0.0, "use_dora": False, "modules_to_save": None}
    scaled = {"use_rslora": True, "alpha_pattern": {"q_proj": 0.5}, "rank_pattern": {"q_proj": 512}}
    for settings in ({}, {"r": 1, **scaled, **switched_off, "task_type": "CAUSAL_LM"}):
        make_config().llm(lora=settings).validate()


def test_lora_on_gpu_engines_needs_bfloat16(make_config):
    config = make_config().llm(lora={"r": 8}).env_runners(num_gpus_per_env_runner=1)
    with pytest.raises(ValueError, match="dtype='float32': expected 'bfloat16' with lora"):
        config.validate()
    config.llm(dtype="bfloat16").validate()


@pytest.mark.parametrize("schedule", [[[0, 1e-4], [10, 0.0]], [[0, 0.0], [5, 1e-4]]])
def test_a_learning_rate_schedule_is_accepted(make_config, schedule):
    make_config(lr=schedule).validate()


@pytest.mark.parametrize("schedule", ["fast", [[5, 1e-4]], [], [[0, 1e-4], [10, -1.0]]])
def test_a_broken_learning_rate_schedule_is_refused(make_config, schedule):
    with pytest.raises(ValueError, match="lr"):
        make_config(lr=schedule).validate()


def test_a_kl_on_high_entropy_tokens_alone_is_not_silently_dropped(make_config):
    # There is a reference model only with kl_coef > 0.
    with pytest.raises(ValueError, match="kl_coef_high_entropy"):
        make_config(kl_coef=0.0, kl_coef_high_entropy=0.1).validate()


UNUSED = [
    # settings, the field that has no effect with them
    ({"loss": "topr", "clip_low": 0.2}, "clip_low"),
    ({"loss": "topr_token", "clip_high": 0.2}, "clip_high"),
    ({"loss": "sapo", "clip_high": 0.0}, "clip_high"),
    ({"loss": "gspo", "weight_cap": 3.0}, "weight_cap"),
    ({"loss": "cispo", "weight_cap": 3.0}, "weight_cap"),
    ({"loss": "dppo", "clip_low_high_entropy": 0.4}, "clip_low_high_entropy"),
    ({"loss": "vespo", "clip_high_high_entropy": 0.4}, "clip_high_high_entropy"),
    ({"loss": Loss(own_weight, weight_cap=None), "weight_cap": 2.0}, "weight_cap"),
    ({"kl_coef": 0.0, "kl_clamp": 10.0}, "kl_clamp"),
    ({"loss": "dapo", "kl_estimator": "k2"}, "kl_estimator"),
    ({"kl_coef": 0.0, "reference_reset_interval": 5}, "reference_reset_interval"),
    ({"sampler_ratio_floor": 0.5}, "sampler_ratio_floor"),
    ({"advantage": "maxrl", "overlong_buffer_tokens": 4}, "overlong_buffer_tokens"),
]


@pytest.mark.parametrize(("settings", "field"), UNUSED, ids=[field for _, field in UNUSED])
def test_a_setting_without_effect_is_an_error_that_names_it(make_config, settings, field):
    with pytest.raises(ValueError, match=f"{field}={settings[field]!r}: expected "):
        make_config(**settings).validate()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "topr", "clip_low": None},
        {"loss": "dr_grpo", "weight_cap": 3.0},  # one that its authors do not use, but may be given
        {"loss": own_weight, "clip_low": 0.1, "weight_cap": 2.0},
        {"loss": "dapo", "kl_coef": 0.01, "kl_clamp": 10.0, "kl_estimator": "k2"},
        {"sampler_correction": "masked", "sampler_ratio_floor": 0.5, "sampler_correction_level": "geometric"},
        {"advantage": lambda rewards: rewards - rewards.max()},
        {"advantage": "maxrl"},
    ],
)
def test_a_setting_with_effect_is_none(make_config, settings):
    make_config(**settings).validate()


def test_a_top_p_that_nothing_corrects_for_is_refused_in_training(make_config):
    with pytest.raises(ValueError, match=r"top_p=0.9: expected top_p=1, .* in training without a sampler_correction"):
        make_config().sampling(top_p=0.9).validate()
    make_config(sampler_correction="masked").sampling(top_p=0.9).validate()
    make_config().evaluation(evaluation_config={"top_p": 0.9}).validate()


def test_an_unknown_advantage_is_named(make_config):
    with pytest.raises(ValueError, match=r"unknown advantage 'rlo'\. Did you mean 'rloo'"):
        make_config(advantage="rlo").validate()


def test_a_loss_with_its_own_old_logprobs_refuses_what_does_not_go_with_them(make_config):
    with pytest.raises(ValueError, match=r"old_logprobs='sampler', the default of loss='dppo': .*got top_p=0\.9, "):
        make_config(loss="dppo").sampling(top_p=0.9).validate()
    corrected = make_config(loss="dppo", old_logprobs="learner", sampler_correction="truncated").sampling(top_p=0.9)
    corrected.validate()


def test_the_bundled_model_and_every_loss_validate(make_config):
    for loss in [*LOSSES, own_weight]:
        make_config(loss=loss).validate()


# ---- warnings, plan, evaluation ----------------------------------------------------------------------------------


def test_one_optimizer_step_per_batch_warns_that_aspo_equals_grpo(make_config):
    with pytest.warns(UserWarning, match="ASPO equals GRPO"):
        make_config(batch_prompts=4, minibatch_prompts=4, num_epochs=1).validate()


def test_several_optimizer_steps_do_not_warn(make_config):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_config(batch_prompts=4, minibatch_prompts=2, num_epochs=1).validate()
        make_config(loss="grpo", batch_prompts=4, minibatch_prompts=4, num_epochs=1).validate()


def test_the_plan_counts_rollouts_and_steps(make_config):
    # 10 prompts of 8 in steps of at most 4: 3 mini-batches (4 + 3 + 3), twice.
    plan = make_config(batch_prompts=10, minibatch_prompts=4, num_epochs=2).learners(num_learners=2).plan()
    assert "10 prompts x 8 = 80 rollouts -> 3 mini-batches x 2 epochs = 6 optimizer steps" in plan
    parts = ("aspo on aspo/Arithmetic-v0", "model aspo_rllib/tiny_model", "clip 0.2/0.2", "cap 3", "sequence")
    for part in (*parts, "2 FSDP2 learners"):
        assert part in plan


def test_the_plan_names_a_users_own_loss(make_config):
    assert make_config(loss=own_weight).plan().startswith("own_weight on ")


def test_evaluation_overrides_reach_the_evaluation_config(make_config):
    overrides = {"env_config": {"split": "test"}, "group_size": 2, "temperature": 0.6}
    config = make_config().evaluation(evaluation_config=overrides)
    config.validate()
    evaluation = config.get_evaluation_config_object()
    assert (evaluation.group_size, evaluation.temperature) == (2, 0.6)
    assert evaluation.env_config == {"digits": 3, "split": "test"}
    assert evaluation.in_evaluation and evaluation.max_completion_tokens == config.max_completion_tokens
    assert (config.group_size, config.temperature, config.env_config) == (8, 1.0, {"digits": 3})


def test_greedy_evaluation_needs_a_group_size_of_one(make_config):
    config = make_config().evaluation(evaluation_config={"temperature": 0.0})
    with pytest.raises(ValueError, match=r"group_size=8 at temperature=0.*group_size=1"):
        config.get_evaluation_config_object().validate()
    config.evaluation(evaluation_config={"temperature": 0.0, "group_size": 1})
    config.get_evaluation_config_object().validate()


@pytest.mark.parametrize(
    ("given", "gpus", "seeded"), [(None, 0, True), (None, 1, False), (True, 1, True), (False, 0, False)]
)
def test_completions_have_seeds_of_their_own_on_cpu_or_when_asked(make_config, given, gpus, seeded):
    config = make_config().sampling(seed_completions=given).env_runners(num_gpus_per_env_runner=gpus)
    assert config.completions_are_seeded is seeded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_staleness": 1}, "max_staleness=1: expected 0 with deterministic=True"),
        ({"oversampling": 1.5}, "oversampling=1.5: expected 1 with deterministic=True"),
        ({"seed": None}, "seed=None: expected an int with deterministic=True"),
        ({"seed_completions": False}, "seed_completions=False: expected None or True"),
        ({"num_gpus_per_env_runner": 1, "engine": "transformers"}, "engine='transformers': expected 'vllm' with deter"),
    ],
)
def test_what_depends_on_the_clock_is_not_deterministic(make_config, change, message):
    config = make_config().llm(deterministic=True).debugging(seed=1)
    config.validate()
    assert config.copy().update_from_dict({"num_gpus_per_env_runner": 1}).completions_are_seeded
    with pytest.raises(ValueError, match=message):
        config.copy().update_from_dict(change).validate()
