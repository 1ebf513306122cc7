"""vLLM's weight transfer, from real learners to real engines, over gloo; and what runners do when one comes back."""

import faults
import pytest
import torch
from test_weight_sync import PROMPTS, move_weights

from aspo_rllib.weights import object_store, sync


def drifts_of(algo):
    """How far each runner's engine is from the learner, on fresh completions."""
    drifts = {}
    for number, samples in algo.runners.call(lambda runner: runner.probe(PROMPTS, 8)).items():
        completions = [s.completion_ids for s in samples]
        scores = algo.learner_group.on_all(lambda learner, c=completions: learner.score(PROMPTS, c))[0]
        drifts[number] = sync.drift(scores, [s.sampler_logprobs for s in samples])
    return drifts


def versions_of(algo):
    return algo.runners.call(lambda runner: runner.weights_version)


def groups_of(algo):
    return algo.runners.call(lambda runner: runner.transfer_group)


@pytest.fixture
def build(ray_session, make_config):
    """`build(num_learners, **training)`: two runners that get their weights over gloo."""
    from gloo_transfer import GlooTrainerInitInfo  # imports vLLM

    built = []

    def build(num_learners, **training):
        config = make_config(drop_uniform_groups=False, **training).llm(
            max_prompt_tokens=200, weight_transport=GlooTrainerInitInfo
        )
        config.env_runners(num_env_runners=2).learners(num_learners=num_learners)
        built.append(config.build_algo())
        return built[-1]

    yield build
    for algo in built:
        algo.stop()


def test_a_bucket_has_room_for_the_largest_weight():
    from vllm.distributed.weight_transfer.base import ParamMeta

    from aspo_rllib.weights.vllm_transfer import bucket_bytes

    norm = ParamMeta("norm", torch.bfloat16, (1536,))
    embeddings = ParamMeta("embeddings", torch.bfloat16, (151_936, 1536))  # of Qwen2.5-1.5B
    assert bucket_bytes([norm]) == 2**28
    assert bucket_bytes([norm, embeddings]) == 151_936 * 1536 * 2 > 2**28


@pytest.mark.slow
def test_weights_reach_every_engine(build):
    algo = build(num_learners=0)
    results = algo.train()
    (first_group,) = set(groups_of(algo).values())
    assert results["sync"]["max_abs_dlogp"] < 1e-4
    # 4 bytes each, the tied head counted again: it is sent twice.
    weights = dict(object_store.fetch(algo.learner_group.weights()))
    assert results["sync"]["bytes"] == sum(tensor.nbytes for tensor in weights.values())

    move_weights(algo)
    assert min(drifts_of(algo).values()) > 0.1
    algo._sync_weights()
    assert versions_of(algo) == {1: 2, 2: 2}
    assert max(drifts_of(algo).values()) < 1e-4
    assert set(groups_of(algo).values()) == {first_group}

    # RLlib's evaluation hands the weights out again; what was sent must not be loaded a second time.
    algo.runners.call(lambda runner: setattr(runner.engine, "load_weights", None))
    algo.evaluate()


@pytest.mark.slow
def test_sharded_learners_send_to_completions_under_way_and_a_restarted_runner_joins_again(build):
    algo = build(num_learners=2, max_staleness=1)
    results = [algo.train() for _ in range(2)]
    (first_group,) = set(groups_of(algo).values())
    faults.arm_runner(algo, 1, faults.die)
    results.append(algo.train())
    assert max(r["sync"]["max_abs_dlogp"] for r in results) < 1e-4
    while algo.runners.healthy != [1, 2]:
        algo.runners.recover()
    # Back between two syncs: it holds the weights of the last one, and is in no group.
    assert versions_of(algo) == {1: 3, 2: 3}
    assert groups_of(algo)[1] is None
    assert max(drifts_of(algo).values()) < 1e-4
    move_weights(algo)
    algo._sync_weights()
    (second_group,) = set(groups_of(algo).values())
    assert second_group != first_group
    assert max(drifts_of(algo).values()) < 1e-4
