"""Users' mistakes, all in one list: each is refused before any engine boots, by a message that says what to do."""

import json
import os
import re
import shutil
from pathlib import Path

import gymnasium as gym
import pytest
import ray
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BertConfig, PhiConfig, Qwen3Config, T5Config

from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor import preflight
from aspo_rllib.evaluate.settings import Settings
from aspo_rllib.evaluate.standalone import evaluate
from aspo_rllib.recipe import options, run

NOWHERE = "/proc/aspo"  # nobody can make files below it, not even root
TEMPLATE = "{{ messages[-1]['content'] }}"
OPTIONS = {"name": "run", "model": "", "data": "", "iterations": 1, "num_env_runners": 1, "num_learners": 0}


# ---- models with one thing wrong ----------------------------------------------------------------------------------


def tiny_copy(folder: Path, *, without=(), config=None) -> str:
    """The tiny model's folder without some files, or with other text in its config.json."""
    shutil.copytree(TINY_MODEL, folder)
    for name in without:
        (folder / name).unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    return str(folder)


def tiny_config(**changes) -> str:
    return json.dumps(json.loads(Path(TINY_MODEL, "config.json").read_text()) | changes)


def other_architecture(folder: Path, config, architecture: str) -> str:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return str(folder)


def bin_only(folder: Path) -> str:
    tiny_copy(folder, without=["model.safetensors"])
    torch.save({}, folder / "pytorch_model.bin")
    return str(folder)


def truncated(folder: Path) -> str:
    tiny_copy(folder)
    os.truncate(folder / "model.safetensors", 100_000)
    return str(folder)


def lfs_pointer(folder: Path) -> str:
    tiny_copy(folder, without=["model.safetensors"])
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return str(folder)


def missing_shard(folder: Path) -> str:
    tiny_copy(folder, without=["model.safetensors"])
    AutoModelForCausalLM.from_pretrained(TINY_MODEL).save_pretrained(folder, max_shard_size="1MB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    return str(folder)


def small_embedding(folder: Path) -> str:
    """As large in config.json as in the weights, but without the tokenizer's last tokens."""
    config = AutoConfig.from_pretrained(TINY_MODEL)
    config.vocab_size = 200
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return str(folder)


def token_of_the_template_is_beyond(folder: Path) -> str:
    tiny_copy(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = tokenizer.chat_template + "<think>"
    tokenizer.save_pretrained(folder)
    return str(folder)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MODELS = {
    "no_config": lambda f: tiny_copy(f, without=["config.json"]),
    "broken_config": lambda f: tiny_copy(f, config="{"),
    "no_type": lambda f: tiny_copy(f, config="{}"),
    "unknown_type": lambda f: tiny_copy(f, config=tiny_config(model_type="qwen33")),
    "encoder": lambda f: other_architecture(f, BertConfig(), "BertForMaskedLM"),
    "encoder_decoder": lambda f: other_architecture(f, T5Config(), "T5ForConditionalGeneration"),
    "reward_model": lambda f: other_architecture(f, Qwen3Config(), "Qwen3ForSequenceClassification"),
    "biased_head": lambda f: other_architecture(f, PhiConfig(), "PhiForCausalLM"),
    "no_template": lambda f: tiny_copy(f, without=["chat_template.jinja"]),
    "no_tokenizer": lambda f: tiny_copy(f, without=TOKENIZER_FILES),
    "no_vocabulary": lambda f: tiny_copy(f, without=["tokenizer.json"]),
    "small_embedding": small_embedding,
    "template_beyond": token_of_the_template_is_beyond,
    "bin_only": bin_only,
    "no_weights": lambda f: tiny_copy(f, without=["model.safetensors"]),
    "truncated": truncated,
    "lfs_pointer": lfs_pointer,
    "missing_shard": missing_shard,
    "other_size": lambda f: tiny_copy(f, config=tiny_config(intermediate_size=512)),
}


# ---- envs and data with one thing wrong ---------------------------------------------------------------------------


class TaskEnv(gym.Env):
    """So many tasks of so many letters."""

    observation_space = action_space = gym.spaces.Text(1000)

    def __init__(self, config):
        self.num_tasks, self.length = config["num_tasks"], config["length"]

    def __len__(self):
        return self.num_tasks

    def reset(self, *, seed=None, options=None):
        return "a" * self.length, {}

    def step(self, action):
        return "", 0.0, True, False, {}


class GradeRaises(TaskEnv):
    def step(self, action):
        return "", 1 / len(action), True, False, {}


ROW = '{"prompt": "1+1=", "answer": "2"}\n'
FILES = {
    "empty.jsonl": "",
    "broken.jsonl": '{"prompt": "1+1=", "answer"\n' * 3,
    "columns.jsonl": '{"frage": "1+1=", "antwort": "2"}\n',
    "no_answer.jsonl": '{"prompt": "1+1=", "answer": null}\n',
    "good.jsonl": ROW,
    "rows.txt": ROW,
}


# ---- what a mistake is made in ------------------------------------------------------------------------------------


class Bench:
    """Good input, to be spoilt by a case."""

    def __init__(self, folder: Path, make_config):
        self.folder = folder
        self.config = make_config()

    def model(self, name: str) -> str:
        return MODELS[name](self.folder / name)

    def file(self, name: str) -> str:
        (self.folder / name).write_text(FILES[name])
        return str(self.folder / name)

    def build(self, model=None, **fields) -> None:
        """Build the algorithm with these fields changed."""
        if model is not None:
            fields["llm_model"] = self.model(model)
        for name, value in fields.items():
            setattr(self.config, name, value)
        self.config.build_algo()

    def math(self, data: str, **env_config) -> None:
        self.build(env="aspo/Math-v0", env_config={"data": data, "cache_dir": str(self.folder), **env_config})

    def tasks(self, num_tasks: int, length: int) -> None:
        self.build(env=TaskEnv, env_config={"num_tasks": num_tasks, "length": length})

    def recipe(self, storage_path: str, **fields) -> None:
        for name, value in fields.items():
            setattr(self.config, name, value)
        run(self.config, options("Does not start.", **OPTIONS).parse_args(["--storage-path", storage_path]))

    def evaluate(self, out: str, **settings) -> None:
        short = {"max_prompt_tokens": 32, "max_completion_tokens": 8}
        evaluate(Settings(**{"model": TINY_MODEL, "env": "aspo/Arithmetic-v0", **short, **settings}), Path(out))


CASES = {
    # the model's folder
    "no model": (lambda b: b.build(llm_model=None), ["llm_model=None", "set .llm(model=...)"]),
    "no such folder": (lambda b: b.build(llm_model="/no/where"), ["llm_model='/no/where'", "a config.json"]),
    "a folder misspelt": (
        lambda b: b.build(llm_model="my/models/qwen"),
        ["llm_model='my/models/qwen'", "neither a folder"],
    ),
    "no config.json": (lambda b: b.build("no_config"), ["no_config'", "a config.json"]),
    "broken config.json": (
        lambda b: b.build("broken_config"),
        ["broken_config'", "config.json cannot be used", "Give the"],
    ),
    "no model_type": (lambda b: b.build("no_type"), ["no_type'", "`model_type` key", "Give the"]),
    "unknown model_type": (lambda b: b.build("unknown_type"), ["unknown_type'", "`qwen33`", "Give the"]),
    "an encoder": (lambda b: b.build("encoder"), ["encoder'", "['BertForMaskedLM']", "expected a causal LM"]),
    "an encoder-decoder": (lambda b: b.build("encoder_decoder"), ["'t5'", "expected a causal LM"]),
    "a reward model": (
        lambda b: b.build("reward_model"),
        ["['Qwen3ForSequenceClassification']", "expected a causal LM"],
    ),
    "a head of another kind": (lambda b: b.build("biased_head"), ["biased_head'", "PhiForCausalLM", "head has a bias"]),
    "weights in .bin only": (
        lambda b: b.build("bin_only"),
        ["bin_only'", "only pytorch_model.bin", "safetensors only", "save_pretrained"],
    ),
    "no weights": (lambda b: b.build("no_weights"), ["no_weights'", "no weights", "model.safetensors"]),
    "a download that broke off": (
        lambda b: b.build("truncated"),
        ["truncated'", "model.safetensors", "Download it again"],
    ),
    "a git clone without lfs": (lambda b: b.build("lfs_pointer"), ["lfs_pointer'", "git lfs pull"]),
    "a shard is missing": (
        lambda b: b.build("missing_shard"),
        ["missing_shard'", "model-00002-of-0000", "is missing", "Download it again"],
    ),
    "weights of another size": (
        lambda b: b.build("other_size"),
        ["other_size'", "down_proj.weight", "[128, 384]", "[128, 512]", "from one model"],
    ),
    # the tokenizer
    "no chat template": (
        lambda b: b.build("no_template"),
        ["chat_template=None", "no_template'", ".llm(chat_template="],
    ),
    "no tokenizer": (
        lambda b: b.build("no_tokenizer", chat_template=TEMPLATE),
        ["no_tokenizer'", "Copy tokenizer.json"],
    ),
    "no vocabulary": (lambda b: b.build("no_vocabulary"), ["no_vocabulary'", "Copy tokenizer.json"]),
    "tokens beyond the embedding": (
        lambda b: b.build("small_embedding"),
        ["small_embedding'", "token 260", "vocab_size=200", "from one model"],
    ),
    "a template beyond the embedding": (
        lambda b: b.build("template_beyond"),
        ["template_beyond'", "token 261, '<think>'", "vocab_size=261", "resize_token_embeddings"],
    ),
    # lengths
    "longer than the context": (
        lambda b: b.build(max_prompt_tokens=200, max_completion_tokens=57),
        ["max_prompt_tokens=200", "max_completion_tokens=57", "257", "context of 256", "Lower one"],
    ),
    "an evaluation longer than the context": (
        lambda b: b.build(eval_sets={"long": {"max_completion_tokens": 1000}}),
        ["evaluation set 'long'", "max_completion_tokens=1000", "context of 256", "Lower one"],
    ),
    "all prompts too long": (
        lambda b: b.build(max_prompt_tokens=8),
        ["max_prompt_tokens=8", "aspo/Arithmetic-v0 are longer", "has 10 tokens", "Raise max_prompt_tokens"],
    ),
    "all prompts of an evaluation too long": (
        lambda b: b.build(eval_sets={"short": {"max_prompt_tokens": 9}}),
        ["max_prompt_tokens=9", "of the evaluation are longer", "Raise max_prompt_tokens"],
    ),
    "an overlong buffer beyond the completion": (
        lambda b: b.build(overlong_buffer_tokens=9),
        ["overlong_buffer_tokens=9", "at most max_completion_tokens=8"],
    ),
    # env and data
    "no env": (lambda b: b.build(env=None), ["env=None", ".environment(...)"]),
    "an env id misspelt": (
        lambda b: b.build(env="aspo/Aritmetic-v0"),
        ["env='aspo/Aritmetic-v0'", "Did you mean 'aspo/Arithmetic-v0'?"],
    ),
    "an env id without its namespace": (
        lambda b: b.build(env="Arithmetic-v0"),
        ["env='Arithmetic-v0'", "Did you mean 'aspo/Arithmetic-v0'?"],
    ),
    "an env of no module": (lambda b: b.build(env="no_module:X-v0"), ["env='no_module:X-v0'", "before the colon"]),
    "an env setting out of range": (lambda b: b.build(env_config={"digits": 0}), ["digits=0", "in 1..9"]),
    "an env setting misspelt": (lambda b: b.build(env_config={"digts": 3}), ["env_config={'digts': 3}", "docstring"]),
    "an env without tasks": (lambda b: b.tasks(0, 5), ["TaskEnv", "no task", "'num_tasks': 0"]),
    "an env without a length": (lambda b: b.build(env="CartPole-v1", env_config={}), ["CartPoleEnv has no length"]),
    "a grader that raises": (
        lambda b: b.build(env=GradeRaises, env_config={"num_tasks": 9, "length": 9}),
        ["grading the completion ''", "test_bad_input.py:", "in step: ZeroDivisionError"],
    ),
    "a grader that raises, looked at alone": (
        lambda b: preflight.check_env(b.config.environment(GradeRaises, env_config={"num_tasks": 9, "length": 9})),
        ["in step: ZeroDivisionError"],
    ),
    "data that is not there": (lambda b: b.math("no.jsonl"), ["data='no.jsonl'", "does not exist", "expected a file"]),
    "data of an unknown kind": (lambda b: b.math(b.file("rows.txt")), ["rows.txt'", "unknown ending", ".jsonl"]),
    "empty data": (lambda b: b.math(b.file("empty.jsonl")), ["empty.jsonl", "there are no rows"]),
    "broken data": (lambda b: b.math(b.file("broken.jsonl")), ["broken.jsonl, line 1", "max_bad_frac=0.01"]),
    "data of unknown columns": (
        lambda b: b.math(b.file("columns.jsonl")),
        ["columns.jsonl, line 1", "frage", "columns="],
    ),
    "data without answers": (lambda b: b.math(b.file("no_answer.jsonl")), ["no_answer.jsonl, line 1", "answer"]),
    "data with an option out of range": (lambda b: b.math(b.file("good.jsonl"), limit=0), ["limit=0", "in 1.."]),
    # sampling, loss and optimizer
    "groups of one": (lambda b: b.build(group_size=1), ["group_size=1", "at least 2", "drop_uniform_groups=True"]),
    "temperature 0 in training": (lambda b: b.build(temperature=0.0), ["temperature=0.0", "in (0, 2]"]),
    "a mini-batch beyond the batch": (
        lambda b: b.build(minibatch_prompts=5),
        ["minibatch_prompts=5", "batch_prompts=4"],
    ),
    "a clip out of range": (lambda b: b.build(clip_low=1.5), ["clip_low=1.5", "in [0, 1]"]),
    "a loss misspelt": (lambda b: b.build(loss="aspoo"), ["loss 'aspoo'", "Did you mean 'aspo'?"]),
    "a field misspelt": (lambda b: b.build(group_sise=4), ["'group_sise'", "Did you mean 'group_size'?"]),
    "no learning rate": (lambda b: b.build(lr=None), ["lr=None", "or a schedule [[0, lr]"]),
    "learning rates without steps": (
        lambda b: b.build(lr=[1e-4, 1e-5]),
        ["lr=[0.0001, 1e-05]", "[[0, lr], [step, lr]"],
    ),
    "a schedule that starts late": (lambda b: b.build(lr=[[5, 1e-4], [9, 0.0]]), ["lr=[[5, 0.0001]", "[[0, lr]"]),
    "a schedule out of order": (
        lambda b: b.build(lr=[[0, 1e-4], [10, 1e-5], [5, 1e-6]]),
        ["lr=[[0, 0.0001], [10, 1e-05], [5, 1e-06]]", "rising steps"],
    ),
    "a negative learning rate": (lambda b: b.build(lr=[[0, 1e-4], [9, -1.0]]), ["[9, -1.0]]", "lr >= 0"]),
    "adapters for layers that are not there": (
        lambda b: b.build(lora={"r": 4, "target_modules": ["q_prj"]}),
        ["lora={'r': 4, 'target_modules': ['q_prj']}", "q_proj, up_proj, v_proj"],
    ),
    "adapters that engines cannot load": (lambda b: b.build(lora={"r": 1024}), ["lora['r']=1024", "[1, 512]"]),
    # cluster, output and disk
    "GPUs that the cluster has not": (
        lambda b: b.build(num_gpus_per_env_runner=1),
        ["num_gpus_per_env_runner=1", "asks for 1 GPU, the cluster has 0", "Ask for less"],
    ),
    "CPUs that the cluster has not": (
        lambda b: b.build(num_env_runners=99),
        ["num_env_runners=99", "asks for 99 CPUs, the cluster has 8", "Ask for less"],
    ),
    "a recipe's GPUs": (
        lambda b: b.recipe(str(b.folder), num_env_runners=8, num_gpus_per_env_runner=1),
        ["asks for 8 GPUs, the cluster has 0"],
    ),
    "more tensor parallel than GPUs": (
        lambda b: b.build(num_gpus_per_env_runner=1, tensor_parallel_size=2),
        ["tensor_parallel_size=2", "num_gpus_per_env_runner=1", "Set both to the same number"],
    ),
    "GPUs that no engine uses": (
        lambda b: b.build(num_gpus_per_env_runner=2),
        ["tensor_parallel_size=1", "num_gpus_per_env_runner=2", "Set both to the same number"],
    ),
    "tensor parallel that cuts a head": (
        lambda b: b.build(tensor_parallel_size=3),
        ["tensor_parallel_size=3", "divisor of the 4 attention heads"],
    ),
    "a storage path that is read-only": (
        lambda b: b.recipe(NOWHERE),
        [f"'{NOWHERE}'", "cannot be written to", "Choose"],
    ),
    "a storage path that is a file": (
        lambda b: b.recipe(b.file("good.jsonl")),
        ["good.jsonl", "is not a folder", "Choose"],
    ),
    "an output folder that is read-only": (lambda b: b.evaluate(NOWHERE), [f"'{NOWHERE}'", "cannot be written to"]),
    "a full disk": (
        lambda b: preflight.check_free(b.folder, shutil.disk_usage(b.folder).free, 10**18),
        ["storage path", "GB are free", "need 1e+09 GB", "num_to_keep"],
    ),
    "a model to evaluate without weights": (
        lambda b: b.evaluate(str(b.folder / "out"), model=b.model("no_weights")),
        ["no_weights'", "no weights", "model.safetensors"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_refused_before_any_engine_boots(ray_session, make_config, tmp_path, name):
    make_mistake, parts = CASES[name]
    before = ray._private.state.actors().keys()
    with pytest.raises((ValueError, FileNotFoundError, SystemExit)) as error:
        make_mistake(Bench(tmp_path, make_config))
    message = str(error.value)
    assert [part for part in parts if part not in message] == [], message
    assert ray._private.state.actors().keys() == before  # neither engine nor learner
    print(message)


def test_the_good_input_passes(ray_session, make_config, tmp_path):
    preflight.check(make_config())
    preflight.check_output(tmp_path / "not" / "yet", preflight.checkpoint_bytes(make_config()))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_estimated_by_its_weights_and_moments(make_config, build_learners, random_model, tmp_path):
    for lora in (None, {"r": 4, "target_modules": ["q_proj"]}):
        learners = build_learners(lora=lora)
        folder = Path(learners.save_to_path(tmp_path / str(lora is None)))
        config = make_config().llm(model=random_model, lora=lora)
        state = preflight.checkpoint_bytes(config.copy().checkpointing(export="never"))
        if lora is None:  # the state of a few adapters is smaller than its index
            assert 0.5 < state / bytes_in(folder) < 1.5
        learners.export(folder)
        assert 0.5 < preflight.checkpoint_bytes(config) / bytes_in(folder) < 1.5


def bytes_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "tokenizer.json")


# ---- legal, but said ------------------------------------------------------------------------------------------------


def test_groups_of_one_without_the_filter_are_legal_with_a_warning(make_config):
    with pytest.warns(UserWarning, match="group_size=1: .* the bare reward"):
        make_config(drop_uniform_groups=False).sampling(group_size=1).validate()


def test_data_of_one_row_is_legal_with_a_warning(ray_session, make_config, tmp_path):
    bench = Bench(tmp_path, make_config)
    with (
        pytest.warns(UserWarning, match="batch_prompts=4: .* has only 1 task"),
        pytest.raises(ValueError, match="digits=0"),
    ):
        bench.config.evaluation(eval_sets={"stops_here": {"env": "aspo/Arithmetic-v0", "env_config": {"digits": 0}}})
        bench.tasks(1, 5)


# ---- checkpoints of something else --------------------------------------------------------------------------------


LORA = {"r": 4, "target_modules": ["q_proj"]}
CHECKPOINTS = {
    "no checkpoint": (None, lambda f: shutil.rmtree(f / "state"), {}, ["no state/.metadata", "Choose another"]),
    "a shard is missing": (
        None,
        lambda f: next((f / "state").glob("*.distcp")).unlink(),
        {},
        ["the shard state/__0_0.distcp is missing", "copy the whole folder"],
    ),
    "another model": (None, None, {"model": TINY_MODEL}, ["(300, 32)", "(261, 128)", "llm_model"]),
    "whole weights for adapters": (None, None, {"lora": LORA}, ["holds all weights", "trains LoRA adapters"]),
    "adapters for whole weights": (LORA, None, {}, ["holds LoRA adapters", "trains all weights"]),
    "adapters of another rank": (LORA, None, {"lora": LORA | {"r": 8}}, ["(4, 32)", "(8, 32)", "lora"]),
    "adapters of other layers": (LORA, None, {"lora": LORA | {"target_modules": ["v_proj"]}}, ["not there", "lora"]),
    "no moving reference": (
        None,
        None,
        {"reference_reset_interval": 1, "kl_coef": 0.1},
        ["no moving reference", "reference_reset_interval"],
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_incompatible_checkpoint_is_refused_and_changes_nothing(build_learners, weights_of, tmp_path, name):
    lora, spoil, settings, parts = CHECKPOINTS[name]
    folder = Path(build_learners(lora=lora).save_to_path(tmp_path / "checkpoint"))
    if spoil is not None:
        spoil(folder)
    learners = build_learners(**settings)
    before = weights_of(learners)
    with pytest.raises(ValueError, match=re.escape(f"checkpoint {folder}: ")) as error:
        learners.restore_from_path(folder)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(learners).items())
