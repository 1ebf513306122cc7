"""A model of scale: seconds per iteration on 1 to 1,024 GPUs, what they come from, and where more GPUs stop helping.

    python benchmarks/scale.py --assume h200-1.5b          # the paper's run, from published and assumed figures
    python benchmarks/scale.py --measure parts.json        # this machine's figures: the bundled model on CPU cores
    python benchmarks/scale.py --parts parts.json --check  # prediction against real runs, as far as this machine goes

The simulation and what it leaves out are in scale_model.py. For each number of GPUs the table has the fastest split
into engines and learners (a power of two of them); both together may be fewer than the GPUs where more do not help.
"effic." is the speed over that of as many single GPUs that generate and learn in turn. The bottleneck is the part
without which the iteration would be shortest: "slowest completion": all lengths at their mean; "small batch per
engine": then no fixed cost of a decode step; "generation": then no cost of a token either.

--measure runs real iterations of the bundled model, flattened so that lengths are geometric, at a few sizes with one
and two runners and learners, and fits the parts to their time/... metrics; --check predicts other sizes from them. A
"GPU" is a core then: the check needs two of them, and an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scale_model import (
    Driver,
    Engine,
    Learner,
    Links,
    Parts,
    Plan,
    Sync,
    best_split,
    draw,
    generation_s,
    iteration_s,
    learning_s,
    stop,
)

# ---- parts that nobody measured here ---------------------------------------------------------------------------------

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


# ---- parts measured here ---------------------------------------------------------------------------------------------

TINY = Plan(32, 8, prompt_tokens=10, minibatches=2, epochs=1, max_tokens_per_microbatch=4096)
MAX_NUM_SEQS = 64
CAP_TOKENS = 128
# (engines, learners, prompts, longest completion)
MEASURED = [(1, 1, 4, 128), (1, 1, 24, 128), (1, 1, 24, 16), (1, 2, 24, 128), (2, 1, 24, 128)]
CHECKED_PROMPTS = (8, 32, 64)


@dataclass(frozen=True)
class Iteration:
    """A real one. lengths: completions' tokens `[prompts, group_size]`. stages_s: its time/... metrics, and "all"."""

    engines: int
    learners: int
    lengths: np.ndarray
    stages_s: dict[str, float]
    sync_bytes: float


class Real:
    """Runs iterations of the flattened model in `folder`."""

    def __init__(self, folder: str, iterations: int, overlap: int | None = None):
        self.folder, self.iterations, self.overlap = folder, iterations, overlap

    def run(self, engines: int, learners: int, prompts: int, longest: int, probe=lambda algo: None) -> tuple:
        """([Iteration], what `probe(algo)` found); the first iteration warms up."""
        from aspo_rllib import ASPOConfig

        config = (
            ASPOConfig()
            .environment("aspo/Arithmetic-v0")
            .llm(model=self.folder, max_prompt_tokens=32, max_num_seqs=MAX_NUM_SEQS)
            .sampling(group_size=TINY.group_size, max_completion_tokens=longest)
            .training(
                batch_prompts=prompts,
                minibatch_prompts=prompts // TINY.minibatches,
                num_epochs=TINY.epochs,
                max_tokens_per_microbatch=TINY.max_tokens_per_microbatch,
                kl_coef=0.0,
                drop_uniform_groups=False,
                **({} if self.overlap is None else {"max_staleness": self.overlap}),
            )
            .env_runners(num_env_runners=engines)
            .learners(num_learners=learners)
            .debugging(seed=0)
        )
        algo = config.build_algo()
        found = []
        for _ in range(self.iterations + 1):
            result = algo.train()
            stages = {name.removesuffix("_s"): seconds for name, seconds in result["time"].items()}
            lengths = np.array([[len(r.completion_ids) for r in g.rollouts] for g in algo.latest_groups])
            stages["all"] = result["time_this_iter_s"]
            found.append(Iteration(engines, learners, lengths, stages, result["sync"]["bytes"]))
        probed = probe(algo)
        algo.stop()
        return found[1:], probed


def gather_bandwidth(algo) -> float:
    """Bytes per second of an all-gather between the learners, as `gather_s` counts them."""

    def gather(learner) -> float:
        import torch
        import torch.distributed as dist

        shard = torch.zeros(1 << 21)
        whole = torch.empty(dist.get_world_size() * len(shard))
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            dist.all_gather_into_tensor(whole, shard)
            seconds.append(time.perf_counter() - start)
        return 4 * len(shard) * (dist.get_world_size() - 1) / statistics.median(seconds)

    return min(algo.learner_group.on_all(gather))


def store_bandwidth() -> float:
    """Bytes per second into Ray's object store."""
    import ray

    array, seconds = np.ones(1 << 26, np.uint8), []
    for _ in range(5):
        start = time.perf_counter()
        ray.get(ray.put(array))
        seconds.append(time.perf_counter() - start)
    return array.nbytes / statistics.median(seconds)


def measure(real: Real) -> Parts:
    """All parts, from a few real iterations."""
    runs, bandwidth = {}, 0.0
    for size in MEASURED:
        probe = gather_bandwidth if size[1] == 2 else lambda algo: None
        runs[size], found = real.run(*size, probe=probe)
        bandwidth = found or bandwidth
        seconds = statistics.median(i.stages_s["all"] for i in runs[size])
        print("engines {} learners {} prompts {} longest {}".format(*size), f"{seconds:.2f} s/iteration", flush=True)
    alone = [i for size in MEASURED[:3] for i in runs[size]]
    store = store_bandwidth()
    learner = fit_learner(alone)
    return Parts(
        engine=fit_engine(alone, learner),
        learner=learner,
        links=fit_links(runs[MEASURED[3]], learner, bandwidth),
        sync=fit_sync(runs[MEASURED[1]], runs[MEASURED[4]], store),
        driver=fit_driver([i for found in runs.values() for i in found]),
        lengths=tuple(int(n) for size in (MEASURED[1], *MEASURED[3:]) for i in runs[size] for n in i.lengths.ravel()),
    )


def fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Costs >= 0 of each feature, by least squares of relative errors."""
    from scipy.optimize import nnls

    seconds = np.array(seconds)
    return nnls(np.array(features) / seconds[:, None], np.ones(len(seconds)))[0].tolist()


def fit_engine(iterations: Sequence[Iteration], learner: Learner) -> Engine:
    """Costs of a rollout, of a decode step, of a token; caches of a tiny model are too small to see.

    Recomputing a token is taken to cost what it costs the learner.
    """
    counting = {
        "rollouts": Engine(0.0, 0.0, 0.0, 1.0, 0.0, MAX_NUM_SEQS),
        "steps": Engine(1.0, 0.0, 0.0, 0.0, 0.0, MAX_NUM_SEQS),
        "tokens": Engine(0.0, 1.0, 0.0, 0.0, 0.0, MAX_NUM_SEQS),
    }
    counts = [[generation_s(e, i.lengths.ravel().tolist(), 0) for e in counting.values()] for i in iterations]
    rollout_s, step_s, token_s = fit(counts, [i.stages_s["wait"] for i in iterations])
    return Engine(step_s, token_s, 0.0, rollout_s, learner.forward_token_s, MAX_NUM_SEQS)


def fit_learner(iterations: Sequence[Iteration]) -> Learner:
    steps = TINY.minibatches * TINY.epochs
    tokens = [(i.lengths + TINY.prompt_tokens).sum() * (1 + 3 * TINY.epochs) for i in iterations]
    return Learner(*fit([[n, steps] for n in tokens], [i.stages_s["update"] for i in iterations]))


def fit_links(iterations: Sequence[Iteration], learner: Learner, bandwidth: float) -> Links:
    """What an update of two learners takes beyond their compute is the collectives' latency."""
    num_bytes = iterations[0].sync_bytes
    links = Links(num_bytes, num_bytes, 1 + 3, 0.0, bandwidth, bandwidth, node_gpus=2)
    parts = Parts(None, learner, links, None, None, ())
    latencies = []
    for i in iterations:
        beyond = i.stages_s["update"] - learning_s(parts, TINY, 2, i.lengths)
        # The same update with nothing but a latency of one second.
        ones = Links(0.0, 0.0, links.collectives, 1.0, math.inf, math.inf, node_gpus=2)
        count = learning_s(Parts(None, Learner(0.0, 0.0), ones, None, None, ()), TINY, 2, i.lengths)
        latencies.append(max(0.0, beyond / count))
    return Links(**(asdict(links) | {"latency_s": statistics.median(latencies)}))


def fit_sync(one: Sequence[Iteration], two: Sequence[Iteration], store: float) -> Sync:
    """From runs of one and of two engines."""
    seconds = [statistics.median(i.stages_s["sync"] for i in runs) for runs in (one, two)]
    num_bytes, engine_s = one[0].sync_bytes, max(0.0, seconds[1] - seconds[0])
    fixed_s = max(0.0, seconds[0] - engine_s - 2 * num_bytes / store)
    return Sync(num_bytes, fixed_s, engine_s, store_bytes_s=store, transfer_bytes_s=store, load_bytes_s=store)


def fit_driver(iterations: Sequence[Iteration]) -> Driver:
    """What of an iteration is neither sampling nor update nor sync."""
    rest = [i.stages_s["all"] - sum(i.stages_s[stage] for stage in ("wait", "update", "sync")) for i in iterations]
    return Driver(*fit([[1.0, i.lengths.size] for i in iterations], rest))


# ---- prediction and reality ------------------------------------------------------------------------------------------


def check(real: Real, parts: Parts, sizes: Sequence[int]) -> None:
    """Predicted and measured seconds; the median of the measured iterations."""
    staleness = real.overlap or 0
    print(f"{'engines':>7} {'learners':>8} {'prompts':>7}  predicted/measured: ", end="")
    print("".join(f"{stage:<18}" for stage in ("update", "iteration")) + "ratio")
    for engines in (1, 2):
        for learners in (1, 2):
            for prompts in sizes:
                plan = Plan(**(asdict(TINY) | {"batch_prompts": prompts}))
                lengths = draw(parts.lengths, prompts, plan.group_size, 8)
                update = statistics.fmean(learning_s(parts, plan, learners, batch) for batch in lengths)
                predicted = [update, iteration_s(parts, plan, engines, learners, staleness)]
                found, _ = real.run(engines, learners, prompts, CAP_TOKENS)
                stages = [statistics.median(i.stages_s[s] for i in found) for s in ("update", "all")]
                cells = "".join(f"{f'{p:.2f}/{m:.2f}':<18}" for p, m in zip(predicted, stages, strict=True))
                ratio = predicted[1] / stages[1]
                print(f"{engines:>7} {learners:>8} {prompts:>7}  {'':<20}{cells}{ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--assume", choices=list(ASSUMED))
    source.add_argument("--measure", type=Path, metavar="JSON", help="measure the parts here and write them")
    source.add_argument("--parts", type=Path, metavar="JSON", help="what --measure wrote")
    parser.add_argument("--check", action="store_true", help="compare with real runs; with --measure or --parts")
    parser.add_argument("--check-prompts", type=int, nargs="+", default=list(CHECKED_PROMPTS))
    parser.add_argument("--overlap", type=int, help="check real runs with .training(max_staleness=...)")
    parser.add_argument("--iterations", type=int, default=5, help="real iterations of each size, after a warm-up")
    parser.add_argument("--batch-prompts", type=int, nargs="+", help="of the tables")
    parser.add_argument("--gpus", type=int, nargs="+", default=[2**k for k in range(11)])
    parser.add_argument("--staleness", type=int, default=1, help="max_staleness of the tables' overlapped half")
    args = parser.parse_args()
    if args.check and args.assume:
        parser.error("--check compares with this machine: it needs --measure or --parts")

    if args.assume:
        parts, plan = assumed_parts(args.assume), PAPER
    elif args.parts:
        parts, plan = parts_of(json.loads(args.parts.read_text())), TINY
    if args.measure or args.check:
        import ray
        from vs_trl import save_model

        os.environ["OMP_NUM_THREADS"] = "1"
        ray.init("local", num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), "stops")
            if args.measure:
                parts, plan = measure(Real(folder, args.iterations)), TINY
                args.measure.write_text(json.dumps(asdict(parts)))
            if args.check:
                check(Real(folder, args.iterations, args.overlap), parts, args.check_prompts)
        ray.shutdown()
    for batch_prompts in args.batch_prompts or [plan.batch_prompts, 4 * plan.batch_prompts]:
        print_table(parts, Plan(**(asdict(plan) | {"batch_prompts": batch_prompts})), args.gpus, args.staleness)


if __name__ == "__main__":
    main()
