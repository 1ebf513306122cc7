"""A model of scaling: seconds per iteration on 1 to 1,024 GPUs, their parts, and where more GPUs stop helping.

    python benchmarks/scale.py --assume h200-1.5b          # the paper's run, from published and assumed figures
    python benchmarks/scale.py --measure parts.json        # this machine's figures: the bundled model on CPU cores
    python benchmarks/scale.py --parts parts.json --check  # prediction and real runs, for sizes that fit this machine

The simulation and its simplifications are in scale_model.py, the measurements in scale_measure.py. For each number of
GPUs the table has the fastest split into engines and learners, whose numbers are powers of two. Together they may use
fewer GPUs, if more do not help. "effic." is the speed divided by that of the same number of single GPUs that generate
and learn in turn. The bottleneck is the part whose removal shortens the iteration most: "slowest completion" sets all
lengths to their mean; "small batch per engine" also removes the fixed cost of a decode step; "generation" also removes
the cost of a token.

--measure runs real iterations of a tiny model with a few sizes and fits the parts to them. --check predicts other sizes
and runs them. A "GPU" is then a CPU core: the check needs two cores and an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scale_measure import CHECKED_PROMPTS, TINY, Real, check, measure
from scale_model import Driver, Engine, Learner, Links, Parts, Plan, Sync, best_split, stop

# ---- parts that were not measured here -------------------------------------------------------------------------------

_SPEC = "H200 data sheet"
_CONFIG = "config.json of DeepSeek-R1-Distill-Qwen-1.5B, 1.78B parameters"
ASSUMED = {
    "h200-1.5b": {
        "engine.step_s": (5e-3, f"assumption: 3.6 GB of weights at 4.8 TB/s ({_SPEC}) are 0.7 ms, the rest scheduling"),
        "engine.sequence_s": (2e-5, "assumption: sampling and bookkeeping; the arithmetic is 9 us at 40 % of peak"),
        "engine.cached_token_s": (8.5e-9, f"28,672 bytes ({_CONFIG}), 4.8 TB/s ({_SPEC}); assumption: 70 % of it"),
        "engine.rollout_s": (1e-3, "assumption: prefill shared by the group, detokenizing, handing to graders"),
        "engine.prefill_token_s": (9e-6, f"2 x 1.78e9 FLOP at 989 TFLOP/s ({_SPEC}); assumption: 40 % of it"),
        "engine.max_num_seqs": (256, "ASPOConfig's default"),
        "learner.forward_token_s": (1e-5, f"2 x 1.78e9 FLOP at 989 TFLOP/s ({_SPEC}); assumption: 35 % of it"),
        "learner.step_s": (3e-2, "assumption: memory traffic of AdamW is 10 ms unsharded"),
        "links.gather_bytes": (3.6e9, f"bf16 ({_CONFIG})"),
        "links.reduce_bytes": (7.1e9, "fp32 gradients"),
        "links.collectives": (29, f"28 layers and the rest ({_CONFIG})"),
        "links.latency_s": (5e-5, "assumption"),
        "links.node_bytes_s": (3e11, f"NVLink 450 GB/s each way ({_SPEC}); assumption: two thirds of it"),
        "links.network_bytes_s": (4e10, "assumption: 400 Gbit/s per GPU, 80 % of it"),
        "links.node_gpus": (8, "assumption: HGX nodes"),
        "sync.num_bytes": (3.6e9, "bf16"),
        "sync.fixed_s": (0.5, "assumption"),
        "sync.engine_s": (0.05, "assumption: the probe of each engine is scored by itself"),
        "sync.store_bytes_s": (4e9, "measured on the CPU machine of docs/benchmarks.md: 200 MB in 0.05 s"),
        "sync.transfer_bytes_s": (2e9, "assumption: Ray's object transfer between nodes"),
        "sync.load_bytes_s": (1e10, "assumption: shared memory to GPU through vLLM's loader"),
        "driver.fixed_s": (0.1, "assumption"),
        "driver.rollout_s": (1e-3, "assumption: unpickling and batching"),
        "lengths": (
            tuple(int(x) for x in np.clip(np.random.default_rng(0).lognormal(math.log(6000), 0.8, 4096), 1, 32768)),
            "assumption: log-normal, median 6,000 tokens, sigma 0.8, cut at the paper's 32,768",
        ),
    }
}
PAPER = Plan(64, 16, prompt_tokens=200, minibatches=4, epochs=3, max_tokens_per_microbatch=36864)
KINDS = {"engine": Engine, "learner": Learner, "links": Links, "sync": Sync, "driver": Driver}


def assumed_parts(name: str) -> Parts:
    values: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for field, (value, source) in ASSUMED[name].items():
        kind, _, part = field.partition(".")
        shown = f"mean {np.mean(value):.0f}" if field == "lengths" else f"{value:g}"
        print(f"{field:<24} {shown:>9}  {source}")
        if part:
            values[kind][part] = value
    return parts_of({**values, "lengths": ASSUMED[name]["lengths"][0]})


def parts_of(values: dict) -> Parts:
    return Parts(**{kind: make(**values[kind]) for kind, make in KINDS.items()}, lengths=tuple(values["lengths"]))


def print_table(parts: Parts, plan: Plan, gpus: Sequence[int], staleness: int) -> None:
    one = best_split(parts, plan, 1, 0).seconds
    ways = {"synchronous": 0, f"staleness {staleness}": staleness}
    print(f"\n{plan.batch_prompts} prompts x {plan.group_size}, {plan.epochs * plan.minibatches} optimizer steps")
    print(f"{'':>5}" + "".join(f"  {way:<55}" for way in ways))
    print(f"{'GPUs':>5}" + f"  {'eng.+learn.':>11} {'s/iter':>8} {'effic.':>6}  {'bottleneck':<26}" * len(ways))
    rows = {way: [best_split(parts, plan, n, k) for n in gpus] for way, k in ways.items()}
    for i, n in enumerate(gpus):
        cells = [rows[way][i] for way in ways]
        print(
            f"{n:>5}"
            + "".join(
                f"  {f'{b.engines}+{b.learners}':>11} {b.seconds:>8.4g} {one / n / b.seconds:>6.0%}  {b.bottleneck:<26}"
                for b in cells
            )
        )
    for way, bests in rows.items():
        print(f"{way}: {stop(gpus, bests)}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--assume", choices=list(ASSUMED))
    source.add_argument("--measure", type=Path, metavar="JSON", help="measure the parts here and write them")
    source.add_argument("--parts", type=Path, metavar="JSON", help="what --measure wrote")
    parser.add_argument("--check", action="store_true", help="compare with real runs; with --measure or --parts")
    parser.add_argument("--check-prompts", type=int, nargs="+", default=list(CHECKED_PROMPTS))
    parser.add_argument("--overlap", type=int, default=0, help="check real runs with .training(max_staleness=...)")
    parser.add_argument("--iterations", type=int, default=5, help="real iterations of each size, after a warm-up")
    parser.add_argument("--batch-prompts", type=int, nargs="+", help="of the tables")
    parser.add_argument("--gpus", type=int, nargs="+", default=[2**k for k in range(11)])
    parser.add_argument("--staleness", type=int, default=1, help="max_staleness in the overlapped half of the tables")
    args = parser.parse_args()
    if args.check and args.assume:
        parser.error("--check compares with this machine: it needs --measure or --parts")
    return args


def measured_parts(args: argparse.Namespace) -> Parts:
    """Read the parts from the file, or measure them and write it; then run the check if requested."""
    if args.parts:
        parts = parts_of(json.loads(args.parts.read_text()))
        if not args.check:
            return parts
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch
    import ray
    from endings import ends_at_random, save_model

    ray.init("local", num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), ends_at_random)
        if args.measure:
            parts = measure(Real(folder, args.iterations))
            args.measure.write_text(json.dumps(asdict(parts)))
        if args.check:
            check(Real(folder, args.iterations, args.overlap), parts, args.check_prompts)
    ray.shutdown()
    return parts


def main() -> None:
    args = parse_arguments()
    parts, plan = (assumed_parts(args.assume), PAPER) if args.assume else (measured_parts(args), TINY)
    for batch_prompts in args.batch_prompts or [plan.batch_prompts, 4 * plan.batch_prompts]:
        print_table(parts, replace(plan, batch_prompts=batch_prompts), args.gpus, args.staleness)


if __name__ == "__main__":
    main()
