"""What the sampler hands to the grader, and what becomes of rewards that are no numbers."""

from functools import partial

import numpy as np
import pytest
import torch
from grading_envs import OddRewards
from transformers import AutoTokenizer

from aspo_rllib import TINY_MODEL
from aspo_rllib.rollout import stats
from aspo_rllib.rollout.engines.engine import Completion
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.group_sampler import GroupRequest, GroupSampler
from aspo_rllib.rollout.prompts import PromptEncoder
from envs.grading.pool import GradingPool, ungraded


@pytest.fixture(scope="module")
def thinking_tokenizer():
    """The bundled model's tokenizer, with tokens for thoughts that are declared special."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<tool>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("text", "ends", "expected"),
    [
        ("<think>41</think>7", True, "<think>41</think>7"),
        ("<think>41</think>", True, "<think>41</think>"),
        ("<think>41", False, "<think>41"),
        ("<tool>1</think>2<tool>", False, "<tool>1</think>2<tool>"),
        ("7", True, "7"),
        ("", True, ""),
    ],
)
def test_only_the_end_token_is_hidden_from_the_grader(thinking_tokenizer, text, ends, expected):
    tokenizer, end = thinking_tokenizer, thinking_tokenizer.eos_token_id
    sampler = GroupSampler(None, tokenizer, [end], base_seed=0)
    ids = tokenizer.encode(text, add_special_tokens=False) + [end] * ends
    completion = Completion("r", np.array(ids), np.zeros(len(ids)), "stop" if ends else "length")
    assert sampler._text(completion) == expected


def test_an_end_token_within_the_completion_stays(thinking_tokenizer):
    """Some models have several, and the run's stop tokens are only some of them."""
    tokenizer, end = thinking_tokenizer, thinking_tokenizer.eos_token_id
    sampler = GroupSampler(None, tokenizer, [tokenizer.convert_tokens_to_ids("<tool>")], base_seed=0)
    ids = [*tokenizer.encode("7", add_special_tokens=False), end, tokenizer.convert_tokens_to_ids("<tool>")]
    completion = Completion("r", np.array(ids), np.zeros(len(ids)), "stop")
    assert sampler._text(completion) == "7" + tokenizer.eos_token


REWARDS = {
    "nan": float("nan"),
    "none": None,
    "inf": float("inf"),
    "-inf": -np.inf,
    "str": "1.0",
    "array": np.array([1.0, 0.0]),
    "numpy nan": np.float32("nan"),
    "tensor nan": torch.tensor(float("nan")),
    "huge": 10**400,
}
FINE = {"int": 1, "bool": True, "numpy": np.float32(0.5), "array of one": np.array(0.25), "tensor": torch.tensor(2.0)}


@pytest.fixture
def graded():
    """`graded(reward)`: the verdict on task 3 of an env with this reward."""
    pools = []

    def grade(reward):
        pools.append(GradingPool(partial(OddRewards, reward), 1, 60.0))
        pools[-1].submit("key", 3, "7")
        ((_, verdict),) = pools[-1].collect(60.0)
        return verdict

    yield grade
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("kind", REWARDS)
def test_a_reward_that_is_no_finite_number_names_env_task_and_value(graded, kind):
    verdict = graded(REWARDS[kind])
    assert ungraded(verdict) and verdict.reward == 0.0
    assert verdict.info["grade_error"] == (
        f"the reward of OddRewards for task 3 is {REWARDS[kind]!r}; expected a finite number"
    )


@pytest.mark.parametrize("kind", FINE)
def test_numbers_of_other_libraries_are_rewards(graded, kind):
    verdict = graded(FINE[kind])
    assert not ungraded(verdict) and verdict.reward == float(FINE[kind])


def test_such_rollouts_are_dropped_and_counted(make_config):
    pool = GradingPool(partial(OddRewards, float("nan"), every=2), 1, 60.0)
    engine = TransformersEngine(TINY_MODEL, dtype="float32", max_model_len=40, max_num_seqs=8, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    sampler = GroupSampler(engine, tokenizer, [tokenizer.eos_token_id], base_seed=0)
    prompt = PromptEncoder(OddRewards(0.0), tokenizer).encode(3)
    (future,) = sampler.start([GroupRequest(0, 3, prompt, make_config(), pool, weights_version=0)])
    while sampler.busy:
        sampler.step()
    group = future.result()
    pool.close()
    assert (len(group.rollouts), group.num_ungraded, group.num_nonfinite) == (4, 4, 0)
    with pytest.warns(UserWarning, match="the reward of OddRewards for task 3 is nan"):
        assert stats.failure_metrics([group]) == {"grader/errors": 4, "sampler/nonfinite": 0}
