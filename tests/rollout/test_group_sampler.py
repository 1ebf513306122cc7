"""What the sampler hands to the grader, and what becomes of rewards that are no numbers."""

from functools import partial

import numpy as np
import pytest
import torch
from grading_envs import NamedRewards, OddRewards
from transformers import AutoTokenizer

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.rollout import stats
from aspo_rllib.rollout.engines.engine import Completion
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.group_sampler import GroupRequest, GroupSampler
from aspo_rllib.rollout.prompts import PromptEncoder, prompts_of
from aspo_rllib.rollout.rewards import rewards_of
from envs.grading.pool import Graded, GradingPool, ungraded


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


# ---- named rewards -----------------------------------------------------------------------------------------------


def weighted(rewards, weights, status="ok", **settings):
    config = ASPOConfig().environment("mine:graded-v0").sampling(reward_weights=weights)
    graded = Graded("7+7=", 3.0, {"grade_status": status, **({"rewards": rewards} if rewards else {})})
    return rewards_of(graded, config.copy() if not settings else config.copy().update_from_dict(settings), 17)


def test_the_weighted_sum_of_the_rewards_is_the_reward():
    # 2 * 1 + 0.1 * 5 - 1 * 0.5 = 2; a reward that does not apply counts nothing.
    rewards = {"correct": 1.0, "format": 5.0, "length": 0.5}
    weights = {"correct": 2, "format": 0.1, "length": -1}
    assert weighted(rewards, weights) == (pytest.approx(2.0), rewards)
    assert weighted(rewards | {"format": None}, weights)[0] == pytest.approx(1.5)
    assert weighted(rewards, None) == (3.0, rewards)  # the env's own
    assert weighted({}, None) == (3.0, {})


def test_a_grading_that_took_too_long_has_nothing_in_every_reward():
    assert weighted({}, {"correct": 1, "format": 2}, "timeout") == (0.0, {"correct": 0.0, "format": 0.0})
    assert weighted({}, None, "timeout") == (3.0, {})


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ({"correct": 1.0}, {"correct": 1, "fromat": 1}, "'mine:graded-v0' has no reward 'fromat'"),
        ({"correct": 1.0, "length": 0.0}, {"correct": 1}, "has a reward 'length' without a weight"),
        ({}, {"correct": 1}, "has no reward 'correct'"),
        ({"correct": 1e39}, {"correct": 1}, "gave task 17 the reward 1e\\+39"),
        ({"correct": 1e39}, {"correct": 0}, "gave task 17 the reward 'correct' 1e\\+39"),
        ({"correct": 1e30}, {"correct": 1e30}, "gave task 17 the reward 1.0*1e"),
    ],
)
def test_rewards_that_do_not_fit_their_weights_name_the_env(rewards, weights, message):
    with pytest.raises(ValueError, match=message):
        weighted(rewards, weights)


def test_an_evaluation_of_an_env_without_names_has_its_own_reward():
    assert weighted({}, {"correct": 1}, in_evaluation=True) == (3.0, {})


def test_names_that_the_env_knows_are_checked_before_anything_starts(tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    env_config = {"data": str(data), "rewards": ["reward_examples:length_reward"], "cache_dir": str(tmp_path)}
    config = ASPOConfig().environment("aspo/Math-v0", env_config=env_config).llm(model=TINY_MODEL)
    config.sampling(reward_weights={"correct": 1, "lenght_reward": 0.1}).training(batch_prompts=1)
    with pytest.raises(ValueError, match="the env 'aspo/Math-v0' has no reward 'lenght_reward'; expected a weight for"):
        prompts_of(config, AutoTokenizer.from_pretrained(TINY_MODEL))


def of_components(components):
    pool = GradingPool(partial(NamedRewards, components), 1, 60.0)
    pool.submit("key", 3, "7")
    try:
        ((_, verdict),) = pool.collect(60.0)
    finally:
        pool.close()
    return verdict


def test_named_rewards_arrive_as_numbers():
    verdict = of_components({"format": np.float32(0.5), "length": torch.tensor(2.0), "other": None})
    assert verdict.info["rewards"] == {"format": 0.5, "length": 2.0, "other": None}
    assert {type(value) for value in verdict.info["rewards"].values()} == {float, type(None)}


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ({"format": float("nan")}, "the reward 'format' of NamedRewards for task 3 is nan; expected a finite number"),
        ({"format": None, "length": None}, "all rewards of NamedRewards for task 3 are None"),
    ],
)
def test_named_rewards_that_are_no_numbers_drop_the_rollout(components, message):
    verdict = of_components(components)
    assert ungraded(verdict) and verdict.info["grade_error"].startswith(message)


@pytest.mark.parametrize(
    ("components", "message"), [([1.0], "expected a dict of names"), ({"mean": 1}, "'mean' is not")]
)
def test_named_rewards_without_names_end_the_run(components, message):
    with pytest.raises(RuntimeError, match=message):
        of_components(components)
