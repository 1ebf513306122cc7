"""What is exported with the weights: what the run used, and what its source said, even where transformers objects."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor import preflight
from aspo_rllib.learner.checkpoints import export_hf
from aspo_rllib.model.companions import load_generation_config, load_tokenizer
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout import prompts
from envs.chat import BARE_TEMPLATE

CODE = """
from transformers import PreTrainedTokenizer


class LetterTokenizer(PreTrainedTokenizer):
    vocab_files_names = {}
    model_input_names = ["input_ids"]

    def __init__(self, **kwargs):
        self._letters = {chr(i + 32): i for i in range(95)} | {"<s>": 95, "</s>": 96, "<unk>": 97}
        self._names = {i: letter for letter, i in self._letters.items()}
        super().__init__(**({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | kwargs))

    @property
    def vocab_size(self):
        return len(self._letters)

    def get_vocab(self):
        return dict(self._letters)

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return self._letters.get(token, 97)

    def _convert_id_to_token(self, index):
        return self._names.get(index, "<unk>")

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()
"""
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}="


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    shutil.copytree(TINY_MODEL, path)
    return path


def export(folder, to, *, trust_remote_code=False, chat_template=None):
    policy = load_policy(str(folder))
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code, chat_template=chat_template)
    generation = load_generation_config(str(folder), trust_remote_code=trust_remote_code)
    export_hf(to, policy, full_weights(policy), generation, tokenizer)
    return to


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.9, "top_p": 0.6},  # Vicuna, Llama 2
        {"temperature": 0.6, "do_sample": False},
        {"top_k": 5},
        {"typical_p": 0.5},
        {"num_beams": 1, "early_stopping": True},
        {"length_penalty": 2.0},
        {"pad_token_id": -1},
    ],
)
def test_a_generation_config_that_transformers_would_not_save_is_exported_as_it_was(
    settings, folder, tmp_path, make_config
):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1} | settings))
    preflight.check_model(make_config().llm(model=str(folder)))
    exported = GenerationConfig.from_pretrained(export(folder, tmp_path / "exported"))
    assert {name: getattr(exported, name) for name in settings} == settings
    AutoModelForCausalLM.from_pretrained(tmp_path / "exported")


@pytest.mark.parametrize("settings", [{"max_new_tokens": -3}, {"num_return_sequences": 3}])
def test_one_that_cannot_even_be_loaded_is_refused_before_anything_boots(settings, folder, make_config):
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"llm_model=.*cannot be saved and loaded again"):
        preflight.check_model(make_config().llm(model=str(folder)))


@pytest.mark.parametrize("ends", [5, [5, 7]])
def test_end_tokens_of_config_json_count_and_are_exported(ends, folder, tmp_path, make_config):
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
    expected = {ends} if isinstance(ends, int) else set(ends)
    _, stop = prompts.load_tokenizer(make_config().llm(model=str(folder)))
    assert expected <= set(stop)
    _, again = prompts.load_tokenizer(make_config().llm(model=str(export(folder, tmp_path / "exported"))))
    assert again == stop
    assert GenerationConfig.from_pretrained(tmp_path / "exported").eos_token_id == ends


@pytest.mark.parametrize("template", [TEMPLATE, BARE_TEMPLATE])
def test_the_template_that_was_trained_with_is_exported(template, folder, tmp_path):
    exported = AutoTokenizer.from_pretrained(export(folder, tmp_path, chat_template=template))
    assert exported.chat_template == template


def test_without_one_the_tokenizers_own_is_exported(folder, tmp_path):
    own = AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoTokenizer.from_pretrained(export(folder, tmp_path / "exported")).chat_template == own


def test_the_bare_template_begins_as_the_model_was_trained_to(folder):
    tokenizer = load_tokenizer(str(folder), trust_remote_code=False, chat_template=BARE_TEMPLATE)
    tokenizer.bos_token = "<s>"
    message = [{"role": "user", "content": "1+2="}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "<s>1+2="
    tokenizer.bos_token = None
    assert tokenizer.apply_chat_template(message, tokenize=False) == "1+2="


def test_a_slow_tokenizer_with_code_of_its_own_is_exported(folder, tmp_path, make_config):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "letters.py").write_text(CODE)
    config = {
        "tokenizer_class": "LetterTokenizer",
        "auto_map": {"AutoTokenizer": ["letters.LetterTokenizer", None]},
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    size = AutoModelForCausalLM.from_pretrained(folder)
    size.resize_token_embeddings(128)
    size.save_pretrained(folder)
    preflight.check_model(make_config().llm(model=str(folder), trust_remote_code=True))
    exported = load_tokenizer(
        str(export(folder, tmp_path, trust_remote_code=True)), trust_remote_code=True, chat_template=None
    )
    assert type(exported).__name__ == "LetterTokenizer"
    assert exported.decode(exported.encode("12+3")) == "12+3" and exported.chat_template == TEMPLATE
