"""Quickstart: a 0.6M-parameter language model learns to carry, with ASPO, on two CPU cores and in a few minutes.

The bundled model was pretrained on sums that mostly forget the carry. It samples the right answer rarely, and training
with a verifiable reward makes it frequent. The run uses vLLM for sampling, an RLlib learner, and TensorBoard and CSV
files through Tune.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import aspo_rllib
from aspo_rllib.recipe import run, run_options

if TYPE_CHECKING:
    from ray import tune

parser = run_options(__doc__, name="arithmetic_{loss}_seed{seed}", iterations=60)
parser.add_argument("--loss", default="aspo", help="a name in aspo_rllib.LOSSES")
parser.add_argument("--as-test", action="store_true", help="fail unless accuracy goes from <= 0.40 to >= 0.75")


def make_config(loss: str, seed: int, iterations: int) -> aspo_rllib.ASPOConfig:
    return (
        aspo_rllib.ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"operation": "+", "digits": 3, "split": "train"})
        .llm(model=aspo_rllib.TINY_MODEL, max_prompt_tokens=32)
        .sampling(group_size=16, temperature=1.0, max_completion_tokens=8)
        .training(loss=loss, batch_prompts=32, minibatch_prompts=8, num_epochs=2, lr=1e-4, warmup_steps=8)
        .evaluation(
            evaluation_interval=math.gcd(10, iterations),  # so that the last iteration is evaluated
            evaluation_duration=128,
            evaluation_config={"env_config": {"split": "test"}},
        )
        .fault_tolerance(restart_failed_env_runners=False)  # there is only one; its error ends the trial at once
        .debugging(seed=seed)
    )


def main(args: argparse.Namespace) -> None:
    import ray

    from aspo_rllib.run.cluster import connect

    args.name = args.name.format_map(vars(args))
    connect(include_dashboard=False, runtime_env={"env_vars": {"TORCH_CPP_LOG_LEVEL": "ERROR"}})
    result = run(make_config(args.loss, args.seed, args.iterations), args)
    ray.shutdown()
    if result:
        show(result, args)


def show(result: tune.Result, args: argparse.Namespace) -> None:
    import gymnasium as gym

    from aspo_rllib.run.progress import greedy_completions, plot_curves

    progress = result.metrics_dataframe
    minutes = result.metrics["time_total_s"] / 60  # since the first start, if it was resumed
    before, after = progress["evaluation_at_start/accuracy"].iloc[0], progress["evaluation/accuracy"].iloc[-1]
    plot = Path(args.storage_path) / f"{args.name}.png"
    config = result.config
    plot_curves(progress, plot, f"{config['loss']} on three-digit addition, seed {config['seed']}")

    model = str(Path(result.checkpoint.path) / "learner_group" / "hf")
    env = gym.make("envs:aspo/Arithmetic-v0", operation="+", digits=3, split="test")
    tasks = [3, 4, 5]
    answers = [
        greedy_completions(folder, env, tasks, max_completion_tokens=8) for folder in (aspo_rllib.TINY_MODEL, model)
    ]
    for index, untrained, trained in zip(tasks, *answers, strict=True):
        print(f"  {env.reset(options={'index': index})[0]:<10} before: {untrained:<6} after: {trained}")
    print(f"curves      {plot}\nmodel       {model}\ntensorboard --logdir {Path(result.path).parent}")
    print(
        f"quickstart: accuracy {before:.2f} -> {after:.2f} (avg@16, 128 held-out prompts) in {minutes:.1f} min",
        flush=True,
    )
    if args.as_test and not (before <= 0.40 and after >= 0.75):
        raise SystemExit("quickstart: expected accuracy to go from at most 0.40 to at least 0.75")


if __name__ == "__main__":
    main(parser.parse_args())
