"""The shipped model is what the quickstart needs: small, loadable, mostly wrong and able to be right."""

from pathlib import Path

import gymnasium
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuned_examples import pretrain_tiny_model
from tuned_examples.tiny_model_training import sum_without_carry

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "aspo_rllib" / "tiny_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def held_out():
    return gymnasium.make("envs:aspo/Arithmetic-v0", split="test").unwrapped


def test_folder_is_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(sizes.values()) < 5e6
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= sizes.keys()
    assert "README.md" in sizes


def test_model_is_fp32_with_tied_embeddings(model):
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert 0.5e6 < model.num_parameters() < 0.7e6


def test_any_text_survives_encoding_and_decoding(tokenizer):
    for text in ("".join(map(chr, range(128))), "  two  spaces , and . dots ", "naïve ٣ 😀", ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.encode())


def test_chat_template(tokenizer):
    user = {"role": "user", "content": "123+456="}
    ids = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
    assert len(ids) == len("123+456=") + 2
    assert tokenizer.decode(ids) == "<|user|>123+456=<|assistant|>"
    chat = [{"role": "system", "content": "Add."}, user, {"role": "assistant", "content": "579"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|system|>Add.<|user|>123+456=<|assistant|>579<|end|>"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "Add.123+456=579"


def test_end_token_stops_generation(model, tokenizer):
    assert tokenizer.eos_token == "<|end|>"
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


@torch.no_grad()
def sample_correct(model, tokenizer, env, num_tasks: int, group_size: int) -> torch.Tensor:
    """Sample by hand at temperature 1, as an independent check of the model card; (num_tasks, group_size)."""
    torch.manual_seed(0)
    tasks = [env.task(i) for i in range(num_tasks)]
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=False)
    ids = torch.tensor(ids).repeat_interleave(group_size, dim=0)
    prompt_length = ids.shape[1]
    for _ in range(6):
        logits = model(input_ids=ids).logits[:, -1]
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    texts = [text.split("<|end|>")[0] for text in tokenizer.batch_decode(ids[:, prompt_length:])]
    graded = [env.grade(tasks[i // group_size], text).correct for i, text in enumerate(texts)]
    return torch.tensor(graded, dtype=torch.float32).view(num_tasks, group_size)


def test_held_out_accuracy_leaves_room_for_rl(model, tokenizer, held_out):
    correct = sample_correct(model, tokenizer, held_out, num_tasks=64, group_size=16)
    assert 0.2 < correct.mean() < 0.45
    assert correct.amax(1).mean() > 0.8


def test_pretraining_script_runs(tmp_path, capsys, held_out):
    pretrain_tiny_model.main(
        ["--out", str(tmp_path / "model"), "--steps", "3", "--batch-size", "8", "--eval-tasks", "4"]
    )
    assert "avg@16 0.0" in capsys.readouterr().out
    assert "| `--steps` | 3 |" in (tmp_path / "model" / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert sample_correct(model, tokenizer, held_out, num_tasks=2, group_size=2).shape == (2, 2)
    assert sum_without_carry("157+268=") == "315"
