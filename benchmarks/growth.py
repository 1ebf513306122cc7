"""How the time and memory of an update grow with the number of tokens, for one and for two learners.

    python benchmarks/growth.py                        # 2k, 8k and 32k tokens
    python benchmarks/growth.py --tokens 1024 2048     # a small run

Each learner is an actor (two learners use FSDP2 over gloo) and runs one whole update: old logprobs, and one epoch with
one optimizer step. The longest rollout and the micro-batch budget are fixed, so that memory should stay constant and
time should be proportional to tokens. Memory is the peak resident memory of the process during the update, with its
libraries, of the learner that uses most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from functools import partial

import numpy as np
import ray
from memory_peak import peak_bytes, reset_peak
from ray.rllib.core import DEFAULT_MODULE_ID
from timing import seconds_of
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.run.start_ray import start_ray
from aspo_rllib.types import Rollout, RolloutGroup
from envs.text_env import TextSpace

LONGEST = 512
VOCAB = 4096


def make_group(num_tokens: int) -> RolloutGroup:
    """Rollouts of 51 to 512 tokens that add up to about `num_tokens`; a quarter of each is prompt."""
    rng = np.random.default_rng(0)
    rollouts, left = [], num_tokens
    while left > 0:
        length = int(rng.integers(LONGEST // 10, LONGEST + 1))
        ids = rng.integers(0, VOCAB, length).astype(np.int32)
        prompt, completion = ids[: length // 4], ids[length // 4 :]
        rollouts.append(Rollout(prompt, completion, np.zeros(len(completion), np.float32), "stop", "", 0.0, False, 0))
        left -= length
    return RolloutGroup(0, 0, "", tuple(rollouts))


def measure(config: ASPOConfig, num_learners: int, sizes: list[int], repeats: int) -> dict[int, tuple[float, int]]:
    """Measure updates; returns tokens -> (median seconds, peak bytes)."""
    config = config.copy(copy_frozen=False).learners(num_learners=num_learners)
    config.validate()
    learners = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    measured = {}
    for num_tokens in sizes:
        group = make_group(num_tokens)
        batches = build_train_batches(
            [group],
            [np.where(np.arange(len(group.rollouts)) % 2, 1.0, -1.0)],
            num_learners=num_learners,
            minibatch_prompts=1,
            max_tokens_per_microbatch=config.max_tokens_per_microbatch,
            layout=LAYOUTS[config.layout],
        )
        seconds, peaks = [], []
        for _ in range(repeats + 1):
            learners.on_all(lambda learner: reset_peak())
            seconds.append(seconds_of(partial(learners.update, batches=batches)))
            peaks.append(max(learners.on_all(lambda learner: peak_bytes())))
        measured[num_tokens] = statistics.median(seconds[1:]), max(peaks[1:])
    learners.shutdown()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    start_ray("local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=VOCAB,
                hidden_size=128,
                intermediate_size=384,
                num_hidden_layers=6,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=LONGEST,
                tie_word_embeddings=True,
            )
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
        config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=folder)
        config.training(num_epochs=1, kl_coef=0.0, layout="packed", max_tokens_per_microbatch=2048, aggregation="token")
        results = {n: measure(config, n, args.tokens, args.repeats) for n in (1, 2)}
    ray.shutdown()

    print(f"{model.num_parameters() / 1e6:.1f}M parameters, micro-batches of 2048 tokens, 1 thread per learner")
    print(f"{'learners':>8} {'tokens':>7} {'s/update':>9} {'tokens/s':>9} {'time / smallest':>16} {'peak MB':>8}")
    for num_learners, measured in results.items():
        smallest = measured[args.tokens[0]][0]
        for num_tokens, (seconds, peak) in measured.items():
            print(
                f"{num_learners:>8} {num_tokens:>7} {seconds:>9.2f} {num_tokens / seconds:>9.0f}"
                f" {seconds / smallest:>16.2f} {peak / 1e6:>8.0f}"
            )


if __name__ == "__main__":
    main()
