"""The model of scale behind benchmarks/scale.py, against cases worked out by hand."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import scale_measure
import scale_model
from scale_model import Driver, Engine, Learner, Links, Parts, Plan, Sync

# 8 completions of 100 tokens, one mini-batch: nothing but decode steps of 10 ms and 1 ms per token and forward pass.
FREE_LINKS = Links(0.0, 0.0, 1, 0.0, math.inf, math.inf, node_gpus=8)
FREE_SYNC = Sync(0.0, 0.0, 0.0, math.inf, math.inf, math.inf)
PARTS = Parts(
    engine=Engine(
        step_s=0.01, sequence_s=0.0, cached_token_s=0.0, rollout_s=0.0, prefill_token_s=0.0, max_num_seqs=256
    ),
    learner=Learner(forward_token_s=1e-3, step_s=0.0),
    links=FREE_LINKS,
    sync=FREE_SYNC,
    driver=Driver(0.0, 0.0),
    lengths=(100,),
)
FREE_ENGINE = replace(PARTS.engine, step_s=0.0)
PLAN = Plan(4, 2, prompt_tokens=0, minibatches=1, epochs=1, max_tokens_per_microbatch=1000)
GENERATION_S = 100 * 0.01
LEARNING_S = 800 * 1e-3 * (1 + 3)


@pytest.mark.parametrize(
    ("engine", "lengths", "seconds"),
    [
        ({"step_s": 1.0}, [3, 5], 5),  # the longest one
        ({"sequence_s": 1.0}, [3, 5], 3 * 2 + 2 * 1),  # every token
        ({"rollout_s": 1.0}, [3, 5], 2),
        ({"step_s": 1.0, "max_num_seqs": 1}, [3, 5], 8),  # one after the other
        ({"step_s": 1.0, "max_num_seqs": 2}, [3, 5, 1, 4], 8),  # 3, 1 and 4 in the first place
        # Caches before each step: 10 and 10, then 11 and 11, then one of them alone with 12.
        ({"cached_token_s": 1.0}, [2, 3], 20 + 22 + 12),
    ],
)
def test_generation(engine, lengths, seconds):
    engine = replace(FREE_ENGINE, **engine)
    assert scale_model.generation_s(engine, lengths, prompt_tokens=10) == pytest.approx(seconds)


def test_requests_join_between_steps():
    """Steps of 1 s plus 1 s per completion. The second one comes in the third step, at 5 s, and joins at 6 s."""
    run = scale_model.EngineRun(replace(FREE_ENGINE, step_s=1.0, sequence_s=1.0), prompt_tokens=0)
    run.submit(0, [5], 0.0)
    run.submit(1, [4], 5.0)
    assert run.finish(0) == pytest.approx(3 * 2 + 2 * 3)
    assert run.finish(1) == pytest.approx(12 + 2 * 2)


@pytest.mark.parametrize("growth_s", [0.0, 0.25])
def test_steps_within(growth_s):
    """The least number of steps that takes as long; by adding them up."""
    for seconds in (0.1, 1.0, 7.3, 50.0):
        steps = scale_model.steps_within(seconds, 1.0, growth_s)
        took = [sum(1.0 + growth_s * i for i in range(n)) for n in (steps - 1, steps)]
        assert took[0] < seconds <= took[1]


def test_new_weights_stop_the_engine_and_empty_its_caches():
    """After the second step, at 2 s, 2 completions have 10 + 2 tokens each."""
    run = scale_model.EngineRun(replace(FREE_ENGINE, step_s=1.0, prefill_token_s=0.5), prompt_tokens=10)
    run.submit(0, [4, 4], 0.0)
    run.load(3.0, at_s=2.0)
    assert run.now_s == pytest.approx(2 + 3 + 24 * 0.5)
    assert run.finish(0) == pytest.approx(17 + 2)


@pytest.mark.parametrize(
    ("staleness", "seconds"), [(0, GENERATION_S + LEARNING_S), (1, max(GENERATION_S, LEARNING_S)), (3, LEARNING_S)]
)
def test_synchronous_is_the_sum_and_overlapped_the_larger(staleness, seconds):
    assert scale_model.iteration_s(PARTS, PLAN, 1, 1, staleness) == pytest.approx(seconds)


def test_overlapped_hides_learning_behind_slow_engines():
    slow = replace(PARTS, engine=replace(PARTS.engine, step_s=1.0, max_num_seqs=8))  # a batch at a time
    assert scale_model.iteration_s(slow, PLAN, 1, 1, 1) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("learners", "seconds"),
    [(1, LEARNING_S), (2, LEARNING_S / 2), (8, LEARNING_S / 8), (64, LEARNING_S / 8)],  # no rollout is cut
)
def test_learners_share_the_tokens(learners, seconds):
    batch = scale_model.draw(PARTS.lengths, 4, 2, 1)[0]
    assert scale_model.learning_s(PARTS, PLAN, learners, batch) == pytest.approx(seconds)


def test_collectives():
    """Two passes of 400 tokens each: a gather while scoring, two gathers and a reduction in the training pass."""
    links = Links(
        gather_bytes=10.0, reduce_bytes=20.0, collectives=3, latency_s=0.1, node_bytes_s=1.0, network_bytes_s=0.5,
        node_gpus=2,
    )  # fmt: skip
    parts = replace(PARTS, links=links, learner=Learner(0.0, step_s=7.0))
    plan = replace(PLAN, max_tokens_per_microbatch=200)
    batch = scale_model.draw(PARTS.lengths, 4, 2, 1)[0]
    gather, reduce = 0.3 + 10 / 2, 0.3 + 20 / 2
    assert scale_model.learning_s(parts, plan, 2, batch) == pytest.approx(2 * (3 * gather + reduce) + 7)
    assert scale_model.gather_s(links, 10.0, 4) == pytest.approx(0.3 + 10 * 3 / 4 / 0.5)  # leaves the node
    assert scale_model.gather_s(links, 10.0, 1) == 0


def test_sync():
    sync = Sync(12.0, fixed_s=1.0, engine_s=0.5, store_bytes_s=4.0, transfer_bytes_s=3.0, load_bytes_s=6.0)
    seconds = [scale_model.sync_s(sync, engines, node_gpus=2) for engines in (1, 2, 3, 8)]
    assert seconds == pytest.approx([4.5, 5, 5.5 + 4, 8 + 2 * 4])  # 1, 1, 2 and 4 nodes
    whole = scale_model.iteration_s(replace(PARTS, sync=sync), PLAN, 1, 1, 0)
    assert whole == pytest.approx(GENERATION_S + LEARNING_S + 4.5 + 12 / 6)


def test_driver_adds_to_every_iteration():
    parts = replace(PARTS, driver=Driver(fixed_s=1.0, rollout_s=0.25))
    assert scale_model.iteration_s(parts, PLAN, 1, 1, 0) == pytest.approx(GENERATION_S + LEARNING_S + 1 + 8 * 0.25)


@pytest.mark.parametrize(("staleness", "seconds"), [(0, 3), (1, 2)])
def test_the_next_batch_runs_beside_the_slowest_completions(staleness, seconds):
    """Two at a time, 1 s per step, of lengths 1 and 3: the short one's place goes to the next batch, or to nobody."""
    mean_s = scale_model.timeline_s(
        replace(FREE_ENGINE, step_s=1.0, max_num_seqs=2),
        scale_model.np.array([[[1, 3]]] * 100),
        [0.0] * 100,
        engines=1,
        prompt_tokens=0,
        load_s=0.0,
        after_s=0.0,
        staleness=staleness,
    )
    assert mean_s == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize(("staleness", "seconds"), [(0, 3), (2, 2)])
def test_engines_wait_for_each_other_only_in_lockstep(staleness, seconds):
    """Each of two engines is slow in every other batch, 3 s instead of 1."""
    mean_s = scale_model.timeline_s(
        replace(FREE_ENGINE, step_s=1.0, max_num_seqs=1),
        scale_model.np.array([[[1], [3]], [[3], [1]]] * 50),
        [0.0] * 100,
        engines=2,
        prompt_tokens=0,
        load_s=0.0,
        after_s=0.0,
        staleness=staleness,
    )
    assert mean_s == pytest.approx(seconds, rel=0.02)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("slowest completion", {"lengths": (10,) * 31 + (10_000,), "learner": Learner(0.0, 0.0)}),
        ("small batch per engine", {"learner": Learner(0.0, 0.0)}),
        ("generation", {"engine": replace(FREE_ENGINE, sequence_s=1.0)}),
        ("learning", {}),
        ("learner collectives", {"links": replace(FREE_LINKS, latency_s=10.0)}),
        ("weight sync", {"sync": replace(FREE_SYNC, engine_s=10.0)}),
        ("driver", {"driver": Driver(0.0, 10.0)}),
    ],
)
def test_bottleneck(name, changes):
    parts = replace(PARTS, **changes)
    saved = scale_model.savings(parts, lambda p: scale_model.iteration_s(p, PLAN, 2, 2, 0))
    assert max(saved, key=saved.get) == name


def test_one_gpu_cannot_overlap():
    assert scale_model.best_split(PARTS, PLAN, 1, staleness=2).seconds == pytest.approx(GENERATION_S + LEARNING_S)


def test_split_gives_most_gpus_to_what_is_slow():
    """Learning takes 3.2 s of one GPU and can be cut in eight; decoding takes 1 s on any number."""
    best = scale_model.best_split(PARTS, PLAN, 9, staleness=0)
    assert (best.engines, best.learners) == (1, 8)
    assert best.seconds == pytest.approx(GENERATION_S + LEARNING_S / 8)


def test_stop_names_the_last_size_worth_having():
    bests = [
        scale_model.Best(s, 1, 1, b) for s, b in ((8, "learning"), (4, "learning"), (3.9, "driver"), (3.9, "driver"))
    ]
    assert scale_model.stop([1, 2, 4, 8], bests) == "stops at 2 GPUs (4 are 1.03 times as fast): learning"
    assert scale_model.stop([1, 2], bests[:2]) == "still scales at 2 GPUs"


def test_fit_finds_the_parts_that_made_the_times():
    tiny = scale_measure.TINY
    engine = Engine(2e-3, 1e-4, 0.0, 5e-3, prefill_token_s=1e-5, max_num_seqs=scale_measure.MAX_NUM_SEQS)
    learner = Learner(forward_token_s=1e-5, step_s=0.02)
    links = Links(1e6, 1e6, 4, latency_s=3e-3, node_bytes_s=1e9, network_bytes_s=1e9, node_gpus=2)
    sync = Sync(1e6, fixed_s=0.2, engine_s=0.1, store_bytes_s=1e9, transfer_bytes_s=1e9, load_bytes_s=1e9)
    driver = Driver(fixed_s=0.05, rollout_s=1e-3)
    parts = Parts(engine, learner, links, sync, driver, (1,))

    def iteration(engines, learners, prompts, longest):
        lengths = scale_model.draw(tuple(range(1, longest)), prompts, tiny.group_size, 1)[0]
        times = {
            "wait": scale_model.generation_s(engine, lengths.ravel().tolist(), tiny.prompt_tokens),
            "update": scale_model.learning_s(parts, tiny, learners, lengths),
            "sync": scale_model.sync_s(sync, engines, links.node_gpus) + sync.num_bytes / sync.load_bytes_s,
        }
        times["all"] = sum(times.values()) + driver.fixed_s + driver.rollout_s * lengths.size
        return scale_measure.Iteration(engines, learners, lengths, times, sync.num_bytes)

    one, small, short = (iteration(1, 1, *size) for size in ((24, 128), (4, 128), (24, 16)))
    assert vars(scale_measure.fit_learner([one, small, short])) == pytest.approx(vars(learner))
    assert vars(scale_measure.fit_engine([one, small, short], learner)) == pytest.approx(vars(engine))
    assert vars(scale_measure.fit_links([iteration(1, 2, 24, 128)], learner, 1e9)) == pytest.approx(vars(links))
    assert vars(scale_measure.fit_sync([one], [iteration(2, 1, 24, 128)], 1e9)) == pytest.approx(vars(sync))
    assert vars(scale_measure.fit_driver([one, small])) == pytest.approx(vars(driver))
