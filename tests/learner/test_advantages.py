"""The family of advantages, and which groups teach something; the arithmetic stands in the comments."""

from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest

from aspo_rllib.learner.advantages import (
    ADVANTAGES,
    Advantage,
    batch_advantages,
    group_advantages,
    grpo,
    pass_at_k,
    resolve_advantage,
    whiten_completions,
    whiten_tokens,
)

BY_GROUP = [name for name, row in ADVANTAGES.items() if row.of_batch is None]


def of_group(name, rewards, **kwargs):
    return group_advantages(ADVANTAGES[name], rewards, **kwargs)


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        # grpo. Mean 1/2, deviations 1/2, unbiased variance 4 x 1/4 / 3 = 1/3, std 0.5773503: +-0.8660239.
        ("grpo", [1, 0, 0, 1], [0.8660239, -0.8660239, -0.8660239, 0.8660239]),
        # Mean 1/4, variance (9/16 + 3/16) / 3 = 1/4, std 1/2: 0.75 / 0.500001 and -0.25 / 0.500001.
        ("grpo", [1, 0, 0, 0], [1.499997, -0.499999, -0.499999, -0.499999]),
        ("dr_grpo", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ("dr_grpo", [0.9, 0.2, 0.1], [0.5, -0.2, -0.3]),  # mean 0.4
        # rloo. 1 - 0; 0 - 1/3.
        ("rloo", [1, 0, 0, 0], [1, -1 / 3, -1 / 3, -1 / 3]),
        ("rloo", [0.9, 0.2, 0.1], [0.75, -0.3, -0.45]),  # 0.9 - 0.15, 0.2 - 0.5, 0.1 - 0.55
        # maxrl. Mean 1/4: 0.75 / 0.250001, -0.25 / 0.250001: the rarer a success, the more it counts.
        ("maxrl", [1, 0, 0, 0], [2.999988, -0.999996, -0.999996, -0.999996]),
        ("maxrl", [1, 1, 1, 0], [0.3333329, 0.3333329, 0.3333329, -0.9999987]),
        ("maxrl", [0, 0, 0], [0, 0, 0]),
        # pass_at_k, k = 4 of 4: the one set of all; without the first it has no success: 4 x 1 / C(3, 3).
        ("pass_at_k", [1, 0, 0, 0], [4, 0, 0, 0]),
        ("pass_at_k", [1, 1, 0, 0], [0, 0, 0, 0]),  # either one is enough
        # k = 4 of 5, two right: with one of them, the three others of its set must be the wrong ones: 1 of C(4, 3) = 4.
        ("pass_at_k", [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]),
        # gdpo and reinforce_plus_plus before the batch has its part.
        ("gdpo", [1, 0, 0, 0], [1.499997, -0.499999, -0.499999, -0.499999]),
        ("reinforce_plus_plus", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
    ],
)
def test_a_group_by_hand(name, rewards, expected):
    np.testing.assert_allclose(of_group(name, rewards), expected, atol=1e-6)


def test_every_method_has_a_group_by_hand_and_a_source():
    (mark,) = test_a_group_by_hand.pytestmark
    assert {case[0] for case in mark.args[1]} == set(ADVANTAGES)
    assert all("arXiv 2" in row.source for row in ADVANTAGES.values())


@pytest.mark.parametrize("k", [2, 3, 4, 6])
@pytest.mark.parametrize("rewards", [[1, 0, 0, 1, 0, 0, 0], [0.3, 0.9, -0.4, 0.9, 0.0, 0.5, 0.2]])
def test_pass_at_k_is_the_gain_over_all_subsets(k, rewards):
    advantages = pass_at_k(np.array(rewards, dtype=float), k=k)
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        bests = [max(subset) for subset in combinations(others, k - 1)]
        assert advantages[i] == pytest.approx(k * np.mean([max(reward - best, 0) for best in bests]))


def test_pass_at_k_estimates_the_gradient_of_the_expected_best():
    # Bernoulli(p), k = 2: E[best] = 1 - (1 - p)^2, slope 2 (1 - p). The estimate is the mean of A d log prob / d p,
    # with d log prob / d p = 1 / p for a success and -1 / (1 - p) for a failure, over all outcomes of 4 draws.
    p, total = 0.3, 0.0
    for outcome in np.ndindex(2, 2, 2, 2):
        draws = np.array(outcome, dtype=float)
        probability = np.prod(np.where(draws == 1, p, 1 - p))
        score = np.where(draws == 1, 1 / p, -1 / (1 - p))
        total += probability * np.mean(pass_at_k(draws, k=2) * score)
    assert total == pytest.approx(2 * (1 - p))


def test_pass_at_k_needs_a_comparison():
    with pytest.raises(ValueError, match="pass_at_k: expected k >= 2, got 1"):
        pass_at_k(np.array([1.0, 0.0]), k=1)
    assert pass_at_k(np.array([1.0, 0.0, 0.0]), k=8).tolist() == [3.0, 0.0, 0.0]  # counts as k = 3


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match=r"'maxrl' .* rewards >= 0, got -0.5; an overlong penalty"):
        of_group("maxrl", [1.0, 0.0], penalties=[0.0, -0.5])


def test_gdpo_normalises_every_component_by_itself():
    # "correct" (1, 0, 0, 0) as above; "format" (1, 1, 0, 0) is +-0.8660239; weights 1 and 0.1. The sum of the raw
    # rewards would have given the second completion a tenth of what it gets here.
    components = [[1, 1], [0, 1], [0, 0], [0, 0]]
    expected = [1.499997 + 0.0866024, -0.499999 + 0.0866024, -0.499999 - 0.0866024, -0.499999 - 0.0866024]
    np.testing.assert_allclose(of_group("gdpo", components, weights=[1, 0.1]), expected, atol=1e-6)
    # A component on which all agree adds nothing.
    same = [[1, 1], [0, 1], [0, 1], [0, 1]]
    np.testing.assert_allclose(of_group("gdpo", same, weights=[1, 5]), of_group("grpo", [1, 0, 0, 0]))
    # The length penalty is a component of its own.
    shaped = of_group("gdpo", [1, 0, 0, 0], penalties=[0, 0, 0, -1])
    np.testing.assert_allclose(shaped, of_group("grpo", [1, 0, 0, 0]) + of_group("grpo", [0, 0, 0, -1]))


@pytest.mark.parametrize("name", [name for name, row in ADVANTAGES.items() if not row.by_component])
def test_other_methods_take_the_weighted_sum(name):
    components, weights = [[1, 1], [0, 1], [0, 0], [1, 0]], [1, 0.5]
    np.testing.assert_allclose(of_group(name, components, weights=weights), of_group(name, [1.5, 0.5, 0, 1]))


def test_whitening_by_tokens_by_hand():
    # A = 1 on 1 token, -1 on 3: mean -0.5, deviations 1.5 and -0.5: variance (2.25 + 0.75) / 3 = 1.
    (whitened,) = whiten_tokens([np.array([1.0, -1.0])], [np.array([1, 3])])
    np.testing.assert_allclose(whitened, [1.5, -0.5], rtol=1e-7)


def test_whitening_by_completions_by_hand():
    # (2, 0), (1, 1): mean 1, variance (1 + 1) / 3, std 0.8164966: +-1 / 0.8165966.
    first, second = whiten_completions([np.array([2.0, 0.0]), np.array([1.0, 1.0])], [])
    np.testing.assert_allclose(first, [1.2245948, -1.2245948], atol=1e-6)
    assert second.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_batch_keeps_its_groups(name):
    rewards = [[1.0, 0.0, 0.0, 1.0], [1.0, 0.0], [0.0, 1.0, 1.0]]
    tokens = [[3, 9, 1, 2], [7, 7], [5, 1, 4]]
    groups = [of_group(name, r) for r in rewards]
    batch = batch_advantages(ADVANTAGES[name], groups, tokens)
    assert [len(a) for a in batch] == [4, 2, 3] and all(a.dtype == np.float32 for a in batch)
    if name in BY_GROUP:
        for a, group in zip(batch, groups, strict=True):
            np.testing.assert_allclose(a, group, rtol=1e-6)
    elif name == "gdpo":
        values = np.concatenate(batch)
        np.testing.assert_allclose((values.mean(), values.std(ddof=1)), (0, 1), atol=1e-3)
    else:
        values, weights = np.concatenate(batch), np.concatenate(tokens)
        np.testing.assert_allclose(np.average(values, weights=weights), 0, atol=1e-6)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_batch_without_differences_or_without_groups_is_no_error(name):
    row = ADVANTAGES[name]
    groups = [of_group(name, [1.0, 1.0]), of_group(name, [0.0, 0.0, 0.0])]
    assert all((a == 0).all() for a in batch_advantages(row, groups, [[1, 2], [3, 4, 5]]))
    assert batch_advantages(row, [], []) == []


def test_a_group_is_standardised():
    advantages = of_group("grpo", np.random.default_rng(0).normal(size=8))
    np.testing.assert_allclose((advantages.mean(), advantages.std(ddof=1)), (0, 1), atol=1e-5)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.7, 1 / 3, 1e6])
@pytest.mark.parametrize("group_size", [2, 3, 7, 16])
def test_a_constant_group_is_exactly_zero(reward, group_size, name):
    # The float mean of three 0.1 is 0.10000000000000002, which / 1e-6 would be no zero.
    if name == "maxrl" and reward < 0:
        return
    advantages = of_group(name, [reward] * group_size)
    assert (advantages == 0).all() and not np.signbit(advantages).any()


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("reward", [2.0, 0.5])
def test_a_group_of_one_has_its_bare_reward(reward, name):
    np.testing.assert_allclose(of_group(name, [reward]), [reward], rtol=2e-6)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([[[1.0, 0.0]]], r"rewards must be \[group_size\] or .*, got shape \(1, 1, 2\)"),
        ([], r"got shape \(0,\)"),
        ([1.0, np.nan], "rewards must be finite, got nan"),
        ([-np.inf, 0.0], "rewards must be finite, got -inf"),
    ],
)
@pytest.mark.parametrize("name", ADVANTAGES)
def test_rewards_that_cannot_be_are_named(rewards, message, name):
    with pytest.raises(ValueError, match=message):
        of_group(name, rewards)


def test_an_advantage_may_be_a_name_a_row_or_a_function():
    def median(rewards):
        return rewards - np.median(rewards)

    assert resolve_advantage("rloo") is ADVANTAGES["rloo"]
    own = Advantage(median, whiten_completions)
    assert resolve_advantage(own) is own
    assert group_advantages(resolve_advantage(median), [3.0, 0.0, 1.0]).tolist() == [2.0, -1.0, 0.0]
    best_of_two = resolve_advantage(partial(pass_at_k, k=2))
    assert group_advantages(best_of_two, [1.0, 0.0, 0.0]).tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [("maxlr", "unknown advantage 'maxlr'. Did you mean 'maxrl'"), (3, "unknown advantage 3"), (None, "Known:")],
)
def test_unknown_advantages_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        resolve_advantage(value)


@pytest.mark.parametrize("wrong", [lambda r: r.mean(), lambda r: r[:-1], lambda r: r / 0.0, lambda r: [None] * len(r)])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_an_own_function_gives_is_checked(wrong):
    with pytest.raises(ValueError, match="must give 3 finite numbers"):
        group_advantages(resolve_advantage(wrong), [1.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("correct", "is_informative"),
    [
        ([True, True], False),
        ([False, False], False),
        ([True, False], True),
        ([False, True, True], True),
        ([True], False),
        ([], False),
    ],
)
def test_a_group_teaches_something_if_its_verdicts_differ(make_groups, correct, is_informative):
    (group,) = make_groups([[(3, 2)] * len(correct)])
    rollouts = tuple(replace(r, correct=verdict) for r, verdict in zip(group.rollouts, correct, strict=True))
    assert replace(group, rollouts=rollouts).is_informative is is_informative


@pytest.mark.parametrize(
    ("rewards", "is_informative"),
    [
        ([0.2, 0.9], True),
        ([-1.0, -0.5, -1.0], True),
        ([0.0, 1e-9], True),
        ([0.7, 0.7], False),
        ([-1.0, -1.0, -1.0], False),
        ([0.5], False),
    ],
)
@pytest.mark.parametrize("timed_out", [False, True])
def test_without_verdicts_a_group_teaches_something_if_its_rewards_differ(
    make_groups, rewards, is_informative, timed_out
):
    (group,) = make_groups([[(3, 2)] * len(rewards)])
    rollouts = [replace(r, correct=None, reward=reward) for r, reward in zip(group.rollouts, rewards, strict=True)]
    if timed_out and len(rollouts) > 1:
        rollouts[0] = replace(rollouts[0], correct=False)  # what the pool says of a grading that timed out
    assert replace(group, rollouts=tuple(rollouts)).is_informative is is_informative


def test_a_truncated_sample_does_not_make_an_all_wrong_group_informative(make_groups):
    # Rewards (0, 0, -1): shaped, they differ, and the plain wrong answers would get advantage > 0.
    assert (grpo(np.array([0.0, 0.0, -1.0]))[:2] > 0).all()
    (group,) = make_groups([[(3, 2)] * 3])
    rollouts = [replace(r, correct=False, reward=reward) for r, reward in zip(group.rollouts, (0, 0, -1), strict=True)]
    assert not replace(group, rollouts=tuple(rollouts)).is_informative
