"""What a learner does about a GPU that is too small for its largest micro-batch. CPUs only: the sizes are given."""

import re

import pytest

from aspo_rllib.learner.memory import learner_memory, load_structure
from aspo_rllib.learner.memory_fit import CONTEXT_BYTES, USABLE_FRAC, learner_gpu_bytes, recomputes_layers


@pytest.fixture
def config(make_config, random_model):
    config = make_config(minibatch_prompts=64, max_tokens_per_microbatch=8192, kl_coef=0.0)
    config.llm(model=random_model, max_prompt_tokens=128).sampling(max_completion_tokens=384)
    return config.learners(num_learners=0, num_gpus_per_learner=1)


def gpu_for(config, recomputed: bool, tokens: int | None = None) -> int:
    """The smallest GPU that the estimate finds large enough."""
    memory = learner_memory(config, load_structure(config), recomputed=recomputed, tokens=tokens)
    return int(memory.device_bytes(config.cpu_offload) / USABLE_FRAC) + CONTEXT_BYTES + 1


def test_layers_are_recomputed_only_where_the_micro_batch_does_not_fit_otherwise(config):
    plain, recomputed = gpu_for(config, False), gpu_for(config, True)
    assert recomputed < plain
    assert not recomputes_layers(config, plain)
    assert recomputes_layers(config, plain - 4096)
    assert recomputes_layers(config, recomputed)
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=8192"):
        recomputes_layers(config, recomputed - 4096)


def test_what_the_user_has_chosen_stays(config):
    assert recomputes_layers(config.copy().llm(gradient_checkpointing=True), gpu_for(config, False))
    with pytest.raises(ValueError, match="with gradient_checkpointing=False"):
        recomputes_layers(config.copy().llm(gradient_checkpointing=False), gpu_for(config, True))


@pytest.mark.parametrize("chosen", [None, True, False])
def test_on_a_cpu_nothing_is_estimated(config, chosen):
    assert recomputes_layers(config.llm(gradient_checkpointing=chosen), None) == bool(chosen)


def test_the_refusal_names_the_largest_micro_batch_that_fits(config):
    gpu_bytes = gpu_for(config, True, tokens=3000)
    with pytest.raises(ValueError, match="The largest that fits is") as refused:
        recomputes_layers(config, gpu_bytes)
    largest = int(re.search(r"max_tokens_per_microbatch=(\d+)\.$", str(refused.value))[1])
    assert largest == pytest.approx(3000, rel=0.02)
    assert recomputes_layers(config.copy().training(max_tokens_per_microbatch=largest), gpu_bytes)
    with pytest.raises(ValueError, match="The largest that fits is"):
        recomputes_layers(config.copy().training(max_tokens_per_microbatch=int(largest * 1.1)), gpu_bytes)


def test_where_not_even_one_rollout_fits_the_refusal_says_so(config):
    with pytest.raises(ValueError, match=r"Even one rollout of .* = 512 tokens needs"):
        recomputes_layers(config, gpu_for(config, True, tokens=512) - 4096)


def test_what_an_engine_leaves_of_a_shared_gpu(config):
    config.env_runners(num_env_runners=1, num_gpus_per_env_runner=0.5).learners(num_gpus_per_learner=0.5)
    config.llm(gpu_memory_utilization=0.4)
    gib = 1 << 30
    assert learner_gpu_bytes(config, 80 * gib) == 76 * gib  # the engine sleeps
    assert learner_gpu_bytes(config.llm(sleep=False), 80 * gib) == pytest.approx(47 * gib)
    config.env_runners(num_env_runners=2)  # shares with nobody of this run: half of a GPU
    assert learner_gpu_bytes(config, 80 * gib) == 39 * gib
