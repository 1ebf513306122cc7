"""Measures the parts of scale_model.py with real iterations on this machine's cores, and checks its predictions.

The language model is the one of endings.py with random ends. The parts are fitted to the time/... metrics of runs with
a few sizes, and with one and two runners and learners.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scale_model import Driver, Engine, Learner, Links, Parts, Plan, Sync, draw, generation_s, iteration_s, learning_s
from timing import seconds_of

TINY = Plan(32, 8, prompt_tokens=10, minibatches=2, epochs=1, max_tokens_per_microbatch=4096)
MAX_NUM_SEQS = 64
CAP_TOKENS = 128
# (engines, learners, prompts, longest completion)
MEASURED = [(1, 1, 4, 128), (1, 1, 24, 128), (1, 1, 24, 16), (1, 2, 24, 128), (2, 1, 24, 128)]
CHECKED_PROMPTS = (8, 32, 64)


@dataclass(frozen=True)
class Iteration:
    """A real iteration.

    lengths: tokens of the completions, `[prompts, group_size]`.
    stages_s: its time/... metrics, and "all".
    """

    engines: int
    learners: int
    lengths: np.ndarray
    stages_s: dict[str, float]
    sync_bytes: float


class Real:
    """Runs iterations of the model in `folder`."""

    def __init__(self, folder: str, iterations: int, max_staleness: int = 0):
        self.folder, self.iterations, self.max_staleness = folder, iterations, max_staleness

    def run(self, engines: int, learners: int, prompts: int, longest: int, probe=lambda algo: None) -> tuple:
        """Run iterations after a warm-up; returns them and the result of `probe(algo)`."""
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
                max_staleness=self.max_staleness,
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
    """Bytes per second of an all-gather between the learners, as `gather_s` defines it."""

    def gather(learner) -> float:
        import torch
        import torch.distributed as dist

        shard = torch.zeros(1 << 21)
        whole = torch.empty(dist.get_world_size() * len(shard))
        seconds = [seconds_of(lambda: dist.all_gather_into_tensor(whole, shard)) for _ in range(5)]
        return 4 * len(shard) * (dist.get_world_size() - 1) / statistics.median(seconds)

    return min(algo.learner_group.on_all(gather))


def store_bandwidth() -> float:
    """Bytes per second into Ray's object store."""
    import ray

    array = np.ones(1 << 26, np.uint8)
    seconds = [seconds_of(lambda: ray.get(ray.put(array))) for _ in range(5)]
    return array.nbytes / statistics.median(seconds)


def measure(real: Real) -> Parts:
    """Measure all parts with a few real iterations."""
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
    """The costs of the features, all >= 0, by least squares of the relative errors."""
    from scipy.optimize import nnls

    seconds = np.array(seconds)
    return nnls(np.array(features) / seconds[:, None], np.ones(len(seconds)))[0].tolist()


def fit_engine(iterations: Sequence[Iteration], learner: Learner) -> Engine:
    """The costs of a rollout, of a decode step and of a token.

    The cost of cached tokens cannot be measured with a tiny model. The cost of recomputing a token is set to the
    learner's.
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
    """The links between learners. The time of an update of two learners beyond their compute is taken as latency."""
    num_bytes = iterations[0].sync_bytes
    links = Links(num_bytes, num_bytes, 1 + 3, 0.0, bandwidth, bandwidth, node_gpus=2)
    parts = Parts(None, learner, links, None, None, ())
    latencies = []
    for i in iterations:
        beyond = i.stages_s["update"] - learning_s(parts, TINY, 2, i.lengths)
        # The same update with only a latency of one second.
        ones = Links(0.0, 0.0, links.collectives, 1.0, math.inf, math.inf, node_gpus=2)
        count = learning_s(Parts(None, Learner(0.0, 0.0), ones, None, None, ()), TINY, 2, i.lengths)
        latencies.append(max(0.0, beyond / count))
    return replace(links, latency_s=statistics.median(latencies))


def fit_sync(one: Sequence[Iteration], two: Sequence[Iteration], store: float) -> Sync:
    """The costs of a weight sync, from runs with one and with two engines."""
    seconds = [statistics.median(i.stages_s["sync"] for i in runs) for runs in (one, two)]
    num_bytes, engine_s = one[0].sync_bytes, max(0.0, seconds[1] - seconds[0])
    fixed_s = max(0.0, seconds[0] - engine_s - 2 * num_bytes / store)
    return Sync(num_bytes, fixed_s, engine_s, store_bytes_s=store, transfer_bytes_s=store, load_bytes_s=store)


def fit_driver(iterations: Sequence[Iteration]) -> Driver:
    """The costs of an iteration that are neither sampling nor update nor sync."""
    rest = [i.stages_s["all"] - sum(i.stages_s[stage] for stage in ("wait", "update", "sync")) for i in iterations]
    return Driver(*fit([[1.0, i.lengths.size] for i in iterations], rest))


def check(real: Real, parts: Parts, sizes: Sequence[int]) -> None:
    """Print predicted and measured seconds, where measured ones are medians over iterations.

    Overlapped runs are checked only if each engine and learner has a separate core.
    """
    print(f"{'engines':>7} {'learners':>8} {'prompts':>7}  predicted/measured: ", end="")
    print("".join(f"{stage:<18}" for stage in ("update", "iteration")) + "ratio")
    for engines, learners, prompts in product((1, 2), (1, 2), sizes):
        if real.max_staleness and engines + learners > len(os.sched_getaffinity(0)):
            continue
        plan = replace(TINY, batch_prompts=prompts)
        lengths = draw(parts.lengths, prompts, plan.group_size, 8)
        update = statistics.fmean(learning_s(parts, plan, learners, batch) for batch in lengths)
        predicted = [update, iteration_s(parts, plan, engines, learners, real.max_staleness)]
        found, _ = real.run(engines, learners, prompts, CAP_TOKENS)
        stages = [statistics.median(i.stages_s[s] for i in found) for s in ("update", "all")]
        cells = "".join(f"{f'{p:.2f}/{m:.2f}':<18}" for p, m in zip(predicted, stages, strict=True))
        ratio = predicted[1] / stages[1]
        print(f"{engines:>7} {learners:>8} {prompts:>7}  {'':<20}{cells}{ratio:.2f}", flush=True)
