"""Models and rollouts for the stages of gpu_check.py: models with real shapes and random weights, created locally."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from aspo_rllib.types import Rollout, RolloutGroup

TOKENIZER = Path(__file__).resolve().parent.parent / "aspo_rllib" / "tiny_model"
CONTEXT_TOKENS = 8192
_SMALL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "head_dim": 32, "vocab_size": 512}
_QWEN3 = {"num_hidden_layers": 28, "head_dim": 128, "vocab_size": 151_936}
SHAPES = {
    "tiny": {**_SMALL, "num_attention_heads": 4, "num_key_value_heads": 2},
    "0.6B": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    "1.7B": {
        **_QWEN3,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
}


@dataclass(frozen=True)
class Sizes:
    """How much work the stages do.

    models: names in SHAPES; stages with a single model use the first one.
    microbatch_tokens: tokens of one forward pass.
    train_groups, group_size, prompt_tokens, longest_tokens: number and lengths of the rollouts for training.
    positions, vocabulary, width: sizes of the head in its own stage.
    prompts, completion_tokens, max_num_seqs: sizes for sampling and whole iterations.
    """

    device: str
    dtype: str
    models: tuple[str, ...]
    matrix: int
    microbatch_tokens: int
    train_groups: int
    group_size: int
    prompt_tokens: int
    longest_tokens: int
    positions: int
    vocabulary: int
    width: int
    prompts: int
    completion_tokens: int
    max_num_seqs: int
    prefix_tokens: int
    iterations: int
    quickstart_iterations: int
    repeats: int


FULL = Sizes(
    device="cuda", dtype="bfloat16", models=("0.6B", "1.7B"), matrix=8192, microbatch_tokens=16384, train_groups=3,
    group_size=8, prompt_tokens=512, longest_tokens=2048, positions=8192, vocabulary=151_936, width=1024, prompts=32,
    completion_tokens=256, max_num_seqs=512, prefix_tokens=1024, iterations=3, quickstart_iterations=20, repeats=3,
)  # fmt: skip
TINY = Sizes(
    device="cpu", dtype="float32", models=("tiny",), matrix=256, microbatch_tokens=256, train_groups=2, group_size=2,
    prompt_tokens=16, longest_tokens=64, positions=64, vocabulary=512, width=32, prompts=2, completion_tokens=8,
    max_num_seqs=8, prefix_tokens=32, iterations=1, quickstart_iterations=2, repeats=1,
)  # fmt: skip


def model_config(shape: str) -> Qwen3Config:
    return Qwen3Config(**SHAPES[shape], max_position_embeddings=CONTEXT_TOKENS, tie_word_embeddings=True)


def model_folder(shape: str, device: str) -> str:
    """A folder with a model of this shape and random weights, created once per machine."""
    shm = Path("/dev/shm")
    root = shm if shm.is_dir() and shutil.disk_usage(shm).free > 20e9 else Path("/tmp")
    folder = root / f"gpu_check_{os.getuid()}" / shape
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        with torch.device(device):  # a CPU needs half a minute for a billion random numbers
            model = Qwen3ForCausalLM(model_config(shape)).bfloat16()
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return str(folder)


def make_groups(groups: int, group_size: int, prompt_tokens: int, longest: int, vocab: int) -> list[RolloutGroup]:
    """Random rollouts in random order. Lengths of completions are geometric from a tenth of `longest` to `longest`."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.geomspace(max(2, longest // 10), longest, groups * group_size).astype(int))

    def rollout(prompt: np.ndarray, length: int, number: int) -> Rollout:
        ids = rng.integers(0, vocab, length).astype(np.int32)
        return Rollout(prompt, ids, np.full(length, -12.0, np.float32), "stop", "", 0.0, bool(number % 2), 0)

    made = []
    for position, own in enumerate(lengths.reshape(groups, group_size)):
        prompt = rng.integers(0, vocab, prompt_tokens).astype(np.int32)
        made.append(RolloutGroup(position, position, "", tuple(rollout(prompt, n, k) for k, n in enumerate(own))))
    return made


def training_flops(shape: str, groups: list[RolloutGroup]) -> float:
    """Floating-point operations of forward and backward over these rollouts, without recomputation and padding."""
    s = SHAPES[shape]
    queries, keys = (s[name] * s["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    per_layer = s["hidden_size"] * (2 * queries + 2 * keys + 3 * s["intermediate_size"])
    rollouts = [r for group in groups for r in group.rollouts]
    tokens = sum(r.num_tokens for r in rollouts)
    completion_tokens = sum(len(r.completion_ids) for r in rollouts)
    pairs = sum(r.num_tokens**2 for r in rollouts) / 2  # causal
    matrices = 6 * (
        s["num_hidden_layers"] * per_layer * tokens + s["vocab_size"] * s["hidden_size"] * completion_tokens
    )
    return matrices + 12 * s["num_hidden_layers"] * queries * pairs
