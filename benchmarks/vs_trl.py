"""Compares a whole training iteration of this package with TRL's GRPOTrainer: the bundled model on one machine's CPUs.

    pip install "trl==1.16.*"                                # it is in the dev extra
    python benchmarks/vs_trl.py                              # both settings, 1 and 12 steps: about 35 minutes
    python benchmarks/vs_trl.py --settings fixed --steps 1 --repeats 1 --seconds 1 --prompts 4 --group-size 4

"fixed": every completion has 64 tokens. "stops": the model gets weights with which it ends completions at random, so
that the 90% and the 10% quantile of the lengths have a ratio of 10:1, with a limit of 192 tokens. The table shows the
measured lengths. Both systems load the same folder, get the same prompts in the same order, reward a completion by the
parity of its length, and train float32 weights with GRPO's loss, without KL, with clipped gradients and AdamW, on every
rollout. "steps" are optimizer steps per batch: 12 are 3 epochs of 4 mini-batches.

TRL: `generate` with its default cache, and forward and backward over a quarter of the batch at a time, without gradient
checkpointing, logging or saving; with one thread and with two. Ours: one runner with the transformers engine, and the
learner with compiled layers and each group's prompt once in a forward pass (layout="shared"). Each has one thread, and
they overlap (max_staleness=1). "1 + 2 threads": one for the runner and two for the learner. "in turn": without overlap.
"vLLM": with vLLM's engine, whose overhead is too large for a model of this size.

The processes of all systems exist at the same time and run in turn, `--repeats` times, each for `--seconds` and until
the end of an iteration. Results are medians, without start and warm-up. CPU seconds are those of all processes of a
system, including Ray's. Memory is the peak until the end of the warm-up; pages that several processes share count once.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from contextlib import ExitStack
from itertools import product
from operator import attrgetter
from pathlib import Path

import numpy as np
from endings import ends_at_random, never_ends, save_model
from vs_trl_job import CAP_TOKENS, EPOCHS_AND_MINIBATCHES, Job
from vs_trl_side import Repeat, Side

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TWO_THREADS = {"OMP_NUM_THREADS": "2"}
# Ray gives an actor as many threads as it has CPUs; the driver uses all. Spinning threads would slow down the runner.
LEARNER_TWO = {"OMP_WAIT_POLICY": "PASSIVE"}
# Name -> (script, environment, max_staleness, engine).
SYSTEMS = {
    "ours": ("vs_trl_ours.py", ONE_THREAD, 1, "transformers"),
    "ours, 1 + 2 threads": ("vs_trl_ours.py", LEARNER_TWO, 1, "transformers"),
    "ours, vLLM": ("vs_trl_ours.py", ONE_THREAD, 1, "vllm"),
    "ours, in turn": ("vs_trl_ours.py", ONE_THREAD, 0, "transformers"),
    "TRL": ("vs_trl_theirs.py", ONE_THREAD, 0, "transformers"),
    "TRL, 2 threads": ("vs_trl_theirs.py", TWO_THREADS, 0, "transformers"),
}
DEFAULT_SYSTEMS = ["ours", "ours, 1 + 2 threads", "ours, in turn", "TRL", "TRL, 2 threads"]
ENDINGS = {"fixed": never_ends, "stops": ends_at_random}  # how the model's weights end a completion
DIVISOR = 4  # number of our mini-batches, and of the parts of TRL's batch


def compare(systems: list[str], job: dict, scratch: Path) -> None:
    """Run all systems in one setting and print its part of the table."""
    with ExitStack() as stack:
        sides, peak_bytes = {}, {}
        for name in systems:
            script, threads, max_staleness, engine = SYSTEMS[name]
            log = scratch / f"{len(sides)}.log"
            sides[name] = Side(script, Job(**job, max_staleness=max_staleness, engine=engine), threads, log)
            stack.callback(sides[name].stop)
            peak_bytes[name] = sides[name].warm_up()
        rounds = [{name: side.repeat() for name, side in sides.items()} for _ in range(job["repeats"])]
        for name, side in sides.items():
            report(job, name, [repeats[name] for repeats in rounds], peak_bytes[name], side.finish())
        report_ratios(rounds, peak_bytes)


def report(job: dict, name: str, repeats: list[Repeat], peak_bytes: int, lengths: list[int]) -> None:
    p10, p90 = np.percentile(lengths, [10, 90])
    print(
        f"{job['setting']:<6} {job['steps']:>5} {name:<20}"
        f" {statistics.median(r.per_cpu_s for r in repeats):>13.1f}"
        f" {statistics.median(r.per_wall_s for r in repeats):>14.1f} {peak_bytes / 1e6:>8.0f}"
        f"   {statistics.fmean(lengths):.0f} ({p10:.0f} to {p90:.0f}, {max(lengths)})",
        flush=True,
    )


def report_ratios(rounds: list[dict[str, Repeat]], peak_bytes: dict[str, int]) -> None:
    """Print the ratios of ours to TRL's, as medians over the repeats."""
    theirs = [name for name in peak_bytes if name.startswith("TRL")]
    for name, other in product((name for name in peak_bytes if name not in theirs), theirs):
        cpu, wall = (
            statistics.median(rate(r[name]) / rate(r[other]) for r in rounds)
            for rate in (attrgetter("per_cpu_s"), attrgetter("per_wall_s"))
        )
        memory = peak_bytes[name] / peak_bytes[other]
        print(f"{'':<6} {f'{name} / {other}':<36} {cpu:>6.2f} {wall:>14.2f} {memory:>8.2f}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(CAP_TOKENS), default=list(CAP_TOKENS))
    parser.add_argument("--steps", type=int, nargs="+", choices=list(EPOCHS_AND_MINIBATCHES), default=[1, 12])
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=DEFAULT_SYSTEMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="a repeat ends with the iteration during which they are over"
    )
    parser.add_argument("--prompts", type=int, default=8, help=f"per iteration, a multiple of {DIVISOR}")
    parser.add_argument("--group-size", type=int, default=16)
    args = parser.parse_args()
    if args.prompts % DIVISOR:
        parser.error(f"--prompts {args.prompts}: expected a multiple of {DIVISOR}")
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'{" and ".join(missing)} missing: pip install "trl==1.16.*"')
    return args


def main() -> None:
    args = parse_arguments()
    print(f"{args.prompts} prompts x {args.group_size}, {args.repeats} repeat(s) of {args.seconds:g} s or more")
    print(f"{'':<6} {'steps':>5} {'':<20} {'compl./CPU s':>13} {'compl./wall s':>14} {'peak MB':>8}", end="   ")
    print("tokens: mean (10% to 90%, longest)", flush=True)
    for setting in args.settings:
        for steps in args.steps:
            with tempfile.TemporaryDirectory(prefix="vs-trl-") as scratch:
                model = Path(scratch) / "model"
                save_model(model, ENDINGS[setting])
                job = {
                    "model": str(model),
                    "setting": setting,
                    "steps": steps,
                    "prompts": args.prompts,
                    "group_size": args.group_size,
                    "seconds": args.seconds,
                    "repeats": args.repeats,
                }
                compare(args.systems, job, Path(scratch))


if __name__ == "__main__":
    main()
