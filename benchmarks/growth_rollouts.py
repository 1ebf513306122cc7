"""How the work on a completion outside of the models grows with its length: CPU time per token at 1k to 32k tokens.

    python benchmarks/growth_rollouts.py                     # under a minute on an idle core
    python benchmarks/growth_rollouts.py --tokens 64 256     # a small run

Every size has the same number of tokens in all, as completions of one length. "mixed" are one completion of that length
and short ones of SHORT tokens. Completions are random. A part whose time per token rises with the length grows faster
than linearly. Repeats are interleaved, and figures are medians of the CPU time of this process, which other work on the
machine hardly changes. "verdicts by a worker" is wall time, because another process grades. What attention costs is not
part of it: it grows with the square of the length.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import ray
import torch
from timing import seconds_of, take_turns
from transformers import AutoTokenizer

from aspo_rllib import TINY_MODEL
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.microbatch import Microbatch, build_microbatch
from aspo_rllib.learner.tally import Tally, tally_frozen, tally_loss
from aspo_rllib.losses import entropy_class, policy_loss, resolve_loss
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.rollout.stats import repetition, rollout_metrics
from aspo_rllib.run.start_ray import start_ray
from aspo_rllib.types import Rollout, RolloutGroup, TrainBatch
from envs.grading.answers import MathAnswer
from envs.grading.code.extract import extract_program
from envs.grading.math.grader import MathGrader
from envs.grading.pool import GradingPool
from envs.text_env import Grade, SingleTurnTextEnv, Task

SHORT = 64
PROMPT = 32
GROUP_SIZE = 8
CHARS_PER_TOKEN = 4
GOLD = MathAnswer(("17",))

Work = Callable[[], object]


class Boxes(SingleTurnTextEnv):
    """One problem whose answer is 17."""

    def __len__(self) -> int:
        return 1

    def task(self, index: int) -> Task:
        return Task(prompt="x", answer=GOLD, data_source="boxes")

    def grade(self, task: Task, completion: str) -> Grade:
        return MathGrader().grade(task.answer, completion)


def words(num_tokens: int, seed: int) -> str:
    """Random words and formulas of about `num_tokens` tokens."""
    rng = random.Random(seed)
    pieces = ("so", "we", "then", "have", "$x_1 = 3$", "\\(y\\)", "which", "is", "12", "and", "line\n", "sum")
    return " ".join(rng.choices(pieces, k=num_tokens))[: CHARS_PER_TOKEN * num_tokens]


# What a completion of so many tokens says. The last ones are made to be slow.
MATH_TEXTS: dict[str, Callable[[int], str]] = {
    "a thought and a box": lambda n: f"<think>{words(n, n)}</think> $\\boxed{{17}}$",
    "a thought that never ends": lambda n: f"<think>{words(n, n)}",
    "boxes alone": lambda n: "\\boxed{16} and " * (CHARS_PER_TOKEN * n // 15),
    "boxes that never close": lambda n: "\\boxed{" * (CHARS_PER_TOKEN * n // 7),
    "a box of everything": lambda n: f"\\boxed{{{words(n, n)}}}",
}
CODE_TEXTS: dict[str, Callable[[int], str]] = {
    "words and a program": lambda n: f"{words(n, n)}\n```python\nprint(1)\n```\n",
    "fences alone": lambda n: "- > ```python\n" * (CHARS_PER_TOKEN * n // 14),
    "marks of lists alone": lambda n: "- " * (CHARS_PER_TOKEN * n // 2),
}


def rollouts(lengths: Sequence[int]) -> list[RolloutGroup]:
    """Groups of random completions of these lengths."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 200, PROMPT).astype(np.int32)
    made = []
    for length in lengths:
        ids = rng.integers(0, 200, length).astype(np.int32)
        logprobs = -rng.random(length).astype(np.float32)
        made.append(Rollout(prompt, ids, logprobs, "stop", words(length, length), 0.0, len(made) % 2 == 0, 0))
    groups = [tuple(made[k : k + GROUP_SIZE]) for k in range(0, len(made), GROUP_SIZE)]
    return [RolloutGroup(k, k, "", group) for k, group in enumerate(groups)]


def batch_of(groups: list[RolloutGroup], layout: str, budget: int) -> TrainBatch:
    advantages = [np.where([r.correct for r in g.rollouts], 1.0, -1.0) for g in groups]
    (batch,) = build_train_batches(
        groups,
        advantages,
        num_learners=1,
        minibatch_prompts=len(groups),
        max_tokens_per_microbatch=budget,
        layout=LAYOUTS[layout],
    )
    return batch


def packed(batch: TrainBatch, layout: str) -> list[Microbatch]:
    """All micro-batches of a batch."""
    (minibatch,) = batch.minibatches
    longest = max(len(ids) for ids in batch.completion_ids)
    options = {"aggregation": "token", "max_completion_tokens": longest, "device": "cpu"}
    return [
        build_microbatch(batch, rows, minibatch, pack=LAYOUTS[layout].pack, **options)
        for rows in minibatch.microbatches
    ]


def classify(microbatches: Sequence[Microbatch]) -> None:
    for m in microbatches:
        entropy_class(-m.sampler_logprobs, m.loss_mask, 0.8)


def compute_loss(microbatches: Sequence[Microbatch]) -> None:
    """Entropy classes, loss, its gradient and its metrics, from logprobs that stand in for a model's."""
    method, tally = resolve_loss("aspo"), Tally()
    for m in microbatches:
        logprobs = m.sampler_logprobs.clone().requires_grad_()
        high = entropy_class(-m.sampler_logprobs, m.loss_mask, 0.8)
        fixed = (m.sampler_logprobs, m.sampler_logprobs, -m.sampler_logprobs, high, m.advantages, m.loss_mask)
        tally_frozen(tally, *fixed)
        out = policy_loss(
            logprobs,
            m.sampler_logprobs,
            m.advantages,
            m.loss_mask,
            loss=method.token_weight,
            coefficients=m.coefficients,
            clip_low=0.2,
            clip_high=0.2,
            weight_cap=3.0,
        )
        tally_loss(tally, out, logprobs, m.sampler_logprobs, m.advantages, m.loss_mask)
        out.loss.backward()


def grade_by_worker(pool: GradingPool, texts: Sequence[str]) -> None:
    for key, text in enumerate(texts):
        pool.submit(key, 0, text)
    while pool.pending:
        pool.collect(wait_s=1.0)


def through_the_store(records: object) -> object:
    return ray.get(ray.put(records))


def cpu_seconds_of(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def parts(length: int, total: int, pool: GradingPool) -> dict[str, Callable[[], float]]:
    """What is measured for completions of this length; each returns its seconds for `total` tokens."""
    same = rollouts([length] * (total // length))
    mixed = rollouts([length] + [SHORT] * ((total - length) // SHORT))
    ids = [r.completion_ids.tolist() for g in same for r in g.rollouts]
    tokenizer, grader = AutoTokenizer.from_pretrained(TINY_MODEL), MathGrader()
    texts = [r.completion for g in same for r in g.rollouts]
    work: dict[str, Work] = {
        "text of tokens": lambda: [tokenizer.decode(i, skip_special_tokens=False) for i in ids],
        "repetition": lambda: [repetition(text) for text in texts],
    }
    for name, make in MATH_TEXTS.items():
        work[f"verdict: {name}"] = partial(
            lambda own: [grader.grade(GOLD, text) for text in own], [make(length)] * (total // length)
        )
    for name, make in CODE_TEXTS.items():
        work[f"program: {name}"] = partial(
            lambda own: [extract_program(text) for text in own], [make(length)] * (total // length)
        )
    for name, groups in {"": same, ", mixed": mixed}.items():
        work[f"batch and its metrics{name}"] = lambda g=groups: (batch_of(g, "packed", total), rollout_metrics(g))
        for layout in LAYOUTS:
            work[f"{layout} rows{name}"] = partial(packed, batch_of(groups, layout, total), layout)
        batch = batch_of(groups, "packed", total)
        microbatches = packed(batch, "packed")
        work[f"entropy classes{name}"] = partial(classify, microbatches)
        work[f"loss and its metrics{name}"] = partial(compute_loss, microbatches)
        work[f"groups, through the store{name}"] = partial(through_the_store, groups)
        work[f"batch, through the store{name}"] = partial(through_the_store, batch)
    measured = {name: partial(cpu_seconds_of, one) for name, one in work.items()}
    boxed = [MATH_TEXTS["a thought and a box"](length)] * (total // length)
    return measured | {"verdicts by a worker": partial(seconds_of, partial(grade_by_worker, pool, boxed))}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns, by part, the time per token at the last size over that at the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 8192, 32768], help="of a completion, ascending")
    parser.add_argument("--total", type=int, help="tokens of all completions of a size; default: twice the longest")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    total = args.total or 2 * max(args.tokens)
    torch.set_num_threads(1)
    start_ray("local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        pool = GradingPool(Boxes, num_workers=1, timeout_s=60.0)
        stack.callback(pool.close)
        ways = {(name, length): work for length in args.tokens for name, work in parts(length, total, pool).items()}
        seconds = take_turns(ways, args.repeats)
    nanoseconds = {way: 1e9 * statistics.median(times) / total for way, times in seconds.items()}
    print(f"nanoseconds per token, {total:,} tokens per size, median of {args.repeats}")
    print(f"{'part':<44}" + "".join(f"{length:>9,}" for length in args.tokens) + f"{'last / first':>14}")
    growth = {}
    for name in dict.fromkeys(name for name, _ in ways):
        row = [nanoseconds[name, length] for length in args.tokens]
        growth[name] = row[-1] / row[0]
        print(f"{name:<44}" + "".join(f"{value:>9.1f}" for value in row) + f"{growth[name]:>14.2f}")
    return growth


if __name__ == "__main__":
    main()
