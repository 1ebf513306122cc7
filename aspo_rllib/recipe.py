"""What the training scripts of `tuned_examples` share: their options, and the run under Ray Tune."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables would come between our lines

import ray
from ray import tune
from ray.rllib.utils import force_list

from aspo_rllib import preemption, preflight, resources
from aspo_rllib.base_algorithm import HELD_OUT_ACCURACY
from aspo_rllib.config import ASPOConfig
from aspo_rllib.dry_run import GIB, describe_run
from aspo_rllib.profiling import ProfileCallback
from aspo_rllib.progress import ProgressCallback
from aspo_rllib.progress_csv import ProgressCSVCallback


def run_options(description: str, *, name: str, iterations: int) -> argparse.ArgumentParser:
    """The options that `run` reads, and --seed, with these defaults; add the script's own to the parser.

    name: what the run's folder below the storage path is called.
    """
    parser = argparse.ArgumentParser(
        description=description.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--name", default=name, help="folder of the run below --storage-path")
    add("--iterations", type=int, default=iterations)
    add("--seed", type=int, default=0)
    add("--engine", choices=["vllm", "transformers"], help="what generates, if not what the script says")
    add("--storage-path", default="results", help="folder, or URI such as s3://bucket/runs, for logs and checkpoints")
    add("--resume", action="store_true", help="go on from the last checkpoint of the run of this name, if any")
    add("--dry-run", action="store_true", help="print plan, memory and resources, then stop")
    add("--profile", action="store_true", help="trace the third iteration: learners, engines and Ray's timeline")
    add("--gpu-memory-gib", type=float, default=80.0, help="memory of one GPU, for the estimates of --dry-run")
    add("--grace-s", type=float, default=120.0, help="seconds that SIGTERM leaves for the iteration and its checkpoint")
    add("--wait-for-nodes-s", type=float, default=0.0, help="seconds to wait for nodes that are still starting")
    return parser


def options(
    description: str, *, name: str, model: str, data: str, iterations: int, num_env_runners: int, num_learners: int
) -> argparse.ArgumentParser:
    """Those of `run_options`, and of a recipe whose model, data and machines are chosen on the command line."""
    parser = run_options(description, name=name, iterations=iterations)
    add = parser.add_argument
    add("--model", default=model, help="folder or hub id")
    add("--data", default=data, help="file or hub name of the training tasks")
    add("--num-env-runners", type=int, default=num_env_runners, help="vLLM engines")
    add("--num-learners", type=int, default=num_learners, help="FSDP2 learners; 0: one in the algorithm's process")
    return parser


def run(
    config: ASPOConfig,
    args: argparse.Namespace,
    *,
    checkpoint_config: tune.CheckpointConfig | None = None,
    failure_config: tune.FailureConfig | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> tune.Result | None:
    """Train under Ray Tune as `run_options` were chosen, on the cluster at hand or else on this machine.

    checkpoint_config: None: one at each evaluation, of which the three best and the last are kept, and one at the end.
    failure_config: None: three times the run goes on from its last checkpoint by itself.
    callbacks: of Tune's, W&B's or MLflow's for example, besides our own lines and Tune's CSV, JSON and TensorBoard.

    Returns the run's result, None after --dry-run. Raises ValueError for a config that is not valid, and SystemExit,
    before anything starts, where the cluster has not what the config asks for, the storage path cannot be written to or
    has no room for the checkpoints, or a run of this name is there already; also when the run has failed, or was ended
    by SIGTERM or Ctrl-C (see preemption.py for the exit codes).
    """
    config = config.copy(copy_frozen=False)
    if args.engine:
        config.llm(engine=args.engine)
    if args.profile:
        config.callbacks([*force_list(config.callbacks_class), ProfileCallback])
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
        ray.init(logging_level=logging.ERROR, logging_config=ray.LoggingConfig(log_level="ERROR"))
    try:
        resources.require_resources(bundles, args.wait_for_nodes_s)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    if args.dry_run:
        print("           the cluster has them")
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
    """A URI as it is, a folder as an absolute path: the workers' current folder is not ours."""
    return text if "://" in text else str(Path(text).expanduser().resolve())


def _check_storage(config: ASPOConfig, args: argparse.Namespace, checkpoint_config: tune.CheckpointConfig) -> None:
    if "://" in args.storage_path:
        return
    kept_at_once = (checkpoint_config.num_to_keep or 1) + 1  # the new one is whole before an old one goes
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
            raise SystemExit(f"There is a run at {path} already: give --resume to go on with it, or another --name.")
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
