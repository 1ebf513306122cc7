"""Command-line options and the run under Ray Tune for the training scripts in `tuned_examples`.

Importing this module is fast, so that `--help` and mistakes on the command line are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray import tune

    from aspo_rllib.aspo import ASPOConfig


def run_options(description: str, *, name: str, iterations: int) -> argparse.ArgumentParser:
    """A parser with the options that `run` reads, and --seed. A script can add its own options to it.

    name: default name of the run's folder below the storage path.
    iterations: default number of iterations.
    """
    parser = argparse.ArgumentParser(
        description=description.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--name", default=name, help="folder of the run below --storage-path")
    add("--iterations", type=int, default=iterations)
    add("--seed", type=int, default=0)
    add("--engine", choices=["vllm", "transformers"], help="engine that generates; default: the script's setting")
    add("--lr", type=float, help="learning rate; default: the script's setting")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="any setting of docs/config.md; repeatable")
    add("--storage-path", default="results", help="folder, or URI such as s3://bucket/runs, for logs and checkpoints")
    add("--resume", action="store_true", help="continue the run of this name, if any, also with more --iterations")
    add("--dry-run", action="store_true", help="print plan, memory and resources, then stop")
    add("--profile", action="store_true", help="trace the third iteration: learners, engines and Ray's timeline")
    add("--gpu-memory-gib", type=float, default=80.0, help="memory of one GPU, for the estimates of --dry-run")
    add("--grace-s", type=float, default=120.0, help="seconds after SIGTERM for the iteration and its checkpoint")
    add("--wait-for-nodes-s", type=float, default=0.0, help="seconds to wait for nodes that are still starting")
    return parser


def options(
    description: str, *, name: str, model: str, data: str, iterations: int, num_env_runners: int, num_learners: int
) -> argparse.ArgumentParser:
    """A parser as from `run_options`, with options for the model, the data and the numbers of workers as well."""
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
    """Train under Ray Tune, on the connected cluster or else on this machine.

    args: the parsed options of `run_options`.
    checkpoint_config: None: a checkpoint at each evaluation and one at the end; the three best and the last are kept.
    failure_config: None: after a failure the run continues from its last checkpoint, up to three times.
    callbacks: further Tune callbacks, for example for W&B or MLflow. Our progress lines and Tune's CSV, JSON and
        TensorBoard files are always written.

    Returns the run's result, or None after --dry-run. Raises ValueError for a config that is not valid.

    Raises SystemExit before the run starts if the cluster lacks resources, if the storage path cannot be written to or
    has too little space for the checkpoints, or if a run of this name exists. Raises SystemExit also after a run that
    failed or was ended by SIGTERM or Ctrl-C (see run/preemption.py for the exit codes).
    """
    from aspo_rllib import tune_run

    return tune_run.run(
        config, args, checkpoint_config=checkpoint_config, failure_config=failure_config, callbacks=callbacks
    )
