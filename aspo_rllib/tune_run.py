"""A training run under Ray Tune. `recipe.run` calls this module, whose imports are slow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ray import tune
from ray.rllib.utils import force_list
from ray.tune.experiment import Trial

from aspo_rllib.aspo import ASPOConfig
from aspo_rllib.config.assign import assign
from aspo_rllib.doctor import preflight, resources
from aspo_rllib.doctor.dry_run import GIB, describe_run
from aspo_rllib.rollout.errors import reason
from aspo_rllib.run import preemption
from aspo_rllib.run.base_algorithm import HELD_OUT_ACCURACY
from aspo_rllib.run.cluster import connect
from aspo_rllib.run.histograms import HistogramsCallback
from aspo_rllib.run.profiling import ProfileCallback
from aspo_rllib.run.progress import ProgressCallback
from aspo_rllib.run.resuming import StoredRun


def run(
    config: ASPOConfig,
    args: argparse.Namespace,
    *,
    checkpoint_config: tune.CheckpointConfig | None = None,
    failure_config: tune.FailureConfig | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.Result | None:
    """See `recipe.run`."""
    config = _adjusted(config, args)
    checkpoint_config = checkpoint_config or tune.CheckpointConfig(
        num_to_keep=3,
        checkpoint_score_attribute=HELD_OUT_ACCURACY,
        checkpoint_frequency=config.evaluation_interval or 0,
        checkpoint_at_end=True,
    )
    stored = None
    if not args.dry_run:
        stored = _stored_run(config, args)
        _check_storage(config, args, checkpoint_config)
    connect()
    if not args.wait_for_nodes_s and (line := resources.fit_cpus(config, resources.cluster_nodes())):
        print(line, flush=True)
    if args.dry_run:
        print(describe_run(config, int(args.gpu_memory_gib * GIB)), flush=True)
    try:
        resources.require_resources(resources.asked_bundles(config), args.wait_for_nodes_s)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    if args.dry_run:
        print("           the cluster has these resources")
        return None
    run_config = _run_config(args, checkpoint_config, failure_config, callbacks)
    print(f"{'resuming' if stored else 'starting':<11} {run_path(args)}", flush=True)
    if stored:
        tuner = stored.tuner(args.iterations, run_config, config.to_dict())
    else:
        tuner = tune.Tuner(
            config.algo_class.__name__,
            param_space=config,  # type: ignore[arg-type]
            run_config=run_config,
            tune_config=tune.TuneConfig(trial_name_creator=trial_name, trial_dirname_creator=trial_name),
        )
    with preemption.stoppable(args.grace_s) as stop:
        result = tuner.fit()[0]
    preemption.exit_if_stopped(stop, [result])
    if result.error:
        raise SystemExit(f"The run failed; see {result.path}\n{reason(result.error)}")
    print(f"results     {result.path}", flush=True)
    if result.checkpoint is not None:
        print(f"checkpoint  {result.checkpoint.path}", flush=True)
    return result


def _adjusted(config: ASPOConfig, args: argparse.Namespace) -> ASPOConfig:
    """A copy of the script's config with the settings of the command line. Raises ValueError if it is not valid."""
    config = config.copy(copy_frozen=False)
    if args.engine:
        config.llm(engine=args.engine)
    more = [HistogramsCallback, ProfileCallback] if args.profile else [HistogramsCallback]
    config.callbacks([*force_list(config.callbacks_class), *more])
    try:
        assign(config, args.set if args.lr is None else [*args.set, f"lr={args.lr!r}"])
    except ValueError as error:
        raise SystemExit(f"--set {error}") from None
    resources.asked_bundles(config)  # raises for a config that is not valid
    return config


def _run_config(
    args: argparse.Namespace,
    checkpoint_config: tune.CheckpointConfig,
    failure_config: tune.FailureConfig | None,
    callbacks: Sequence[tune.Callback],
) -> tune.RunConfig:
    return tune.RunConfig(
        name=args.name,
        storage_path=storage_path(args.storage_path),
        stop={"training_iteration": args.iterations},
        callbacks=[
            ProgressCallback(args.iterations),
            preemption.StopCallback(),
            *callbacks,
        ],
        checkpoint_config=checkpoint_config,
        failure_config=failure_config or tune.FailureConfig(max_failures=3),
        verbose=0,
    )


def storage_path(text: str) -> str:
    """Make a folder's path absolute, because workers have another working directory. URIs stay unchanged."""
    return text if "://" in text else str(Path(text).expanduser().resolve())


def trial_name(trial: Trial) -> str:
    """The method and the seed of a trial: `aspo_seed0`."""
    loss = trial.config["loss"]
    seed = "" if trial.config["seed"] is None else f"_seed{trial.config['seed']}"
    return f"{loss if isinstance(loss, str) else getattr(loss, '__name__', 'loss')}{seed}"


def run_path(args: argparse.Namespace) -> str:
    """Folder or URI of the run that the options name."""
    return f"{storage_path(args.storage_path)}/{args.name}"


def _stored_run(config: ASPOConfig, args: argparse.Namespace) -> StoredRun | None:
    """The run that `--resume` continues; None if there is none. Raises SystemExit if it must not be continued."""
    path = run_path(args)
    if not tune.Tuner.can_restore(path):
        return None
    if not args.resume:
        raise SystemExit(f"There is a run at {path} already: use --resume to continue it, or another --name.")
    stored = StoredRun.read(path)
    try:
        if stored:
            stored.check(config.to_dict())
    except ValueError as error:
        raise SystemExit(f"--resume: {error}") from None
    return stored


def _check_storage(config: ASPOConfig, args: argparse.Namespace, checkpoint_config: tune.CheckpointConfig) -> None:
    if "://" in args.storage_path:
        return
    kept_at_once = (checkpoint_config.num_to_keep or 1) + 1  # an old one is deleted after the new one is complete
    try:
        preflight.check_output(args.storage_path, kept_at_once * preflight.checkpoint_bytes(config))
    except ValueError as error:
        raise SystemExit(str(error)) from None
