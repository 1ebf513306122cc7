"""What a dry run says is what a run has: memory against measurements on CPU, resources against a real cluster."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from aspo_rllib.doctor import resources
from aspo_rllib.doctor.dry_run import GIB, describe_run
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.memory import engine_memory, learner_memory, load_structure, microbatch_tokens
from aspo_rllib.learner.reference import ModelReference
from aspo_rllib.model.layers import recompute_layers
from aspo_rllib.model.packing import pack_rows, share_prompts
from aspo_rllib.model.policy import load_policy

# ---- resources ------------------------------------------------------------------------------------------------------

RUNNERS = [{"CPU": 1.0}, *[{"CPU": 8.0, "GPU": 1.0}] * 4, *[{"GPU": 1.0}] * 4]


@pytest.mark.parametrize(
    ("bundles", "nodes", "expected"),
    [
        (RUNNERS, [{"CPU": 64.0, "GPU": 8.0, "memory": 1e12}], None),
        (RUNNERS, [{"CPU": 17.0, "GPU": 4.0}, {"CPU": 17.0, "GPU": 4.0}], None),
        (RUNNERS, [{"CPU": 64.0}], "asks for 8 GPUs, the cluster has 0"),
        (RUNNERS, [{"CPU": 64.0, "GPU": 4.0}], "asks for 8 GPUs, the cluster has 4"),
        (RUNNERS, [{"CPU": 2.0}], "asks for 33 CPUs, the cluster has 2; asks for 8 GPUs, the cluster has 0"),
        (RUNNERS, [], "asks for 33 CPUs, the cluster has 0; asks for 8 GPUs, the cluster has 0"),
        ([{"CPU": 1.0, "GPU": 0.5}], [{"CPU": 2.0, "GPU": 1.0}], None),
        ([{"GPU": 1.0}], [{"GPU": 0.5}], "asks for 1 GPU, the cluster has 0.5"),
        ([{"node:a": 1.0}], [{"CPU": 2.0}], "asks for 1 node:a, the cluster has 0"),
        # Enough in all, but in the wrong places.
        ([{"CPU": 4.0}], [{"CPU": 2.0}] * 2, "asks for 1 x 4 CPU on one node each, the cluster can hold 0"),
        (
            [{"CPU": 1.0, "GPU": 2.0}] * 3,
            [{"CPU": 8.0, "GPU": 3.0}] * 2,
            "asks for 3 x 1 CPU + 2 GPU on one node each, the cluster can hold 2",
        ),
    ],
)
def test_shortage(bundles, nodes, expected):
    assert resources.shortage(bundles, nodes) == expected


@pytest.mark.parametrize(
    ("num_learners", "expected"),
    [
        (0, [{"CPU": 1, "GPU": 0.5}, {"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}]),
        (2, [{"CPU": 1}, {"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}, {"GPU": 0.5}, {"GPU": 0.5}]),
    ],
)
def test_a_run_asks_for_what_its_actors_take(make_config, num_learners, expected):
    config = make_config().env_runners(num_env_runners=2, num_cpus_per_env_runner=2, num_gpus_per_env_runner=1)
    assert resources.asked_bundles(config.learners(num_learners=num_learners, num_gpus_per_learner=0.5)) == expected


def test_a_run_without_its_gpus_is_refused(ray_session):
    resources.require_resources([{"CPU": 8.0}])
    with pytest.raises(RuntimeError, match="asks for 1 GPU, the cluster has 0"):
        resources.require_resources([{"CPU": 1.0, "GPU": 1.0}])
    with pytest.raises(RuntimeError, match="asks for 9 CPUs, the cluster has 8"):
        resources.require_resources([{"CPU": 1.0}] * 9, wait_s=1.5)


# ---- memory of a learner --------------------------------------------------------------------------------------------


def measured_state(learner) -> dict[str, int]:
    """Bytes of what a learner holds between two steps."""

    def num_bytes(tensors):
        local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
        return sum(t.numel() * t.element_size() for t in local)

    moments = [state[name] for state in learner.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    reference = learner.reference
    kept = reference._model.parameters() if isinstance(reference, ModelReference) else reference.tensors().values()
    return {
        "weights_bytes": num_bytes(learner.policy.parameters()),
        "optimizer_bytes": num_bytes(moments),
        "gradients_bytes": num_bytes(p.grad for p in learner.policy.parameters() if p.requires_grad),
        "reference_bytes": num_bytes(kept),
    }


@pytest.mark.parametrize(
    ("num_learners", "lora"),
    [
        (0, None),
        (0, {"r": 4, "target_modules": "all-linear"}),
        pytest.param(2, None, marks=pytest.mark.slow),
    ],
)
def test_weights_optimizer_gradients_and_reference_are_exact(
    build_learners, make_config, random_model, num_learners, lora, make_groups
):
    groups = make_groups([[(3, 5), (3, 9)], [(4, 6), (4, 7)]])
    settings = {"kl_coef": 0.001, "max_tokens_per_microbatch": 64}
    learners = build_learners(num_learners, lora=lora, **settings)
    advantages = [np.array([1.0, -1.0])] * len(groups)
    batches = build_train_batches(
        groups, advantages, num_learners=num_learners, minibatch_prompts=2, max_tokens_per_microbatch=64
    )
    learners.update(**({"batches": batches} if num_learners else {"batch": batches[0]}))
    measured = learners.on_all(measured_state)[0]

    config = make_config(**settings).llm(model=random_model, lora=lora).learners(num_learners=num_learners)
    estimate = learner_memory(config, load_structure(config))
    assert {name: getattr(estimate, name) for name in measured} == measured
    assert all(measured.values())


@pytest.fixture(scope="module", params=[Qwen3Config, LlamaConfig], ids=["qwen3", "llama"])
def wide_model(request, tmp_path_factory):
    """Folder of a random model whose activations outweigh everything else."""
    folder = tmp_path_factory.mktemp("wide_model")
    config = request.param(
        vocab_size=2000,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def test_the_copies_of_shared_prompts_are_counted(make_config, wide_model):
    """Two groups of eight, whose prompts attention copies: 0.7 to 1.5 times what a CPU allocates."""
    estimates = {}
    for layout in ("packed", "shared"):
        config = make_config(layout=layout, max_tokens_per_microbatch=2048).llm(model=wide_model, max_prompt_tokens=512)
        config.sampling(group_size=8, max_completion_tokens=64)
        estimates[layout] = learner_memory(config, load_structure(config))

    policy = load_policy(wide_model)
    prompts = [np.full(512, i // 8) for i in range(16)]
    batch = share_prompts(prompts, [np.zeros(64, int)] * 16, "cpu")
    assert batch.input_ids.numel() == 2048

    def forward_and_backward():
        policy(batch)[0].sum().backward()

    forward_and_backward()
    estimate = estimates["shared"]
    expected = estimate.activations_bytes + estimate.logprobs_bytes + estimate.copies_bytes
    peak = measured_peak(forward_and_backward)
    print(f"estimate / measured: {expected / peak:.2f}")
    assert 0.7 < expected / peak < 1.5
    # 16 x 576 - 2,048 more tokens in 6 layers, of queries (4 x 32), keys and values (2 x 32 each), output, one more.
    more = estimate.activations_bytes - estimates["packed"].activations_bytes
    assert more > 6 * (16 * 576 - 2048) * (2 * 4 * 32 + 2 * 2 * 32) * 4


def measured_peak(run) -> int:
    """Bytes that `run` has allocated at once, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(np.cumsum([e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())]).max())


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_peak_of_forward_and_backward_is_near(make_config, wide_model, dtype, gradient_checkpointing):
    """Within 0.7 to 1.5 times what a CPU allocates, for one packed row of four rollouts."""
    config = make_config(max_tokens_per_microbatch=2048).llm(
        model=wide_model, dtype=dtype, gradient_checkpointing=gradient_checkpointing, max_prompt_tokens=16
    )
    config.sampling(max_completion_tokens=496)
    assert microbatch_tokens(config) == 2048
    estimate = learner_memory(config, load_structure(config))

    policy = load_policy(wide_model)
    if gradient_checkpointing:
        recompute_layers(policy.hf_model)
    batch = pack_rows([np.zeros(16, int)] * 4, [np.zeros(496, int)] * 4, "cpu")

    def forward_and_backward():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logprobs, _ = policy(batch)
        logprobs.sum().backward()

    forward_and_backward()  # from here on there are gradients to add to
    peak = measured_peak(forward_and_backward)
    expected = estimate.activations_bytes + estimate.logprobs_bytes + estimate.copies_bytes
    print(f"estimate / measured: {expected / peak:.2f}")
    assert 0.7 < expected / peak < 1.5


def test_sharding_offloading_and_checkpointing_take_less(make_config, random_model):
    def memory(num_learners, **llm):
        config = make_config(kl_coef=0.001).llm(model=random_model, **llm).learners(num_learners=num_learners)
        return config, learner_memory(config, load_structure(config))

    _, one = memory(1)
    _, four = memory(4)
    assert four.weights_bytes == pytest.approx(one.weights_bytes / 4, rel=0.01)
    config, offloaded = memory(4, cpu_offload=True)
    state = sum(getattr(four, f"{name}_bytes") for name in ("weights", "optimizer", "gradients", "reference"))
    assert offloaded.device_bytes(config.cpu_offload) == four.device_bytes(False) - state
    assert memory(1, gradient_checkpointing=True)[1].activations_bytes < one.activations_bytes


# ---- memory of an engine --------------------------------------------------------------------------------------------


def test_the_kv_cache_is_what_is_left(make_config, random_model):
    config = make_config().llm(model=random_model, dtype="bfloat16", gpu_memory_utilization=0.5)
    policy = load_structure(config)
    on_cpu = engine_memory(config, policy, 0)
    # Keys and values of 2 layers x 2 heads x 8 numbers x 2 bytes; 256 MiB of them unless the config says otherwise.
    assert (on_cpu.kv_bytes_per_token, on_cpu.kv_tokens) == (128, (256 << 20) // 128)
    assert on_cpu.weights_bytes == 2 * sum(p.numel() for p in policy.parameters())

    on_gpu = engine_memory(config.env_runners(num_gpus_per_env_runner=1), policy, 10 * GIB)
    assert on_gpu.kv_cache_bytes == 5 * GIB - 2 * GIB - on_gpu.weights_bytes
    assert engine_memory(config, policy, 1 * GIB).kv_tokens == 0
    assert engine_memory(config.llm(tensor_parallel_size=2), policy, 10 * GIB).kv_bytes_per_token == 64
    assert engine_memory(config.llm(kv_cache_memory_bytes=6400), policy, 0).kv_tokens == 100


# ---- what people read -----------------------------------------------------------------------------------------------


def test_the_description(make_config, random_model):
    config = make_config().llm(model=random_model).env_runners(num_env_runners=2, num_gpus_per_env_runner=1)
    text = describe_run(config, 1 * GIB)
    plan, memory = text.split("\nmemory")
    assert plan == config.plan()
    num_parameters = sum(p.numel() for p in load_structure(config).parameters())
    assert f"{num_parameters:,} parameters" in memory
    assert "1 x learner" in memory and "of host memory" in memory
    assert "2 x engine" in memory and "TOO SMALL for one rollout of 40 tokens" in memory
    assert text.endswith("resources  3 CPU + 2 GPU, as 1 x (1 CPU), 2 x (1 CPU + 1 GPU)")

    roomy = describe_run(config.llm(gpu_memory_utilization=0.9), 24 * GIB)
    assert "of the longest rollouts at once" in roomy and "TOO" not in roomy


def test_a_config_that_is_not_valid_is_refused(make_config):
    with pytest.raises(ValueError, match="group_size=0"):
        describe_run(make_config().sampling(group_size=0), GIB)
