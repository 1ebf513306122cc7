"""Compares layouts and attentions: time of forward + backward over rollouts whose lengths spread 10:1.

    python benchmarks/packing.py                    # 8 rollouts, a model of 30M parameters
    python benchmarks/packing.py --rollouts 4       # a small run
    python benchmarks/packing.py --rollouts 16 --group-size 8 --prompt-tokens 256

padded: right-padded rows. packed: one row, with attention sequence by sequence. shared: packed, with one prompt for
each --group-size rollouts. packed, mask: the packed row with transformers' own "sdpa", which masks all pairs of tokens.
one by one: a forward and backward pass for each rollout. All give the same gradient. Repeats are interleaved and times
are medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from timing import take_turns
from transformers import Qwen3Config, Qwen3ForCausalLM

from aspo_rllib.model.packing import SEQUENCE_ATTENTION, Pack, pack_rows, pad_rows, share_prompts
from aspo_rllib.model.policy import Policy


def seconds(policy: Policy, layout: Pack, batches: list, attention: str, device: str) -> float:
    """Seconds of forward and backward over all `batches`, which are pairs (prompts, completions)."""
    policy.hf_model.set_attn_implementation(attention)
    policy.zero_grad()
    start = time.perf_counter()
    for prompts, completions in batches:
        logprobs, _ = policy(layout(prompts, completions, device))
        logprobs.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest completion")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=1, help="rollouts with the same prompt")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=2,
        head_dim=64,
    )
    policy = Policy(Qwen3ForCausalLM(config).eval()).to(args.device)
    rng = np.random.default_rng(0)
    lengths = np.geomspace(args.longest // 10, args.longest, args.rollouts).astype(int)
    groups = [rng.integers(0, 8192, args.prompt_tokens) for _ in range(math.ceil(len(lengths) / args.group_size))]
    prompts = [groups[i // args.group_size] for i in range(len(lengths))]
    completions = [rng.integers(0, 8192, n) for n in lengths]
    lengths += args.prompt_tokens
    together, alone = [(prompts, completions)], [([p], [c]) for p, c in zip(prompts, completions, strict=True)]
    ways = {
        "padded": (pad_rows, together, SEQUENCE_ATTENTION),
        "packed": (pack_rows, together, SEQUENCE_ATTENTION),
        "shared": (share_prompts, together, SEQUENCE_ATTENTION),
        "packed, mask": (pack_rows, together, "sdpa"),
        "one by one": (pad_rows, alone, SEQUENCE_ATTENTION),
    }
    runs = take_turns({name: partial(seconds, policy, *way, args.device) for name, way in ways.items()}, args.repeats)
    medians = {name: statistics.median(times) for name, times in runs.items()}
    print(
        f"{args.device}, {torch.get_num_threads()} thread(s), {args.rollouts} rollouts of {lengths[0]}-{lengths[-1]} ",
        end="",
    )
    print(f"tokens, {lengths.sum()} in all, {len(lengths) * lengths[-1]} padded; median of {args.repeats}")
    print(f"{'layout':13} {'seconds':>8} {'time / padded':>14}")
    ratios = {name: median / medians["padded"] for name, median in medians.items()}
    for name, median in medians.items():
        print(f"{name:13} {median:8.2f} {ratios[name]:14.2f}")
    return ratios


if __name__ == "__main__":
    main()
