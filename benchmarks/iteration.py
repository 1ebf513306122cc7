"""The time of an iteration compared with its parts: a bare vLLM `generate` and a bare update by the learner.

    python benchmarks/iteration.py                  # 64 prompts x 16 on the bundled model
    python benchmarks/iteration.py --prompts 8      # a small run

One runner and one learner run in separate processes. Each round has a whole iteration, and then, with the same engine
and learner, the update on the same batch, the runner's sampling of it with grading, and `LLM.generate` with the same
number of completions. After these rounds come iterations of a run with overlapped sampling (max_staleness=1). All of
them use the engine's own random stream, as bare `generate` does (seed_completions=False). The cost of seeds has a
separate row.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from timing import seconds_of, take_turns, timed

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.run.start_ray import start_ray
from aspo_rllib.types import Rollout, RolloutGroup


def make_config(prompts: int, tokens: int, max_staleness: int) -> ASPOConfig:
    return (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
        .llm(model=TINY_MODEL, max_prompt_tokens=32)
        .sampling(group_size=16, max_completion_tokens=tokens, seed_completions=False)
        .training(batch_prompts=prompts, minibatch_prompts=max(1, prompts // 4), num_epochs=1, lr=1e-7, kl_coef=0.0)
        .training(max_staleness=max_staleness, drop_uniform_groups=False)
        .learners(num_learners=1)
        .debugging(seed=0)
    )


def never_stop(runner) -> None:
    """Give all completions the maximal length, so that every repeat has the same work."""
    runner.stop_token_ids.clear()


def bare_generate(prompts: list[list[int]], group_size: int, max_tokens: int, runner) -> float:
    """Seconds of vLLM alone for these prompts, called in the way that its documentation shows."""
    from vllm import SamplingParams

    params = SamplingParams(
        n=group_size, temperature=1.0, max_tokens=max_tokens, logprobs=0, flat_logprobs=True, detokenize=False,
        ignore_eos=True,
    )  # fmt: skip
    inputs = [{"prompt_token_ids": p} for p in prompts]
    seconds, outputs = timed(lambda: runner.engine._llm.generate(inputs, params, use_tqdm=False))
    assert sum(len(o.token_ids) for out in outputs for o in out.outputs) == len(prompts) * group_size * max_tokens
    return seconds


def sample_seconds(tasks: list[tuple[int, int]], config: ASPOConfig, runner) -> float:
    return seconds_of(lambda: runner.sample(tasks=tasks, config=config))


def on_runner(algo: Algorithm, func):
    return algo.env_runner_group.foreach_env_runner(func, local_env_runner=False)[0]


def one_round(algo: Algorithm, round_number: int) -> dict[str, float]:
    """Seconds of an iteration, of the runner's sampling, and of the bare parts."""
    config = algo.config
    seconds = {"iteration": seconds_of(algo.train)}
    groups = algo.latest_groups
    batches = build_train_batches(
        groups,
        list(algo.latest_advantages.values()),
        num_learners=1,
        minibatch_prompts=config.minibatch_prompts,
        max_tokens_per_microbatch=config.max_tokens_per_microbatch,
        layout=LAYOUTS[algo.layout],
    )
    seconds["learn"] = seconds_of(lambda: algo.learner_group.update(batches=batches))
    prompts = [g.rollouts[0].prompt_ids.tolist() for g in groups]
    size, tokens = config.group_size, config.max_completion_tokens
    tasks = [(10**6 * (round_number + 1) + g.position, g.index) for g in groups]  # seeds other than training's
    seeded = config.copy(copy_frozen=False).sampling(seed_completions=True)
    ways = deque(
        {
            "runner": partial(sample_seconds, tasks, config),
            "runner, seeded": partial(sample_seconds, tasks, seeded),
            "generate": partial(bare_generate, prompts, size, tokens),
        }.items()
    )
    ways.rotate(round_number)  # the first one is measured on a process that was idle
    for name, way in ways:
        seconds[name] = on_runner(algo, way)
        on_runner(algo, lambda runner: runner.engine._forget_prefixes())
    return seconds


def driver_seconds(repeats: int) -> dict[str, float]:
    """Median seconds in which the driver gets 512 rollouts of 1,000 tokens, builds batches and metrics, and sends.

    "moved" are those in which it only gets them, and sends them on in two halves.
    """
    from aspo_rllib.learner.advantages import grpo
    from aspo_rllib.rollout.stats import rollout_metrics, staleness_metrics

    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 100, 100).astype(np.int32)
    text = " ".join(map(str, rng.integers(0, 10**6, 300)))
    groups = []
    for position in range(32):
        rollouts = tuple(
            Rollout(
                prompt, rng.integers(0, 100, 1000).astype(np.int32), -rng.random(1000).astype(np.float32), "stop", text,
                float(g % 2), bool(g % 2), 0,
            )
            for g in range(16)
        )  # fmt: skip
        groups.append(RolloutGroup(position, position, "", rollouts))

    ref = ray.put(groups)

    def work() -> None:
        groups = ray.get(ref)
        advantages = [grpo(np.array([r.reward for r in g.rollouts])) for g in groups]
        batches = build_train_batches(
            groups, advantages, num_learners=2, minibatch_prompts=8, max_tokens_per_microbatch=16384,
            layout=LAYOUTS["packed"],
        )  # fmt: skip
        rollout_metrics(groups), staleness_metrics(groups, 0)
        [ray.put(batch) for batch in batches]

    def move() -> None:
        groups = ray.get(ref)
        [ray.put(half) for half in (groups[::2], groups[1::2])]

    ways = {"driver": partial(seconds_of, work), "moved": partial(seconds_of, move)}
    return {name: statistics.median(seconds) for name, seconds in take_turns(ways, repeats).items()}


def median_round(
    config: ASPOConfig, one_round: Callable[[Algorithm, int], dict[str, float]], repeats: int
) -> dict[str, float]:
    """Medians of what `one_round(algo, its number)` returns, after a warm-up."""
    algo = config.build_algo()
    on_runner(algo, never_stop)
    algo.train()
    rounds = [one_round(algo, n) for n in range(repeats)]
    algo.stop()
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def report(
    args: argparse.Namespace, alone: dict[str, float], overlapped: dict[str, float], driver: dict[str, float]
) -> dict[str, float]:
    """Print the table; returns its ratios."""
    total = args.prompts * 16 * args.tokens
    print(f"{args.prompts} prompts x 16 completions of {args.tokens} tokens = {total:,} tokens, {args.repeats} rounds")
    print(f"{'way':<48} {'seconds':>8} {'ratio':>6}")
    ratios = {}
    for name, seconds, bare in (
        ("vLLM generate, bare", alone["generate"], alone["generate"]),
        ("runner, graded, over generate", alone["runner"], alone["generate"]),
        ("runner, each completion seeded, over generate", alone["runner, seeded"], alone["generate"]),
        ("learner's update, bare", alone["learn"], alone["learn"]),
        ("iteration, over generate + update", alone["iteration"], alone["generate"] + alone["learn"]),
        (
            "iteration overlapped, over the longer",
            overlapped["iteration"],
            max(alone["generate"], alone["learn"]),
        ),
        ("driver, over receiving and sending alone", driver["driver"], driver["moved"]),
    ):
        ratios[name] = seconds / bare
        print(f"{name:<48} {seconds:>8.3f} {ratios[name]:>6.2f}")
    return ratios


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of each completion")
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    start_ray("local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    alone = median_round(make_config(args.prompts, args.tokens, max_staleness=0), one_round, args.repeats)
    # No other work may run between two iterations, because the runner would sample further ahead in that time.
    overlapped = median_round(
        make_config(args.prompts, args.tokens, max_staleness=1),
        lambda algo, n: {"iteration": seconds_of(algo.train)},
        args.repeats,
    )
    ratios = report(args, alone, overlapped, driver_seconds(9))
    ray.shutdown()
    return ratios


if __name__ == "__main__":
    main()
