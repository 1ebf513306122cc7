"""What only GPUs can show: memory that a sleeping engine gives back, and weights by CUDA IPC and NCCL. Not run yet."""

import pytest
import torch

from aspo_rllib import TINY_MODEL
from aspo_rllib.model.policy import load_policy
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GIB = 1 << 30


def free_bytes():
    return torch.cuda.mem_get_info()[0]


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": "all-linear"}], ids=["full", "lora"])
def test_a_sleeping_engine_gives_its_memory_back(lora):
    engine = VLLMEngine(
        TINY_MODEL,
        dtype="bfloat16",
        max_model_len=64,
        max_num_seqs=4,
        seed=0,
        kv_cache_memory_bytes=2 * GIB,
        gpu_memory_utilization=0.5,
        tensor_parallel_size=1,
        can_sleep=True,
        lora=lora,
    )
    awake = free_bytes()
    engine.sleep()
    assert free_bytes() > awake + 1.9 * GIB
    policy = load_policy(TINY_MODEL, lora=lora)
    if lora is None:
        engine.load_weights([(name, tensor.bfloat16()) for name, tensor in full_weights(policy).items()])
    else:
        from aspo_rllib.model.lora import adapter_weights

        adapters = adapter_weights(policy.hf_model)
        engine.load_adapters([(name, tensor.bfloat16()) for name, tensor in adapters.items()])
    assert abs(free_bytes() - awake) < 0.1 * GIB
    engine.close()


@pytest.mark.parametrize(
    ("gpus", "num_learners", "transport"), [(0.5, 0, "ipc"), (0.5, 1, "ipc"), (1, 1, "nccl")], ids=str
)
def test_weights_arrive_by_gpu_transports(ray_session, make_config, gpus, num_learners, transport):
    if (torch.cuda.device_count() == 1) != (transport == "ipc"):
        pytest.skip("CUDA IPC wants one GPU, NCCL two")
    config = make_config().llm(dtype="bfloat16", gpu_memory_utilization=0.3)
    config.env_runners(num_gpus_per_env_runner=gpus).learners(num_learners=num_learners, num_gpus_per_learner=gpus)
    algo = config.build_algo()
    try:
        assert f"weights by {'CUDA IPC' if transport == 'ipc' else 'NCCL'}" in config.plan()
        for version in (1, 2):
            result = algo.train()
            assert result["sync"]["max_abs_dlogp"] < 0.2
            assert result["sync"]["weights_version"] == version
    finally:
        algo.stop()
