"""Weights from the learner to the engine, bit for bit, and the check that finds it out when they did not arrive."""

import weakref

import numpy as np
import pytest
import torch
from ray.rllib.core import COMPONENT_RL_MODULE

from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout.engines.engine import EngineError
from aspo_rllib.weights import object_store
from aspo_rllib.weights.object_store import fetch, publish
from aspo_rllib.weights.sync import SyncDriftError, check_drift, describe_weight_errors, drift

# ---- the object store ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (7, 5), "b.bias": (3,), "scalar": (), "c.weight": (64, 33)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {"steps": torch.arange(4)}


def named(weights):
    return [((name,), tensor) for name, tensor in weights.items()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_fetched_is_what_was_published_to_the_bit(ray_session, weights, dtype):
    handle = publish(named(weights), 3, dtype)
    fetched = dict(fetch(handle))
    assert list(fetched) == list(weights)
    for name, tensor in weights.items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert fetched[name].dtype == expected.dtype and fetched[name].shape == expected.shape
        assert torch.equal(fetched[name], expected)
    # 7 x 5 + 3 + 1 + 64 x 33 = 2151 floats and four int64
    assert handle.num_bytes == 2151 * dtype.itemsize + 4 * 8 and handle.version == 3


@pytest.mark.parametrize(("bucket_bytes", "buckets"), [(1, 5), (150, 3), (1 << 29, 1)])
def test_buckets_split_the_weights_and_lose_none(ray_session, weights, monkeypatch, bucket_bytes, buckets):
    # Bytes: 140, 12, 4, 8448, 32. With 150: 140 + 12 | 4 + 8448 | 32.
    monkeypatch.setattr(object_store, "BUCKET_BYTES", bucket_bytes)
    handle = publish(named(weights), 0, torch.float32)
    assert len(handle.refs) == buckets
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fetch(handle))


def test_no_more_than_a_bucket_is_held_at_once(ray_session, monkeypatch):
    monkeypatch.setattr(object_store, "BUCKET_BYTES", 4000)
    held, most = [], 0

    def stream():
        nonlocal most
        for n in range(20):
            array = np.full(250, n, np.float32)  # 1000 bytes
            held.append(weakref.ref(array))
            most = max(most, sum(ref() is not None for ref in held))
            yield (str(n),), torch.from_numpy(array)

    handle = publish(stream(), 0, torch.float32)
    assert len(handle.refs) == 5 and len(fetch(handle)) == 20
    assert 4 <= most <= 6  # those of a bucket, the one at hand, and the generator's own


def test_tied_weights_are_shipped_once_and_fetched_under_each_name(ray_session, weights):
    handle = publish([(("embed", "head"), weights["a.weight"]), (("b",), weights["b.bias"])], 0, torch.float32)
    assert handle.num_bytes == 4 * (7 * 5 + 3)
    fetched = dict(fetch(handle))
    assert list(fetched) == ["embed", "head", "b"]
    assert fetched["head"] is fetched["embed"] and torch.equal(fetched["embed"], weights["a.weight"])


@pytest.mark.parametrize("kib", [1024, 1025, 5000, 40_000])
def test_tensors_of_any_size_lie_in_the_store_as_one_block(ray_session, kib, monkeypatch):
    # Those between 1 and 32 MiB are put in pieces; joining them must not copy.
    tensor = torch.arange(kib * 256, dtype=torch.float32)
    handle = publish([(("a",), tensor)], 0, torch.float32)
    monkeypatch.setattr(np, "concatenate", None)
    assert torch.equal(dict(fetch(handle))["a"], tensor)


def test_pieces_that_lie_apart_are_copied_together():
    flat = np.arange(300, dtype=np.uint8)
    apart = [flat[:100].copy(), flat[100:200].copy(), flat[200:].copy()]
    assert np.array_equal(object_store._joined(apart), flat)


def test_handles_of_equal_version_but_other_weights_differ(ray_session, weights):
    # An older checkpoint restored: the same number means other weights.
    assert publish(named(weights), 3, torch.float32) != publish(named(weights), 3, torch.float32)


def test_drift_is_the_largest_difference_of_any_token():
    learner = [np.array([-1.0, -2.0], np.float32), np.array([-3.0], np.float32)]
    engine = [np.array([-1.0, -2.25], np.float32), np.array([-2.5], np.float32)]
    assert drift(learner, engine) == 0.5
    assert drift(learner, [np.array([-1.0, np.nan]), engine[1]]) == float("inf")
    assert drift(learner, [engine[0], np.array([np.nan])]) == float("inf")


def test_too_much_drift_raises_with_version_value_and_bound():
    check_drift(0.01, 0.01, version=4)
    with pytest.raises(SyncDriftError, match=r"weights_version 4, .* 0\.5 nats \(max_sync_drift=0\.01\)"):
        check_drift(0.5, 0.01, version=4)
    with pytest.raises(SyncDriftError):
        check_drift(float("inf"), 1e9, version=4)


def test_a_failed_sync_names_the_weights_that_differ_most():
    errors = {"a": 0.0, "b": 0.5, "c": 1.5, "d": float("nan"), "e": 0.02, "f": 0.004}
    text = describe_weight_errors(errors)
    assert "wrong values in 4 of 6 weights" in text and "c (150.0%)" in text and "f (" not in text
    assert "what it derives from its weights is stale" in describe_weight_errors({"a": 0.0})
    assert describe_weight_errors({}) == "The engine holds stale or wrong weights."
    with pytest.raises(SyncDriftError, match=r"wrong values in 1 of 1 weights, most of all in head \(90.0%\)"):
        check_drift(0.5, 0.01, version=4, weight_errors=lambda: {"head": 0.9})


# ---- with a real learner and a real engine ------------------------------------------------------------------------


# The last is longer than the 128 tokens of a KV block, so that its prefix is cached.
PROMPTS = [np.array(ids, np.int32) for ids in ([65, 66, 67], [80], range(70, 79), [65 + i % 60 for i in range(150)])]


@pytest.fixture(scope="module")
def start(ray_session, make_config):
    """`start(lora=..., **training)`: an algorithm after one iteration."""
    started = []

    def start(lora=None, **training):
        # Some tests break the model; its groups, all wrong, are to be trained on all the same.
        config = make_config(drop_uniform_groups=False, **training).llm(max_prompt_tokens=200, lora=lora)
        started.append(config.build_algo())
        started[-1].train()
        return started[-1]

    yield start
    for algo in started:
        algo.stop()


@pytest.fixture(scope="module")
def algo(start):
    return start()


def drift_of(algo):
    """How far the engine's logprobs are from the learner's, on fresh completions."""
    (samples,) = on_runner(algo, lambda runner: runner.probe(PROMPTS, 16))
    completions = [s.completion_ids for s in samples]
    scores = algo.learner_group.on_all(lambda learner: learner.score(PROMPTS, completions))[0]
    return drift(scores, [s.sampler_logprobs for s in samples])


@pytest.fixture
def engine_drift(algo):
    return lambda: drift_of(algo)


@pytest.fixture
def synced(algo):
    """Leaves the engine with the learner's weights, whatever the test did."""
    yield algo
    handle = algo.learner_group.weights()
    on_runner(algo, lambda runner: runner.engine.load_weights(fetch(handle)))


def on_runner(algo, func):
    return algo.env_runner_group.foreach_env_runner(func, local_env_runner=False)


def move_weights(algo, by=0.2):
    """Change the learner's weights a lot, as many updates would."""

    def perturb(learner):
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                if parameter.requires_grad:
                    parameter += by * parameter.std() * torch.randn_like(parameter)
        learner._weights_seq_no += 1

    algo.learner_group.on_all(perturb)
    algo.learner_group._weights = None


def test_after_a_sync_engine_and_learner_agree(synced, engine_drift):
    move_weights(synced)
    assert engine_drift() > 0.1  # the probe sees weights that were not synced
    synced._sync_weights()
    assert engine_drift() < 1e-4


def test_a_wrong_weight_is_named(synced):
    handle = synced.learner_group.weights()

    def spoil(runner):
        weights = [(n, t * 2 if "layers.1.mlp.down_proj" in n else t) for n, t in fetch(handle)]
        runner.engine.load_weights(weights)

    on_runner(synced, spoil)
    with pytest.raises(SyncDriftError, match=r"wrong values in 1 of \d+ weights, .*layers.1.mlp.down_proj.weight"):
        synced._check_sync(PROMPTS)


def test_weights_that_an_engine_does_not_take_end_the_run_with_its_reason(start):
    algo = start()  # of its own, because its runner does not serve after the error
    handle = publish([(("nothing.weight",), torch.ones(2))], 99, torch.float32)
    with pytest.raises(EngineError, match=r"does not take the weights of version 99 .*nothing"):
        algo.runners.load(handle)
    assert algo.runners.num_lost == 0


def test_rollouts_after_a_sync_carry_its_version(synced):
    version = synced.learner_group.weights().version
    assert version >= 1
    (groups,) = on_runner(synced, lambda runner: runner.sample(tasks=[(0, 0)]))
    assert {r.weights_version for r in groups[0].rollouts} == {version}


def test_the_engine_does_not_reload_what_it_holds(synced):
    synced._sync_weights()

    def count_loads(runner):
        load, runner.loads = runner.engine.load_weights, 0

        def counting(weights):
            runner.loads += 1
            load(weights)

        runner.engine.load_weights = counting

    on_runner(synced, count_loads)
    handle = synced.learner_group.weights()
    on_runner(synced, lambda runner: runner.set_state({COMPONENT_RL_MODULE: handle}))
    assert on_runner(synced, lambda runner: runner.loads) == [0]
    move_weights(synced, by=0.01)
    synced._sync_weights()
    assert on_runner(synced, lambda runner: runner.loads) == [1]


def test_our_weights_hold_the_tied_head(algo):
    names = {name for name, _ in fetch(algo.learner_group.weights())}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names


def test_an_engine_without_the_tied_head_packs_it_from_the_new_embedding(synced, engine_drift):
    # vLLM on CPUs keeps a packed copy of the head, which a reload of the embedding alone would leave stale.
    move_weights(synced)
    assert engine_drift() > 0.1
    handle = synced.learner_group.weights()
    on_runner(
        synced, lambda runner: runner.engine.load_weights([(n, t) for n, t in fetch(handle) if n != "lm_head.weight"])
    )
    assert engine_drift() < 1e-4


def corrupt_next_load(runner):
    load = runner.engine.load_weights

    def corrupted(weights):
        load([(name, 1.5 * tensor if "norm" in name else tensor) for name, tensor in weights])

    runner.engine.load_weights = corrupted
    runner.repair = lambda: setattr(runner.engine, "load_weights", load)


def test_training_stops_when_an_engine_holds_wrong_weights(synced):
    on_runner(synced, corrupt_next_load)
    version = synced.learner_group.weights().version + 1
    try:
        with pytest.raises(SyncDriftError, match=rf"weights_version {version},.*max_sync_drift=0\.01"):
            synced.train()
    finally:
        on_runner(synced, lambda runner: runner.repair())


# ---- adapters alone -----------------------------------------------------------------------------------------------

# Settings, and the numbers that one of the bundled model's three layers has in its adapters: rank x (in + out), where
# in + out of q, k, v, o, gate, up, down is 256, 192, 192, 256, 512, 512, 512.
ALL_LAYERS = {"r": 16, "target_modules": "all-linear"}, 16 * 2432
# Ranks and scalings of their own, in matrices that the engine fuses (q, k, v) with one that has none.
SOME_LAYERS = (
    {
        "r": 4,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"],
        "rank_pattern": {"down_proj": 9},
        "alpha_pattern": {"q_proj": 12},
    },
    4 * (256 + 192 + 256) + 9 * 512,
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(layers, marks=pytest.mark.slow) for layers in (SOME_LAYERS, ALL_LAYERS)],  # each boots a vLLM
    ids=["some", "all"],
)
def adapted_and_size(start, request):
    settings, layer_numbers = request.param
    return start(lora=settings, lr=0.02), 3 * layer_numbers


@pytest.fixture
def adapted(adapted_and_size):
    return adapted_and_size[0]


def test_engine_and_learner_agree_about_adapters(adapted):
    assert drift_of(adapted) < 1e-4  # trained a little
    for version in (2, 3):
        move_weights(adapted, by=3.0)
        assert drift_of(adapted) > 0.1
        adapted._sync_weights()
        assert drift_of(adapted) < 1e-4
        assert on_runner(adapted, lambda runner: runner.weights_version) == [version]


def test_a_sync_ships_the_adapters_and_nothing_else(adapted_and_size):
    adapted, numbers = adapted_and_size
    handle = adapted.learner_group.weights()
    shipped = dict(fetch(handle))
    assert handle.kind == "adapters" and all(".lora_" in name for name in shipped)
    assert handle.num_bytes == sum(tensor.nbytes for tensor in shipped.values()) == 4 * numbers
    (base,) = adapted.learner_group.on_all(lambda learner: full_weights(learner.policy))
    # The model is tiny; that of a real one is below a hundredth.
    assert handle.num_bytes < 0.2 * sum(tensor.nbytes for tensor in base.values())


def test_the_metric_counts_the_shipped_bytes(adapted_and_size):
    adapted, numbers = adapted_and_size
    assert adapted.train()["sync"]["bytes"] == 4 * numbers


def test_adapters_that_are_zero_are_none(adapted):
    def without_adapters(runner):
        runner.engine._adapters = None  # as before the first sync
        return runner.probe(PROMPTS, 16)

    (bare,) = on_runner(adapted, without_adapters)
    zero = [(name, torch.zeros_like(tensor)) for name, tensor in fetch(adapted.learner_group.weights())]
    on_runner(adapted, lambda runner: runner.engine.load_adapters(zero))
    (zeroed,) = on_runner(adapted, lambda runner: runner.probe(PROMPTS, 16))
    for a, b in zip(bare, zeroed, strict=True):
        assert np.array_equal(a.completion_ids, b.completion_ids)
        np.testing.assert_allclose(a.sampler_logprobs, b.sampler_logprobs, atol=1e-6)
