"""Is ASPO better than GRPO here? Losses x paired seeds in one Tuner, and a report that says what they show.

    python tuned_examples/aspo_vs_grpo.py                      # 5 methods x 5 seeds on the bundled model
    python tuned_examples/aspo_vs_grpo.py --smoke              # 2 x 2, a few iterations: does it run?
    python tuned_examples/aspo_vs_grpo.py --lr 2e-5 5e-5 1e-4  # each method at each of these
    python tuned_examples/aspo_vs_grpo.py --scheduler asha     # stop trials that fall behind
    python tuned_examples/aspo_vs_grpo.py --scheduler pbt --methods aspo  # learning rates that change on the way

Trials of one seed ask the same prompts in the same order from the same initial weights. 32 small optimizer steps per
batch, and rollouts that are up to two batches old, make the importance ratios move: with few steps over fresh rollouts
all of these methods are nearly the same.
"""

import argparse
import math
import os
from itertools import product
from pathlib import Path

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables would come between our lines

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator

from aspo_rllib import TINY_MODEL, ASPOConfig, preemption
from aspo_rllib.progress import ProgressCallback
from aspo_rllib.progress_csv import ProgressCSVCallback
from aspo_rllib.report import write_report

ENTROPY_CLIPS = {"clip_low_high_entropy": 0.4, "clip_high_high_entropy": 0.4}
METHODS = {
    "aspo": {"loss": "aspo"} | ENTROPY_CLIPS,
    "grpo": {"loss": "grpo"},
    "grpo-clips": {"loss": "grpo"} | ENTROPY_CLIPS,  # the fair control: what the clips alone do
    "no_is": {"loss": "no_is"},
    "dapo": {"loss": "dapo"},  # its loss alone; its dynamic sampling would draw other prompts
}
FIELDS = ("loss", *ENTROPY_CLIPS, "lr", "seed")
SECONDS_PER_ITERATION = 4.0  # measured on two CPU cores, with start and evaluations

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
parser.add_argument("--lr", nargs="+", type=float, default=[5e-5], help="learning rates, each with every method")
parser.add_argument("--iterations", type=int, default=40)
parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm", help="what generates")
parser.add_argument("--results", type=Path, default=Path("results"))
parser.add_argument("--name", default="aspo_vs_grpo", help="the experiment's folder in --results")
parser.add_argument("--scheduler", choices=["none", "asha", "pbt"], default="none")
parser.add_argument("--resume", action="store_true", help="go on with an interrupted experiment of this name")
parser.add_argument("--grace-s", type=float, default=120.0, help="what SIGTERM leaves for iterations and checkpoints")
parser.add_argument("--smoke", action="store_true", help="2 methods, 2 seeds, 2 iterations")


def make_config(iterations: int, engine: str) -> ASPOConfig:
    return (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"operation": "+", "digits": 3, "split": "train"})
        .llm(model=TINY_MODEL, max_prompt_tokens=32, engine=engine)
        .sampling(group_size=16, max_completion_tokens=8)
        .training(batch_prompts=32, minibatch_prompts=2, num_epochs=2, warmup_steps=32, kl_coef=0.0)
        .training(max_staleness=2, old_logprobs="sampler")  # the ratio holds what changed since sampling
        .evaluation(
            evaluation_interval=math.gcd(10, iterations),
            evaluation_duration=128,
            evaluation_config={"env_config": {"split": "test"}},
        )
    )


def schedulers(iterations: int) -> dict:
    goal = {"metric": "evaluation/accuracy", "mode": "max"}
    return {
        "none": None,
        "asha": ASHAScheduler(**goal, max_t=iterations, grace_period=max(1, iterations // 4)),
        "pbt": PopulationBasedTraining(
            **goal,
            perturbation_interval=max(1, iterations // 4),
            hyperparam_mutations={"lr": tune.loguniform(1e-5, 2e-4)},
        ),
    }


def make_tuner(args: argparse.Namespace) -> tune.Tuner:
    if args.resume:
        return tune.Tuner.restore(str((args.results / args.name).resolve()), "ASPO", resume_errored=True)
    methods, seeds = (args.methods[:2], 2) if args.smoke else (args.methods, args.seeds)
    if args.scheduler == "pbt" and len(methods) > 1:
        raise SystemExit(
            "--scheduler pbt gives bad trials a good one's whole config, method and all: name one, --methods."
        )
    defaults = dict.fromkeys(FIELDS)
    trials = [
        defaults | METHODS[method] | {"lr": lr, "seed": seed}
        for seed, method, lr in product(range(seeds), methods, args.lr)
    ]
    param_space = make_config(args.iterations, args.engine).to_dict()
    param_space |= {name: tune.choice(list({trial[name]: None for trial in trials})) for name in FIELDS}
    cpus = 2  # a driver with the learner in it, and a runner
    at_once = max(1, int(ray.cluster_resources()["CPU"] // cpus))
    minutes = len(trials) * args.iterations * SECONDS_PER_ITERATION / at_once / 60
    print(
        f"{len(methods)} methods x {len(args.lr)} learning rate(s) x {seeds} seeds = {len(trials)} trials of "
        f"{args.iterations} iterations, {cpus} CPUs each, {at_once} at once: about {minutes:.0f} min"
    )
    return tune.Tuner(
        "ASPO",
        param_space=param_space,
        tune_config=tune.TuneConfig(
            # These very points and no others: a grid over each field would cross what belongs together.
            search_alg=BasicVariantGenerator(points_to_evaluate=trials),
            num_samples=len(trials),
            scheduler=schedulers(args.iterations)[args.scheduler],
        ),
        run_config=tune.RunConfig(
            name=args.name,
            storage_path=args.results.resolve(),
            stop={"training_iteration": args.iterations},
            callbacks=[ProgressCallback(args.iterations), ProgressCSVCallback(), preemption.StopCallback()],
            # A trial that PBT has told to go on from another's checkpoint may get its turn much later.
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_at_end=True, num_to_keep=None if args.scheduler == "pbt" else 1
            ),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def main(args: argparse.Namespace) -> None:
    if args.smoke:
        args.iterations = 2
    ray.init(include_dashboard=False, logging_level="ERROR", logging_config=ray.LoggingConfig(log_level="ERROR"))
    tuner = make_tuner(args)
    with preemption.stoppable(args.grace_s) as stop:
        results = tuner.fit()
    ray.shutdown()
    preemption.exit_if_stopped(stop, results)
    print(f"report      {write_report(args.results / args.name)}")
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trial(s) failed; the report lists them")


if __name__ == "__main__":
    main(parser.parse_args())
