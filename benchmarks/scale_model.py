"""The simulation behind `scale.py`: the time of an iteration on any number of GPUs, from its parts. Pure functions.

Each engine decodes its share of the prompts event by event. A decode step has a fixed cost, a cost for every running
completion and a cost for every token in its cache. Learners share each mini-batch by tokens. Their collectives are not
overlapped with compute, so that their time is an upper bound. A single GPU generates and learns in turn. With staleness
k, the config's `max_staleness`, k more batches are requested right before each update. An engine continues with them
while its own slowest completions, the other engines and the learners are still working. Not simulated are failures,
graders that are slower than generation, memory, the similar lengths of a prompt's completions, oversampling and
refills.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

STOPS_BELOW = 1.25  # smallest useful speed-up from doubling the GPUs
ITERATIONS = 8


@dataclass(frozen=True)
class Engine:
    """The costs of one engine.

    A decode step takes step_s, plus sequence_s per running completion, plus cached_token_s per token in its cache.
    rollout_s: all other time that a rollout takes in the engine's process.
    prefill_token_s: time to recompute a cached token, which is needed for running completions after new weights.
    """

    step_s: float
    sequence_s: float
    cached_token_s: float
    rollout_s: float
    prefill_token_s: float
    max_num_seqs: int


@dataclass(frozen=True)
class Learner:
    """The costs of one learner.

    forward_token_s: time of one token in a forward pass; a backward pass takes twice as long.
    step_s: time of the optimizer in a step.
    """

    forward_token_s: float
    step_s: float


@dataclass(frozen=True)
class Links:
    """The links between learners. Each pass gathers the weights, and a backward pass also reduces the gradients.

    collectives: number of collectives of each kind per pass, one per sharded block.
    network_bytes_s: bandwidth per GPU if there are more than `node_gpus` learners.
    """

    gather_bytes: float
    reduce_bytes: float
    collectives: int
    latency_s: float
    node_bytes_s: float
    network_bytes_s: float
    node_gpus: int


@dataclass(frozen=True)
class Sync:
    """The costs of a weight sync: into the object store, to the nodes (each round doubles the copies), and loading."""

    num_bytes: float
    fixed_s: float
    engine_s: float
    store_bytes_s: float
    transfer_bytes_s: float
    load_bytes_s: float


@dataclass(frozen=True)
class Driver:
    """The costs of the driver's own work, per iteration and per rollout."""

    fixed_s: float
    rollout_s: float


@dataclass(frozen=True)
class Parts:
    """All measured parts. lengths: numbers of tokens from which completions' lengths are drawn."""

    engine: Engine
    learner: Learner
    links: Links
    sync: Sync
    driver: Driver
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The work of an iteration."""

    batch_prompts: int
    group_size: int
    prompt_tokens: int
    minibatches: int
    epochs: int
    max_tokens_per_microbatch: int


# ---- the simulation --------------------------------------------------------------------------------------------------


class EngineRun:
    """A simulated engine in progress. Requests start between two steps, in the order of their arrival."""

    def __init__(self, engine: Engine, prompt_tokens: int):
        self.engine, self.prompt_tokens = engine, prompt_tokens
        self.now_s = 0.0
        self._step, self._cached = 0, 0
        self._waiting: deque[tuple[int, int]] = deque()  # (length, batch)
        self._running: list[tuple[int, int, int]] = []  # (last step, length, batch)
        self._left: Counter[int] = Counter()  # unfinished completions by batch

    def submit(self, batch: int, lengths: Sequence[int], at_s: float) -> None:
        self._run(until_s=at_s)
        self.now_s = max(self.now_s, at_s)
        self._waiting.extend((length, batch) for length in lengths)
        self._left[batch] += len(lengths)

    def load(self, seconds: float, at_s: float) -> None:
        """Load new weights: running completions continue after their caches are computed again."""
        self._run(until_s=at_s)
        self.now_s = max(self.now_s, at_s) + seconds + self.engine.prefill_token_s * self._cached

    def finish(self, batch: int) -> float:
        """The time at which the last completion of this batch is finished."""
        self._run(batch=batch)
        return self.now_s

    def _run(self, until_s: float = math.inf, batch: int | None = None) -> None:
        engine, running = self.engine, self._running
        while (running or self._waiting) and self.now_s < until_s and (batch is None or self._left[batch]):
            while self._waiting and len(running) < engine.max_num_seqs:
                length, of = self._waiting.popleft()
                heappush(running, (self._step + length, length, of))
                self._cached += self.prompt_tokens
                self.now_s += engine.rollout_s
            n = len(running)
            first_s = engine.step_s + engine.sequence_s * n + engine.cached_token_s * self._cached
            growth_s = engine.cached_token_s * n  # each step adds n tokens to the cache
            steps = min(running[0][0] - self._step, steps_within(until_s - self.now_s, first_s, growth_s))
            self.now_s += steps * first_s + growth_s * steps * (steps - 1) / 2
            self._step += steps
            self._cached += n * steps
            while running and running[0][0] == self._step:
                _, length, of = heappop(running)
                self._cached -= self.prompt_tokens + length
                self._left[of] -= 1


def steps_within(seconds: float, first_s: float, growth_s: float) -> float:
    """Number of steps, at least one, within `seconds`. Each step takes `growth_s` longer than the one before."""
    if math.isinf(seconds) or first_s == growth_s == 0:
        return math.inf
    if growth_s == 0:
        return max(1, math.ceil(seconds / first_s))
    linear = first_s - growth_s / 2
    return max(1, math.ceil((math.sqrt(linear**2 + 2 * growth_s * max(seconds, 0.0)) - linear) / growth_s))


def generation_s(engine: Engine, lengths: Sequence[int], prompt_tokens: int) -> float:
    """Seconds of one engine for completions of these lengths, in this order."""
    run = EngineRun(engine, prompt_tokens)
    run.submit(0, lengths, 0.0)
    return run.finish(0)


@lru_cache
def draw(lengths: tuple[int, ...], num_prompts: int, group_size: int, iterations: int) -> np.ndarray:
    """Lengths `[iterations, prompts, group_size]`."""
    rng = np.random.default_rng(0)
    return rng.choice(np.array(lengths), (iterations, num_prompts, group_size))


def gather_s(links: Links, num_bytes: float, learners: int) -> float:
    """Seconds of all blocks' collectives of one kind, over `num_bytes` in total."""
    if learners == 1:
        return 0.0
    bandwidth = links.node_bytes_s if learners <= links.node_gpus else links.network_bytes_s
    return links.collectives * links.latency_s + num_bytes * (learners - 1) / learners / bandwidth


def learning_s(parts: Parts, plan: Plan, learners: int, lengths: np.ndarray) -> float:
    """Seconds of an update: old logprobs, then epochs of mini-batches. lengths: `[prompts, group_size]`."""
    gather = gather_s(parts.links, parts.links.gather_bytes, learners)
    reduce = gather_s(parts.links, parts.links.reduce_bytes, learners)
    seconds = 0.0
    for minibatch in np.array_split(lengths, plan.minibatches):
        tokens = minibatch + plan.prompt_tokens
        most = max(tokens.sum() / learners, tokens.max())  # a rollout is not split
        passes = math.ceil(most / plan.max_tokens_per_microbatch)
        forward = most * parts.learner.forward_token_s
        seconds += forward + passes * gather
        seconds += plan.epochs * (3 * forward + passes * (2 * gather + reduce) + parts.learner.step_s)
    return seconds


def sync_s(sync: Sync, engines: int, node_gpus: int) -> float:
    """Seconds from the end of an update until its weights are on every engine's node and are checked."""
    rounds = math.ceil(math.log2(math.ceil(engines / node_gpus)))  # the first node has the learners' store
    return (
        sync.fixed_s
        + sync.engine_s * engines
        + sync.num_bytes / sync.store_bytes_s
        + rounds * sync.num_bytes / sync.transfer_bytes_s
    )


def timeline_s(
    engine: Engine,
    batches: np.ndarray,
    learning: Sequence[float],
    *,
    engines: int,
    prompt_tokens: int,
    load_s: float,
    after_s: float,
    staleness: int,
) -> float:
    """Mean seconds of an iteration in the steady state.

    batches: lengths of completions, `[iterations, prompts, group_size]`.
    learning: seconds of each update.
    load_s: pause of an engine for new weights.
    after_s: seconds of driver and sync after each update.
    """
    runs = [EngineRun(engine, prompt_tokens) for _ in range(min(engines, batches.shape[1]))]
    asked, trained, now_s = 0, [], 0.0
    for i, learn_s in enumerate(learning):
        for batch in range(asked, min(i + staleness + 1, len(batches))):
            for k, run in enumerate(runs):
                run.submit(batch, batches[batch, k :: len(runs)].ravel().tolist(), now_s)
            asked = batch + 1
        now_s = max(now_s, *(run.finish(i) for run in runs)) + learn_s + after_s
        trained.append(now_s)
        for run in runs:
            run.load(load_s, now_s)
    return (trained[-1 - staleness] - trained[staleness]) / (len(trained) - 1 - 2 * staleness)


def iteration_s(parts: Parts, plan: Plan, engines: int, learners: int, staleness: int) -> float:
    """Seconds per iteration for these numbers of engines and learners, each on a separate device.

    staleness: number of batches that are sampled ahead, >= 0; 0 is synchronous.
    """
    batches = draw(parts.lengths, plan.batch_prompts, plan.group_size, ITERATIONS + 2 * staleness)
    return timeline_s(
        parts.engine,
        batches,
        [learning_s(parts, plan, learners, lengths) for lengths in batches],
        engines=engines,
        prompt_tokens=plan.prompt_tokens,
        load_s=parts.sync.num_bytes / parts.sync.load_bytes_s,
        after_s=sync_s(parts.sync, engines, parts.links.node_gpus)
        + parts.driver.fixed_s
        + parts.driver.rollout_s * plan.batch_prompts * plan.group_size,
        staleness=staleness,
    )


# ---- conclusions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Best:
    """The fastest split of a number of GPUs."""

    seconds: float
    engines: int
    learners: int
    bottleneck: str


def best_split(parts: Parts, plan: Plan, gpus: int, staleness: int) -> Best:
    """Find the fastest split. Engines and learners may use fewer GPUs than there are, if that is faster."""
    if gpus == 1:
        splits, staleness = [(1, 1)], 0  # engine and learner share the GPU and cannot overlap
    else:
        learners = [2**k for k in range(gpus.bit_length()) if 2**k < gpus]
        splits = [(min(gpus - n, plan.batch_prompts), n) for n in learners]
    seconds, engines, learners = min((iteration_s(parts, plan, *split, staleness), *split) for split in splits)
    saved = savings(parts, lambda p: iteration_s(p, plan, engines, learners, staleness))
    return Best(seconds, engines, learners, max(saved, key=saved.get))


def savings(parts: Parts, seconds_of: Callable[[Parts], float]) -> dict[str, float]:
    """The seconds by which the iteration would be shorter without each part."""
    even = replace(parts, lengths=(round(sum(parts.lengths) / len(parts.lengths)),))
    stepless = replace(even, engine=replace(even.engine, step_s=0.0))
    free = replace(
        stepless,
        engine=replace(stepless.engine, sequence_s=0.0, cached_token_s=0.0, rollout_s=0.0, prefill_token_s=0.0),
    )
    inf = math.inf
    links = replace(parts.links, latency_s=0.0, node_bytes_s=inf, network_bytes_s=inf)
    sync = replace(parts.sync, fixed_s=0.0, engine_s=0.0, store_bytes_s=inf, transfer_bytes_s=inf, load_bytes_s=inf)
    whole = seconds_of(parts)
    return {
        "slowest completion": whole - seconds_of(even),
        "small batch per engine": seconds_of(even) - seconds_of(stepless),
        "generation": seconds_of(stepless) - seconds_of(free),
        "learning": whole - seconds_of(replace(parts, learner=Learner(0.0, 0.0))),
        "learner collectives": whole - seconds_of(replace(parts, links=links)),
        "weight sync": whole - seconds_of(replace(parts, sync=sync)),
        "driver": whole - seconds_of(replace(parts, driver=Driver(0.0, 0.0))),
    }


def stop(gpus: Sequence[int], bests: Sequence[Best]) -> str:
    """The number of GPUs from which doubling them never again gives a speed-up of `STOPS_BELOW`, as text."""
    gains = [a.seconds / b.seconds for a, b in pairwise(bests)]
    last = max((i + 1 for i, gain in enumerate(gains) if gain >= STOPS_BELOW), default=0)
    if last == len(gains):
        return f"still scales at {gpus[-1]} GPUs"
    return (
        f"stops at {gpus[last]} GPUs ({gpus[last + 1]} are {gains[last]:.2f} times as fast): {bests[last].bottleneck}"
    )
