"""Advantages, the group filter and the length penalty; the arithmetic stands in the comments."""

import numpy as np
import pytest

from aspo_rllib.advantages import group_advantages, informative_groups, overlong_penalty


def test_group_advantages_by_hand():
    # (1, 0, 0, 1): mean 1/2, deviations 1/2, unbiased variance 4 x 1/4 / 3 = 1/3, std 0.5773503: +-0.8660239.
    # (1, 0, 0, 0): mean 1/4, variance (9/16 + 3/16) / 3 = 1/4, std 1/2: 0.75 / 0.500001 and -0.25 / 0.500001.
    advantages = group_advantages([[1, 0, 0, 1], [1, 0, 0, 0]], normalize_std=True)
    expected = [[0.8660239, -0.8660239, -0.8660239, 0.8660239], [1.499997, -0.499999, -0.499999, -0.499999]]
    np.testing.assert_allclose(advantages, expected, atol=1e-6)
    assert advantages.dtype == np.float32 and advantages.shape == (2, 4)


def test_without_std_only_the_mean_goes():
    # Dr. GRPO: (1, 0, 0, 0) - 1/4
    advantages = group_advantages(np.array([[1.0, 0.0, 0.0, 0.0]]), normalize_std=False)
    assert advantages.tolist() == [[0.75, -0.25, -0.25, -0.25]] and advantages.dtype == np.float32


def test_groups_do_not_mix():
    rewards = np.random.default_rng(0).normal(size=(5, 8))
    together = group_advantages(rewards, normalize_std=True)
    apart = [group_advantages(rewards[i : i + 1], normalize_std=True)[0] for i in range(5)]
    assert np.array_equal(together, apart)
    np.testing.assert_allclose(together.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(together.std(axis=1, ddof=1), 1, atol=1e-5)


@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -0.7, 1 / 3, 1e6])
@pytest.mark.parametrize("group_size", [2, 3, 7, 16])
def test_a_constant_group_is_exactly_zero(reward, group_size, normalize_std):
    # The float mean of three 0.1 is 0.10000000000000002, which / 1e-6 would be no zero.
    advantages = group_advantages(
        [[reward] * group_size, [1.0] + [0.0] * (group_size - 1)], normalize_std=normalize_std
    )
    assert (advantages[0] == 0).all() and not np.signbit(advantages[0]).any()
    assert (advantages[1] != 0).all()


def test_a_group_of_one_has_mean_zero_and_std_one():
    np.testing.assert_allclose(group_advantages([[2.0], [-1.0]], normalize_std=True), [[2.0], [-1.0]], rtol=2e-6)
    assert group_advantages([[2.0], [-1.0]], normalize_std=False).tolist() == [[2.0], [-1.0]]


def test_no_groups_at_all():
    assert group_advantages(np.zeros((0, 4)), normalize_std=True).shape == (0, 4)
    assert informative_groups(np.zeros((0, 4), dtype=bool)).shape == (0,)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0, 0.0], r"rewards must be \[prompts, group_size\], got shape \(2,\)"),
        (np.zeros((3, 0)), r"got shape \(3, 0\)"),
        ([[1.0, 0.0], [np.nan, 1.0]], "rewards must be finite, got nan in group 1"),
        ([[np.inf, 0.0]], "rewards must be finite, got inf in group 0"),
    ],
)
def test_rewards_that_cannot_be_are_named(rewards, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, normalize_std=True)


def test_informative_groups():
    correct = [[True, True], [False, False], [True, False], [False, True]]
    informative = informative_groups(correct)
    assert informative.tolist() == [False, False, True, True] and informative.dtype == bool
    assert informative_groups([[True], [False]]).tolist() == [False, False]


def test_a_truncated_sample_does_not_make_an_all_wrong_group_informative():
    # Rewards (0, 0, -1): shaped, they differ, and the plain wrong answers would get advantage > 0.
    assert (group_advantages([[0.0, 0.0, -1.0]], normalize_std=True)[0, :2] > 0).all()
    assert not informative_groups([[False, False, False]]).any()
    with pytest.raises(ValueError, match=r"correct must be bool .* got float64"):
        informative_groups([[0.0, 0.0, -1.0]])


@pytest.mark.parametrize("correct", [[True, False], [[1, 0]]])
def test_correctness_must_be_a_bool_matrix(correct):
    with pytest.raises(ValueError, match="correct must be bool"):
        informative_groups(correct)


def test_overlong_penalty_by_hand():
    # max 100, buffer 20: free to 80; 85 is a quarter into the buffer, 90 half, 100 all of it; never more.
    penalty = overlong_penalty([0, 79, 80, 85, 90, 100, 140], max_completion_tokens=100, buffer_tokens=20, factor=2.0)
    assert penalty.tolist() == [0.0, 0.0, 0.0, -0.5, -1.0, -2.0, -2.0]
    assert penalty.dtype == np.float32 and not np.signbit(penalty[:3]).any()


def test_overlong_penalty_keeps_the_shape():
    settings = {"max_completion_tokens": 8, "buffer_tokens": 4, "factor": 1.0}
    assert overlong_penalty([[4, 6], [7, 8]], **settings).tolist() == [[0.0, -0.5], [-0.75, -1.0]]
    assert float(overlong_penalty(6, **settings)) == -0.5


def test_overlong_penalty_of_the_papers_run():
    # ASPO: 8192 tokens, buffer 16, factor 1: 8184 is half way.
    penalty = overlong_penalty([8176, 8184, 8192], max_completion_tokens=8192, buffer_tokens=16, factor=1.0)
    assert penalty.tolist() == [0.0, -0.5, -1.0]


def test_buffer_of_zero_is_off_and_of_everything_is_linear():
    settings = {"max_completion_tokens": 10, "factor": 1.0}
    assert overlong_penalty([5, 10, 11], buffer_tokens=0, **settings).tolist() == [0.0, 0.0, 0.0]
    assert overlong_penalty([0, 5, 10], buffer_tokens=10, **settings).tolist() == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_completion_tokens": 0}, "max_completion_tokens must be at least 1, got 0"),
        ({"buffer_tokens": -1}, r"buffer_tokens must be in \[0, 10\], got -1"),
        ({"buffer_tokens": 11}, r"buffer_tokens must be in \[0, 10\], got 11"),
        ({"factor": -0.5}, "factor must be finite and not negative, got -0.5"),
        ({"factor": float("nan")}, "factor must be finite and not negative, got nan"),
        ({"completion_tokens": [3, -2]}, "completion_tokens must not be negative, got -2"),
    ],
)
def test_penalty_settings_out_of_range_are_named(change, message):
    settings = {"completion_tokens": [5], "max_completion_tokens": 10, "buffer_tokens": 4, "factor": 1.0}
    with pytest.raises(ValueError, match=message):
        overlong_penalty(**(settings | change))
