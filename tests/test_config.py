"""The config: flat fields, presets, round trips, and a clear refusal of everything that cannot work."""

import re
import warnings

import pytest
from ray import tune

from aspo_rllib import LOSSES, TINY_MODEL, ASPOConfig, GRPOConfig, Loss


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
        .training(loss="gspo", batch_prompts=6, minibatch_prompts=2, num_epochs=4, lr=0.1, betas=(0.8, 0.9), gamma=0.5)
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
        "gamma": 0.5,  # RLlib's own
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
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(method, typo, meant):
    with pytest.raises(ValueError, match=rf"{method}\(\) argument '{typo}'.*'{meant}'"):
        getattr(ASPOConfig(), method)(**{typo: 1})


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
}


@pytest.mark.parametrize(("preset", "expected"), [("paper", PAPER), ("archer2", ARCHER2)])
def test_presets_are_the_published_settings(preset, expected):
    config = getattr(ASPOConfig, preset)()
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.method.normalize_std
    changed(config, llm_model=TINY_MODEL).environment("aspo/Arithmetic-v0").validate()


def test_fields_left_at_none_come_from_the_loss():
    config = ASPOConfig().training(loss="dapo", clip_low=0.1)
    assert config.method == Loss(LOSSES["grpo"].token_weight, clip_low=0.1, clip_high=0.28, kl_coef=0.0)
    config.training(loss="dr_grpo", clip_low=None, kl_coef=0.5)
    assert config.method == Loss(LOSSES["grpo"].token_weight, aggregation="constant", kl_coef=0.5, normalize_std=False)


def test_a_zero_overrides_the_loss():
    assert ASPOConfig().training(loss="aspo", kl_coef=0.0, clip_low=0.0).method.kl_coef == 0.0
    assert ASPOConfig().training(loss="aspo", normalize_std=False).method.normalize_std is False


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
    ("aggregation", "mean", "'token', 'sequence', 'constant'"),
    ("normalize_std", "yes", "True, False or None"),
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
