"""The models that benchmarks/vs_trl.py and scale.py train: how they end their completions."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from endings import END_TOKENS, LATENESS, ends_at_random, never_ends, save_model

LONGEST = 192


def end_probabilities(folder):
    """After each token of a prompt and a completion of `LONGEST` tokens, `[LONGEST]`, and the prompt's length."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "405+289="}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    others = np.setdiff1d(np.arange(model.config.vocab_size), [*END_TOKENS, *prompt])
    completion = np.random.default_rng(0).choice(others, LONGEST)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0]
    return logits.softmax(-1)[len(prompt) - 1 : -1, END_TOKENS].sum(-1).numpy(), len(prompt)


def test_natural_stops_spread_ten_to_one(tmp_path):
    save_model(tmp_path, ends_at_random)
    ends, prompt_tokens = end_probabilities(tmp_path)
    weights = [len(END_TOKENS) * math.exp(-LATENESS / (prompt_tokens + n)) for n in range(LONGEST)]
    assert ends == pytest.approx([w / (w + 261 - len(END_TOKENS) - 1) for w in weights], rel=0.02)

    shorter = 1 - np.cumprod(1 - ends)  # the share of completions of up to 1, 2, ... tokens
    tenth, nine_tenths = (1 + np.searchsorted(shorter, share) for share in (0.1, 0.9))
    assert nine_tenths / tenth == pytest.approx(10, rel=0.05)
    assert shorter[-2] > 0.95  # few are cut


def test_what_never_ends_has_no_logit_for_its_end(tmp_path):
    save_model(tmp_path, never_ends)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert min(model.generation_config.eos_token_id) >= model.config.vocab_size
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id == model.generation_config.eos_token_id[0]
