"""A full optimizer step of the learner against bare transformers, on rollouts whose lengths spread 10:1.

    python benchmarks/learner.py                  # 16 rollouts of 64 to 640 tokens, a model of 12M parameters
    python benchmarks/learner.py --rollouts 4     # a small run

learner: the step of ASPOTorchLearner (forward, loss, backward, clipping, AdamW), packed and padded.
bare: model(ids) for each rollout separately, log-softmax, backward; then clipping and AdamW. There is no padding.
naive: all rollouts right-padded to the longest, whole logits, one backward; then clipping and AdamW.
All run in one process on the same tokens. Repeats are interleaved and times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from timing import seconds_of, take_turns
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from aspo_rllib import ASPOConfig
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.learner import ASPOTorchLearner
from aspo_rllib.learner.tally import Tally
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.types import Rollout, RolloutGroup
from envs.text_env import TextSpace


def make_rollouts(count: int, longest: int, vocab: int) -> list[Rollout]:
    """Lengths evenly spaced from a tenth of the longest to the longest; a quarter of each is prompt."""
    rng = np.random.default_rng(0)
    rollouts = []
    for length in np.linspace(longest // 10, longest, count).astype(int):
        ids = rng.integers(0, vocab, length).astype(np.int32)
        prompt, completion = ids[: length // 4], ids[length // 4 :]
        logprobs = np.zeros(len(completion), np.float32)
        rollouts.append(Rollout(prompt, completion, logprobs, "stop", "", 0.0, False, 0))
    return rollouts


class Learner:
    """The real learner with one frozen mini-batch."""

    def __init__(self, folder: str, rollouts: list[Rollout], layout: str):
        config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=folder)
        config.training(layout=layout, kl_coef=0.0, lr=1e-5, aggregation="token")
        config.validate()
        spec = config.get_multi_rl_module_spec(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
        self.learner = ASPOTorchLearner(config=config, module_spec=spec)
        self.learner.build()
        advantages = np.where(np.arange(len(rollouts)) % 2, 1.0, -1.0)
        (batch,) = build_train_batches(
            [RolloutGroup(0, 0, "", tuple(rollouts))],
            [advantages],
            num_learners=1,
            minibatch_prompts=1,
            max_tokens_per_microbatch=config.max_tokens_per_microbatch,
            layout=LAYOUTS[layout],
        )
        self.learner.tally = Tally()
        self.microbatches = self.learner._cut(batch, batch.minibatches[0])

    def step(self) -> None:
        self.learner._optimizer_step(self.microbatches)


class Bare:
    """Only transformers and torch. padded: one batch of right-padded rows instead of one row at a time."""

    def __init__(self, folder: str, rollouts: list[Rollout], padded: bool):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        rows = [torch.from_numpy(np.concatenate([r.prompt_ids, r.completion_ids]).astype(np.int64)) for r in rollouts]
        masks = [torch.arange(len(row)) >= len(r.prompt_ids) for row, r in zip(rows, rollouts, strict=True)]
        self.num_tokens = sum(int(m.sum()) for m in masks)
        if padded:
            pad = torch.nn.utils.rnn.pad_sequence
            attend = pad([torch.ones_like(row) for row in rows], batch_first=True)
            self.batches = [(pad(rows, batch_first=True), pad(masks, batch_first=True), attend)]
        else:
            self.batches = [(row[None], mask[None], None) for row, mask in zip(rows, masks, strict=True)]

    def step(self) -> None:
        self.optimizer.zero_grad()
        for ids, mask, attend in self.batches:
            logits = self.model(input_ids=ids, attention_mask=attend, use_cache=False).logits[:, :-1]
            logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            (-(logprobs * mask[:, 1:]).sum() / self.num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--longest", type=int, default=640, help="tokens of the longest rollout")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    config = Qwen3Config(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=args.hidden // 64,
        head_dim=32,
        max_position_embeddings=args.longest,
        tie_word_embeddings=True,
    )
    rollouts = make_rollouts(args.rollouts, args.longest, args.vocab)
    with tempfile.TemporaryDirectory() as folder:
        model = Qwen3ForCausalLM(config)
        model.save_pretrained(folder)
        ways = {
            "bare, one by one": Bare(folder, rollouts, padded=False),
            "learner, packed": Learner(folder, rollouts, "packed"),
            "learner, padded": Learner(folder, rollouts, "padded"),
            "naive, padded": Bare(folder, rollouts, padded=True),
        }
        seconds = take_turns({name: partial(seconds_of, way.step) for name, way in ways.items()}, args.repeats)

    tokens = sum(r.num_tokens for r in rollouts)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: t / medians["bare, one by one"] for name, t in medians.items()}
    print(
        f"{model.num_parameters() / 1e6:.1f}M parameters, {len(rollouts)} rollouts, {tokens} tokens,"
        f" {args.threads} thread(s)"
    )
    print(f"{'':<18} {'s/step':>8} {'tokens/s':>9} {'time / bare':>12}")
    for name, t in medians.items():
        print(f"{name:<18} {t:>8.3f} {tokens / t:>9.0f} {ratios[name]:>12.2f}")
    return ratios


if __name__ == "__main__":
    main()
