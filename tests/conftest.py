"""What the tests of several folders share: Ray, a small random model, makers of rollouts, configs and learners."""

import os
import time
from pathlib import Path

# Before torch, ray and vLLM: read at import, and inherited by Ray's workers, which also have to find test modules.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
# The repository comes first: the folder tests/envs must not be taken for the package envs.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [
        str(Path(__file__).parents[1]),
        *sorted({str(path.parent) for path in Path(__file__).parent.rglob("test_*.py")}),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
)

import numpy as np
import pytest
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from sandboxes import PATIENT, STRICT, is_missing
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.run.start_ray import start_ray
from aspo_rllib.types import Rollout, RolloutGroup
from aspo_rllib.weights import object_store
from envs.grading.code.grader import CodeGrader
from envs.grading.sandbox.backends import BACKENDS
from envs.text_env import TextSpace

VOCAB = 300


def pytest_collection_modifyitems(items):
    """Start the longest file first: with `--dist loadfile` a process would otherwise be left with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_learning.py")


def pytest_runtest_setup(item):
    """Skip slow tests that would start after SLOW_TESTS_UNTIL, in seconds since 1970, where a machine is too slow."""
    until = float(os.environ.get("SLOW_TESTS_UNTIL", "inf"))
    if item.get_closest_marker("slow") and time.time() > until:
        pytest.skip("SLOW_TESTS_UNTIL has passed")


@pytest.fixture(scope="session")
def ray_session():
    """A Ray of our own, whatever else runs on this machine."""
    torch.set_num_threads(1)
    start_ray(
        "local",
        num_cpus=8,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=1 << 29,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """Folder of a random 2-layer Qwen3 with tied embeddings and the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("random_model")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_groups():
    """`make_groups([[(3, 5), (3, 9)], ...])`: groups of random rollouts with these prompt and completion lengths."""

    def make(lengths, *, seed=0):
        rng = np.random.default_rng(seed)

        def ids(n):
            return rng.integers(0, VOCAB, n).astype(np.int32)

        return [
            RolloutGroup(
                position=position,
                index=100 + position,
                prompt=f"prompt {position}",
                rollouts=tuple(
                    Rollout(
                        prompt_ids=ids(p),
                        completion_ids=ids(c),
                        sampler_logprobs=-rng.random(c).astype(np.float32),
                        finish_reason="stop",
                        completion="",
                        reward=float(g % 2),
                        correct=bool(g % 2),
                        weights_version=0,
                    )
                    for g, (p, c) in enumerate(group)
                ),
            )
            for position, group in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def make_config():
    """A config of the bundled model on 3-digit sums, small enough for one iteration in a second."""

    def make(config_class=ASPOConfig, **training):
        settings = {"batch_prompts": 4, "minibatch_prompts": 2, "num_epochs": 2, "lr": 1e-4, "kl_coef": 0.0}
        return (
            config_class()
            .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
            .llm(model=TINY_MODEL, max_prompt_tokens=32)
            .sampling(group_size=8, max_completion_tokens=8)
            .training(**(settings | training))
            .evaluation(evaluation_duration=8, evaluation_config={"env_config": {"split": "test"}})
            .debugging(seed=0)
        )

    return make


@pytest.fixture
def build_learners(ray_session, make_config, random_model):
    """`build_learners(num_learners=2, aggregation="token", ...)`: a learner group over the random model."""
    built = []

    def build(num_learners=0, temperature=1.0, dtype="float32", lora=None, model=random_model, **training):
        settings = {"weight_decay": 0.0, "lr": 1e-3, "num_epochs": 1} | training
        config = make_config(**settings).llm(model=model, dtype=dtype, lora=lora).sampling(temperature=temperature)
        config.learners(num_learners=num_learners).validate()
        group = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
        built.append(group)
        return group

    yield build
    for group in built:
        group.shutdown()


@pytest.fixture(scope="session")
def weights_of():
    """`weights_of(learner_group)`: name -> a copy of each whole tensor."""

    def weights(learner_group):
        return {name: tensor.clone() for name, tensor in object_store.fetch(learner_group.weights())}

    return weights


@pytest.fixture(scope="session")
def largest_difference():
    """Between two dicts of weights with the same names."""

    def difference(a, b):
        assert a.keys() == b.keys()
        return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)

    return difference


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name, scope="module")
def backend(request):
    """Each way to confine programs that this machine has."""
    if is_missing(request.param):
        pytest.skip(f"{request.param.name} does not work on this machine")
    return request.param


@pytest.fixture(scope="module")
def patient(backend):
    """A grader for right programs."""
    with CodeGrader(PATIENT, backends=[backend]) as grader:
        yield grader


@pytest.fixture(scope="module")
def strict(backend):
    """A grader for programs that are to run into a limit."""
    with CodeGrader(STRICT, backends=[backend]) as grader:
        yield grader
