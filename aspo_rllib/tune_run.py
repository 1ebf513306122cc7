"""A training run under Ray Tune. `recipe.run` calls this module, whose imports are slow."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import tune
from ray.rllib.utils import force_list

from aspo_rllib.aspo import ASPOConfig
from aspo_rllib.doctor import preflight, resources
from aspo_rllib.doctor.dry_run import GIB, describe_run
from aspo_rllib.run import preemption
from aspo_rllib.run.base_algorithm import HELD_OUT_ACCURACY
from aspo_rllib.run.histograms import HistogramsCallback
from aspo_rllib.run.profiling import ProfileCallback
from aspo_rllib.run.progress import ProgressCallback
from aspo_rllib.run.progress_csv import ProgressCSVCallback
from aspo_rllib.run.start_ray import start_ray


def run(
    config: ASPOConfig,
    args: argparse.Namespace,
    *,
    checkpoint_config: tune.CheckpointConfig | None = None,
    failure_config: tune.FailureConfig | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.Result | None:
    """See `recipe.run`."""
    config = config.copy(copy_frozen=False)
    if args.engine:
        config.llm(engine=args.engine)
    more = [HistogramsCallback, ProfileCallback] if args.profile else [HistogramsCallback]
    config.callbacks([*force_list(config.callbacks_class), *more])
    bundles = resources.asked_bundles(config)
    if args.dry_run:
        print(describe_run(config, int(args.gpu_memory_gib * GIB)), flush=True)
    checkpoint_config = checkpoint_config or tune.CheckpointConfig(
        num_to_keep=3,
        checkpoint_score_attribute=HELD_OUT_ACCURACY,
        checkpoint_frequency=config.evaluation_interval or 0,
        checkpoint_at_end=True,
    )
    if not args.dry_run:
        _check_storage(config, args, checkpoint_config)
    if not ray.is_initialized():
        start_ray(logging_level=logging.ERROR, logging_config=ray.LoggingConfig(log_level="ERROR"))
    try:
        resources.require_resources(bundles, args.wait_for_nodes_s)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    if args.dry_run:
        print("           the cluster has these resources")
        return None
    failure_config = failure_config or tune.FailureConfig(max_failures=3)
    tuner = _tuner(config, args, checkpoint_config, failure_config, callbacks)
    with preemption.stoppable(args.grace_s) as stop:
        result = tuner.fit()[0]
    preemption.exit_if_stopped(stop, [result])
    if result.error:
        raise SystemExit(f"The run failed; see {result.path}")
    print(f"results     {result.path}", flush=True)
    if result.checkpoint is not None:
        print(f"checkpoint  {result.checkpoint.path}", flush=True)
    return result


def storage_path(text: str) -> str:
    """Make a folder's path absolute, because workers have another working directory. URIs stay unchanged."""
    return text if "://" in text else str(Path(text).expanduser().resolve())


def _check_storage(config: ASPOConfig, args: argparse.Namespace, checkpoint_config: tune.CheckpointConfig) -> None:
    if "://" in args.storage_path:
        return
    kept_at_once = (checkpoint_config.num_to_keep or 1) + 1  # an old one is deleted after the new one is complete
    try:
        preflight.check_output(args.storage_path, kept_at_once * preflight.checkpoint_bytes(config))
    except ValueError as error:
        raise SystemExit(str(error)) from None


def _tuner(
    config: ASPOConfig,
    args: argparse.Namespace,
    checkpoint_config: tune.CheckpointConfig,
    failure_config: tune.FailureConfig,
    callbacks: Sequence[tune.Callback],
) -> tune.Tuner:
    storage = storage_path(args.storage_path)
    trainable = config.algo_class.__name__
    path = f"{storage}/{args.name}"
    if tune.Tuner.can_restore(path):
        if not args.resume:
            raise SystemExit(f"There is a run at {path} already: use --resume to continue it, or another --name.")
        print(f"resuming    {path}", flush=True)
        return tune.Tuner.restore(path, trainable, param_space=config, resume_errored=True)  # type: ignore[arg-type]
    print(f"starting    {path}", flush=True)
    return tune.Tuner(
        trainable,
        param_space=config,  # type: ignore[arg-type]
        run_config=tune.RunConfig(
            name=args.name,
            storage_path=storage,
            stop={"training_iteration": args.iterations},
            callbacks=[
                ProgressCallback(args.iterations),
                ProgressCSVCallback(),  # type: ignore[no-untyped-call]
                preemption.StopCallback(),
                *callbacks,
            ],
            checkpoint_config=checkpoint_config,
            failure_config=failure_config,
            verbose=0,
        ),
    )
