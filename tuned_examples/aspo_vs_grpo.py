"""Compare ASPO with GRPO: several losses x paired seeds in one Tuner, and a report with statistics.

    python tuned_examples/aspo_vs_grpo.py                      # 5 methods x 5 seeds on the bundled model
    python tuned_examples/aspo_vs_grpo.py --smoke              # 2 x 2, a few iterations, as a test
    python tuned_examples/aspo_vs_grpo.py --methods all --smoke --seeds 1  # every loss of the package, as a test
    python tuned_examples/aspo_vs_grpo.py --lr 2e-5 5e-5 1e-4  # each method with each of these
    python tuned_examples/aspo_vs_grpo.py --set max_staleness=0 --set num_epochs=4  # other settings for all methods
    python tuned_examples/aspo_vs_grpo.py --scheduler asha     # stop trials that fall behind
    python tuned_examples/aspo_vs_grpo.py --scheduler pbt --methods aspo  # learning rates that change during training

Trials with the same seed use the same prompts in the same order and the same initial weights. Each batch gets 32 small
optimizer steps, and rollouts are up to two batches old, so that the importance ratios differ from 1. With few steps
over fresh rollouts, all of these methods are nearly equal.
"""

from __future__ import annotations

import argparse
import math
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import aspo_rllib
from aspo_rllib.report import write_report

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.experiment import Trial

    from aspo_rllib.run.resuming import StoredRun


ENTROPY_CLIPS = {"clip_low_high_entropy": 0.4, "clip_high_high_entropy": 0.4}
METHODS = {
    "aspo": {"loss": "aspo"} | ENTROPY_CLIPS,
    "grpo": {"loss": "grpo"},
    "grpo-clips": {"loss": "grpo"} | ENTROPY_CLIPS,  # the fair control: the effect of the clips alone
    "no_is": {"loss": "no_is"},
    "dapo": {"loss": "dapo"},  # only its loss; its dynamic sampling would draw other prompts
}
VARIANTS = {  # chosen by name only
    "no_is-clips": {"loss": "no_is"} | ENTROPY_CLIPS,
    "aspo-uncapped": {"loss": "aspo", "weight_cap": 1e6} | ENTROPY_CLIPS,
}
METHOD_FIELDS = ("loss", *ENTROPY_CLIPS, "weight_cap")
FIELDS = (*METHOD_FIELDS, "lr", "seed")
SECONDS_PER_ITERATION = 4.0  # measured on two CPU cores, including start and evaluations

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--methods",
    nargs="+",
    help=f"these, {', '.join(VARIANTS)}, a name in aspo_rllib.LOSSES, or all; default: {', '.join(METHODS)}",
)
parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
parser.add_argument("--lr", nargs="+", type=float, default=[5e-5], help="learning rates, each with every method")
parser.add_argument("--iterations", type=int, default=40)
parser.add_argument(
    "--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of every trial (docs/config.md)"
)
parser.add_argument("--cpus", type=int, help="CPUs that Ray counts with, two per trial; default: those of the machine")
parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm", help="engine that generates")
parser.add_argument("--results", type=Path, default=Path("results"))
parser.add_argument("--name", default="aspo_vs_grpo", help="the experiment's folder in --results")
parser.add_argument("--scheduler", choices=["none", "asha", "pbt"], default="none")
parser.add_argument("--resume", action="store_true", help="continue this experiment, also with more --iterations")
parser.add_argument("--grace-s", type=float, default=120.0, help="seconds after SIGTERM for iterations and checkpoints")
parser.add_argument("--smoke", action="store_true", help="2 methods unless named, at most 2 seeds, 2 iterations")


def make_config(iterations: int, engine: str, settings: list[str]) -> aspo_rllib.ASPOConfig:
    """The config that all trials share. settings: texts `field=value` in place of the ones here."""
    from aspo_rllib.config.assign import assign

    config = (
        aspo_rllib.ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"operation": "+", "digits": 3, "split": "train"})
        .llm(model=aspo_rllib.TINY_MODEL, max_prompt_tokens=32, engine=engine)
        .sampling(group_size=16, max_completion_tokens=8)
        .training(batch_prompts=32, minibatch_prompts=2, num_epochs=2, warmup_steps=32, kl_coef=0.0)
        .training(max_staleness=2, old_logprobs="sampler")  # the ratio is relative to the weights that sampled
        .evaluation(
            evaluation_interval=math.gcd(10, iterations),
            evaluation_duration=128,
            evaluation_config={"env_config": {"split": "test"}},
        )
        .callbacks(aspo_rllib.HistogramsCallback)
    )
    try:
        assign(config, settings)
    except ValueError as error:
        raise SystemExit(f"--set {error}") from None
    return config


def schedulers(iterations: int) -> dict:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

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


def chosen_methods(args: argparse.Namespace) -> dict[str, dict]:
    """The settings of each chosen method by its name."""
    known = {name: {"loss": name} for name in aspo_rllib.LOSSES} | METHODS | VARIANTS
    names = args.methods or list(METHODS)[: 2 if args.smoke else None]
    if unknown := set(names) - known.keys() - {"all"}:
        raise SystemExit(f"--methods {min(unknown)}: expected all, or some of {', '.join(known)}")
    return known if "all" in names else {name: known[name] for name in names}


def planned_trials(args: argparse.Namespace) -> list[dict]:
    """The values of FIELDS of each trial. Trials with the same seed stand together."""
    methods = chosen_methods(args)
    if varied := {text.partition("=")[0] for text in args.set} & set(FIELDS):
        raise SystemExit(f"--set {min(varied)}: it differs between the trials; use --methods, --lr or --seeds.")
    if args.scheduler == "pbt" and len(methods) > 1:
        raise SystemExit(
            "--scheduler pbt copies a good trial's whole config to a bad one, with its method: choose one in --methods."
        )
    defaults = dict.fromkeys(FIELDS)
    return [
        defaults | methods[method] | {"lr": lr, "seed": seed}
        for seed, method, lr in product(range(args.seeds), methods, args.lr)
    ]


def trial_name(trial: Trial) -> str:
    """The method, the seed and the learning rate of a trial."""
    config = trial.config
    settings = {name: config[name] for name in METHOD_FIELDS if config[name] is not None}
    method = next((name for name, fields in (METHODS | VARIANTS).items() if fields == settings), config["loss"])
    return f"{method}_seed{config['seed']}_lr{config['lr']:g}"


def make_run_config(args: argparse.Namespace) -> tune.RunConfig:
    from ray import tune

    from aspo_rllib.run import preemption
    from aspo_rllib.run.progress import ProgressCallback

    return tune.RunConfig(
        name=args.name,
        storage_path=args.results.resolve(),
        stop={"training_iteration": args.iterations},
        callbacks=[ProgressCallback(args.iterations), preemption.StopCallback()],
        # A trial that PBT continues from another trial's checkpoint may be started much later.
        checkpoint_config=tune.CheckpointConfig(
            checkpoint_at_end=True, num_to_keep=None if args.scheduler == "pbt" else 1
        ),
        failure_config=tune.FailureConfig(max_failures=1),
        verbose=0,
    )


def begun(args: argparse.Namespace, num_trials: int) -> StoredRun | None:
    """The experiment that --resume continues. Raises SystemExit if it was begun with other options."""
    from aspo_rllib.run.begun import check_begun
    from aspo_rllib.run.resuming import StoredRun

    folder = (args.results / args.name).resolve()
    stored = StoredRun.read(str(folder)) if args.resume else None
    may_change = {"resume", "grace_s", "results", "cpus"}
    # Tune creates trials when there is room for them, those that are still missing with the first number of iterations.
    if stored and len(stored.trials) == num_trials and args.scheduler == "none":
        may_change.add("iterations")
    try:
        check_begun(folder, {name: value for name, value in vars(args).items() if name not in may_change})
    except ValueError as error:
        raise SystemExit(str(error)) from None
    return stored


def make_tuner(args: argparse.Namespace) -> tune.Tuner:
    import ray
    from ray import tune
    from ray.tune.search import BasicVariantGenerator

    trials = planned_trials(args)
    if stored := begun(args, len(trials)):
        return stored.tuner(args.iterations, make_run_config(args))
    param_space = make_config(args.iterations, args.engine, args.set).to_dict()
    param_space |= {name: tune.choice(list({trial[name]: None for trial in trials})) for name in FIELDS}
    cpus = 2  # one for the driver, which contains the learner, and one for the runner
    at_once = max(1, int(ray.cluster_resources()["CPU"] // cpus))
    minutes = len(trials) * args.iterations * SECONDS_PER_ITERATION / at_once / 60
    print(
        f"{len(chosen_methods(args))} methods x {len(args.lr)} learning rate(s) x {args.seeds} seeds = {len(trials)} "
        f"trials of {args.iterations} iterations, {cpus} CPUs each, {at_once} at once: about {minutes:.0f} min"
    )
    return tune.Tuner(
        "ASPO",
        param_space=param_space,
        tune_config=tune.TuneConfig(
            # A list of exactly these trials. A grid over each field would also combine fields of different methods.
            search_alg=BasicVariantGenerator(points_to_evaluate=trials),
            num_samples=len(trials),
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
            scheduler=schedulers(args.iterations)[args.scheduler],
        ),
        run_config=make_run_config(args),
    )


def main(args: argparse.Namespace) -> None:
    import ray

    from aspo_rllib.run import preemption
    from aspo_rllib.run.cluster import connect

    if args.smoke:
        args.iterations, args.seeds = 2, min(args.seeds, 2)
    connect(include_dashboard=False, **({"num_cpus": args.cpus} if args.cpus else {}))
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
