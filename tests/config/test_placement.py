"""Which device does what: what a config resolves to, what is refused, engines that sleep while the learner learns."""

import re

import numpy as np
import pytest
from faults import poison

from aspo_rllib.config import placement
from aspo_rllib.doctor import preflight
from aspo_rllib.doctor.dry_run import describe_run
from aspo_rllib.learner.memory import (
    ENGINE_OVERHEAD_BYTES,
    engine_memory,
    learner_memory,
    load_structure,
    shared_gpu_bytes,
)

GIB = 1 << 30


@pytest.fixture
def placed(make_config):
    """`placed(runners, gpus of each, learners, gpus of each, **llm)`: a config."""

    def make(num_env_runners=1, gpus_per_runner=0, num_learners=0, gpus_per_learner=0, **llm):
        return (
            make_config()
            .llm(**({"dtype": "bfloat16"} | llm))
            .env_runners(num_env_runners=num_env_runners, num_gpus_per_env_runner=gpus_per_runner)
            .learners(num_learners=num_learners, num_gpus_per_learner=gpus_per_learner)
        )

    return make


PLANS = [
    ((), {}, "1 vLLM runner on CPU, 1 learner on CPU, weights by the object store"),
    (
        (1, 0.4, 0, 0.6),
        {},
        "1 vLLM runner and 1 learner share 1 GPU (the engine sleeps during the update), weights by CUDA IPC",
    ),
    ((1, 0.5, 1, 0.5), {"sleep": False}, "1 vLLM runner and 1 learner share 1 GPU, weights by CUDA IPC"),
    (
        (4, 2, 4, 1),
        {"tensor_parallel_size": 2},
        "4 vLLM runners on 2 GPUs each (tensor parallel), 4 FSDP2 learners on 1 GPU each, weights by NCCL",
    ),
    ((1, 1, 1, 1), {}, "1 vLLM runner on 1 GPU, 1 learner on 1 GPU, weights by NCCL"),
    # NCCL's broadcast can hang with a runner that dies, which only a learner in a process of its own survives.
    ((1, 1, 0, 1), {}, "1 vLLM runner on 1 GPU, 1 learner on 1 GPU, weights by the object store"),
    ((2, 0.5, 1, 1), {}, "2 vLLM runners on 0.5 GPU each, 1 learner on 1 GPU, weights by the object store"),
    ((1, 1, 1, 1), {"weight_transport": "object_store"}, "weights by the object store"),
    ((1, 1, 1, 1), {"lora": {"r": 4, "target_modules": "all-linear"}}, "weights by the object store"),
    ((1, 1, 1, 1), {"engine": "transformers"}, "1 transformers runner on 1 GPU, 1 learner on 1 GPU, weights by the ob"),
]


@pytest.mark.parametrize(("where", "llm", "expected"), PLANS)
def test_the_plan_says_which_device_does_what(placed, where, llm, expected):
    config = placed(*where, **llm)
    config.validate()
    assert expected in config.plan()


REFUSED = [
    ((1, 0.5, 1, 0.5), {"weight_transport": "nccl"}, "weight_transport='nccl': expected num_learners >= 1 and whole"),
    ((1, 1, 0, 1), {"weight_transport": "nccl"}, "got num_learners=0"),
    ((1, 1, 1, 1), {"weight_transport": "ipc"}, "weight_transport='ipc': expected one runner and at most one learner"),
    ((1, 0.5, 2, 0.25), {"weight_transport": "ipc"}, "num_learners=2 on 0.25"),
    ((1, 0.6, 1, 0.6), {"weight_transport": "ipc"}, "on 0.6"),
    ((1, 1, 1, 1), {"weight_transport": "nccl", "engine": "transformers"}, "with engine='transformers'"),
    ((1, 1, 1, 1), {"weight_transport": "nccl", "lora": {"r": 4}}, "'object_store' with lora"),
    ((1, 1, 1, 1), {"tensor_parallel_size": 2}, "tensor_parallel_size=2: expected num_gpus_per_env_runner=1"),
    ((1, 4, 1, 1), {}, "tensor_parallel_size=1: expected num_gpus_per_env_runner=4"),
    ((1, 0.5, 1, 0.5), {"tensor_parallel_size": 2}, "1 on a part of a GPU"),
]


@pytest.mark.parametrize(("where", "llm", "expected"), REFUSED)
def test_what_cannot_work_is_refused(placed, where, llm, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        placed(*where, **llm).validate()


@pytest.mark.parametrize(("sleep", "field"), [(None, "sleep=None"), (True, "sleep=True")])
def test_nobody_sleeps_while_batches_are_sampled_ahead(placed, sleep, field):
    config = placed(1, 0.5, 1, 0.5, sleep=sleep).training(max_staleness=1)
    with pytest.raises(ValueError, match=rf"{field}.*: expected max_staleness=0, got 1.*sleep=False"):
        config.validate()
    config.llm(sleep=False).validate()


def test_one_gpu_is_promised_only_where_nodes_have_one(placed):
    shared = placed(1, 0.5, 1, 0.5)
    preflight.check_shared_gpu(shared, [{"CPU": 8, "GPU": 1}, {"CPU": 8}])
    with pytest.raises(ValueError, match=r"num_gpus_per_env_runner=0\.5 .* a node has 4\. Start Ray with --num-gpus=1"):
        preflight.check_shared_gpu(shared, [{"CPU": 8, "GPU": 4}])
    preflight.check_shared_gpu(placed(1, 1, 1, 1), [{"CPU": 8, "GPU": 4}])
    preflight.check_shared_gpu(shared.llm(weight_transport="object_store"), [{"CPU": 8, "GPU": 4}])


def test_memory_of_a_shared_gpu_counts_both_unless_the_engine_sleeps(placed, random_model):
    config = placed(1, 0.5, 0, 0.5, model=random_model, gpu_memory_utilization=0.5)
    learner, engine = (memory(config, load_structure(config), *a) for memory, *a in MEMORY)
    # vLLM fills up half of the GPU, whatever its weights take of that.
    kept = learner.weights_bytes + learner.optimizer_bytes + learner.reference_bytes
    asleep = shared_gpu_bytes(config, learner, engine)
    assert asleep == (5 * GIB + kept, learner.device_bytes(cpu_offload=False))
    awake = shared_gpu_bytes(config.llm(sleep=False), learner, engine)
    assert awake == (5 * GIB + kept, 5 * GIB + learner.device_bytes(cpu_offload=False))
    assert engine.weights_bytes + engine.kv_cache_bytes + ENGINE_OVERHEAD_BYTES == 5 * GIB


MEMORY = [(learner_memory,), (engine_memory, 10 * GIB)]


def test_a_dry_run_judges_the_shared_gpu_as_one(placed, random_model):
    config = placed(1, 0.5, 0, 0.5, model=random_model, gpu_memory_utilization=0.9)
    text = describe_run(config, 10 * GIB)
    assert "1 x shared GPU 9 GiB of 10: sampling 9, " in text and "the engine sleeps" in text and "TOO" not in text
    assert "1 x shared GPU 10 GiB of 10 (TOO MUCH)" in describe_run(config.llm(gpu_memory_utilization=1.0), 10 * GIB)


# ---- sleep ---------------------------------------------------------------------------------------------------------


ADAPTERS = {"r": 4, "target_modules": "all-linear"}


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["full", "lora"])
def test_a_run_whose_engine_sleeps_is_the_run_whose_engine_does_not(
    ray_session, make_config, weights_of, largest_difference, tmp_path, lora
):
    weights, rewards = [], []
    for sleep in (False, True):
        config = make_config(lr=1e-3, drop_uniform_groups=False).llm(engine="transformers", sleep=sleep, lora=lora)
        config.fault_tolerance(on_bad_numbers="rollback")
        algo = config.evaluation(evaluation_interval=1).build_algo()
        try:
            slept = algo.runners.call(watch_sleep)
            results = [algo.train() for _ in range(2)]
            slept = algo.runners.call(lambda runner: runner.slept)
            rewards.append([(r["reward"]["mean"], r["held_out_accuracy"], r["kl"]["sampler"]) for r in results])
            weights.append(weights_of(algo.learner_group))
            assert max(r["sync"]["max_abs_dlogp"] for r in results) < 1e-4
            assert slept == {1: 2 * sleep}
            if sleep:
                a_rollback_wakes_the_engine_with_the_old_weights(algo, tmp_path)
                an_update_that_fails_leaves_no_engine_asleep(algo)
        finally:
            algo.stop()
    assert rewards[0] == rewards[1]
    assert largest_difference(*weights) == 0


def watch_sleep(runner):
    sleep, runner.slept = runner.engine.sleep, 0

    def counting():
        sleep()
        runner.slept += 1
        # With adapters the others wait in host memory, which here is the device's.
        assert runner.config.lora or all(p.is_meta for p in runner.engine._model.parameters())

    runner.engine.sleep = counting


def a_rollback_wakes_the_engine_with_the_old_weights(algo, folder):
    algo.save_to_path(folder)
    assert algo.train()["health"]["rollbacks"] == 0  # by which the checkpoint has proved good
    algo.learner_group.on_all(poison)
    result = algo.train()
    # Not the entropy: attention on some CPUs turns broken queries into numbers.
    assert result["health"]["rollbacks"] == 1 and np.isnan(result["optim"]["grad_norm"])
    assert result["sync"]["max_abs_dlogp"] < 1e-4 and result["sync"]["weights_version"] == 2
    assert not algo.runners.asleep


def an_update_that_fails_leaves_no_engine_asleep(algo):
    algo.learner_group.on_all(lambda learner: setattr(learner, "update", None))
    with pytest.raises(TypeError):
        algo.training_step()
    assert algo.runners.asleep
    algo.runners.ready()
    (versions,) = algo.runners.call(lambda runner: runner.weights_version).values()
    assert versions == 2
    (groups,) = algo.runners.call(lambda runner: runner.sample(tasks=[(0, 0)])).values()
    assert np.isfinite(groups[0].rollouts[0].sampler_logprobs).all()


@pytest.mark.parametrize("sleep", [None, True, False])
def test_only_a_shared_gpu_makes_engines_sleep_unasked(placed, sleep):
    assert placement.engine_sleeps(placed(1, 0.5, 1, 0.5, sleep=sleep)) is (sleep is not False)
    assert placement.engine_sleeps(placed(1, 1, 1, 1, sleep=sleep)) is (sleep is True)
