"""The length penalty, and a batch's advantages by the config's settings; the arithmetic stands in the comments."""

from dataclasses import replace

import numpy as np
import pytest

from aspo_rllib import ASPOConfig
from aspo_rllib.learner.shaping import by_position, groups_to_train, mask_truncated, overlong_penalty, take_advantages
from aspo_rllib.rollout.stats import rollout_metrics


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


def test_advantages_of_a_batch_by_the_settings(make_groups):
    # Completions of 6 and 8 tokens, at most 8, buffer 4: penalties 0.5 and 1, which the rewards of both groups carry.
    groups = make_groups([[(3, 6), (3, 8)], [(3, 4), (3, 4)]])
    rewards = [[r.reward for r in group.rollouts] for group in groups]
    config = ASPOConfig().sampling(max_completion_tokens=8).training(loss="dr_grpo", overlong_buffer_tokens=4)
    first, second = take_advantages(groups, config)
    shaped = np.array(rewards[0]) - [0.5, 1.0]
    np.testing.assert_allclose(first, shaped - shaped.mean())
    np.testing.assert_allclose(second, np.array(rewards[1]) - np.mean(rewards[1]))
    assert first.dtype == np.float32


def cut(group, places):
    """The group with the completions at these places cut by length."""
    rollouts = [replace(r, finish_reason="length") if i in places else r for i, r in enumerate(group.rollouts)]
    return replace(group, rollouts=tuple(rollouts))


def test_truncated_completions_are_masked_after_the_baseline_or_dropped_before(make_groups):
    # Rewards (0, 1, 0, 1); the last is cut. Baseline of all 1/2: what is masked is left out of (-1/2, 1/2, -1/2, 1/2).
    # Dropped before: rewards (0, 1, 0), baseline 1/3.
    groups = [cut(group, {3}) for group in make_groups([[(3, 6)] * 4])]
    config = ASPOConfig().training(loss="dr_grpo", truncated="mask")
    kept = groups_to_train(groups, config)
    (group,), (advantages,) = mask_truncated(kept, take_advantages(kept, config))
    assert advantages.tolist() == [-0.5, 0.5, -0.5] and group.rollouts == groups[0].rollouts[:3]
    dropped = groups_to_train(groups, config.training(truncated="drop"))
    (advantages,) = take_advantages(dropped, config)
    np.testing.assert_allclose(advantages, [-1 / 3, 2 / 3, -1 / 3], rtol=1e-6)
    shown = by_position(groups, dropped, [advantages])[0]
    np.testing.assert_allclose(shown, [-1 / 3, 2 / 3, -1 / 3, np.nan], rtol=1e-6)
    assert groups_to_train(groups, config.training(truncated="keep")) == groups


@pytest.mark.parametrize("drop_uniform_groups", [True, False])
def test_groups_of_which_nothing_is_left_are_left_out(make_groups, drop_uniform_groups):
    config = ASPOConfig().training(truncated="drop", drop_uniform_groups=drop_uniform_groups)
    whole, gone, right = make_groups([[(3, 6)] * 2] * 3)
    groups = [whole, cut(gone, {0, 1}), cut(right, {0})]  # the third keeps one completion, which is right
    kept = [g.position for g in groups_to_train(groups, config)]
    assert kept == ([0] if drop_uniform_groups else [0, 2])
    assert mask_truncated([cut(gone, {0, 1})], [np.zeros(2, np.float32)]) == ([], [])


def named(group, *rewards):
    """The group with these named rewards, and their sum as the reward."""
    return replace(
        group,
        rollouts=tuple(
            replace(r, rewards=of, reward=sum(v for v in of.values() if v is not None))
            for r, of in zip(group.rollouts, rewards, strict=True)
        ),
    )


def test_gdpo_takes_the_named_rewards_with_their_weights(make_groups):
    """Both rewards standardised by themselves, in their weights; then the batch by its mean and std."""
    (group,) = make_groups([[(3, 6)] * 4])
    right, form = np.array([1.0, 0, 0, 0]), np.array([0, 2.0, 0, 2.0])
    group = named(group, *({"correct": r, "format": f} for r, f in zip(right, form, strict=True)))
    config = ASPOConfig().training(advantage="gdpo").sampling(reward_weights={"format": 0.1, "correct": 1})
    (advantages,) = take_advantages([group], config)
    summed = (right - 0.25) / (0.5 + 1e-6) + 0.1 * (form - 1) / ((4 / 3) ** 0.5 + 1e-6)
    np.testing.assert_allclose(advantages, (summed - summed.mean()) / (summed.std(ddof=1) + 1e-4), rtol=1e-5)
    # Without weights each counts 1; other methods take the reward, whatever its components.
    (equal,) = take_advantages([group], config.copy().sampling(reward_weights=None))
    summed = (right - 0.25) / (0.5 + 1e-6) + (form - 1) / ((4 / 3) ** 0.5 + 1e-6)
    np.testing.assert_allclose(equal, (summed - summed.mean()) / (summed.std(ddof=1) + 1e-4), rtol=1e-5)
    (plain,) = take_advantages([group], config.copy().training(advantage="dr_grpo"))
    np.testing.assert_allclose(plain, right + form - 1.25, rtol=1e-6)


def test_a_reward_that_does_not_apply_has_no_part_in_gdpo(make_groups):
    # The second reward applies to two completions, which it tells apart; the first to all, and it is constant.
    (group,) = make_groups([[(3, 6)] * 3])
    group = named(group, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": None}, {"a": 1.0, "b": 4.0})
    (advantages,) = take_advantages([group], ASPOConfig().training(advantage="gdpo"))
    np.testing.assert_allclose(advantages, [-1, 0, 1], atol=1e-3)
    # One completion alone has nothing to be compared with.
    group = named(group, {"a": 1.0, "b": None}, {"a": 1.0, "b": None}, {"a": 1.0, "b": 4.0})
    (advantages,) = take_advantages([group], ASPOConfig().training(advantage="gdpo"))
    assert advantages.tolist() == [0, 0, 0]


def test_named_rewards_make_an_all_wrong_group_informative(make_groups):
    (group,) = make_groups([[(3, 6)] * 2])
    wrong = replace(group, rollouts=tuple(replace(r, correct=False) for r in group.rollouts))
    assert named(wrong, {"correct": 0.0, "format": 1.0}, {"correct": 0.0, "format": 0.0}).is_informative
    assert not named(wrong, {"correct": 0.0, "format": 1.0}, {"correct": 0.0, "format": 1.0}).is_informative
    assert named(wrong, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 0.0}).is_informative  # though the sums are equal
    assert not named(wrong, {"correct": 0.0}, {"correct": 0.5}).is_informative  # one name: the verdicts decide


def test_a_completion_without_names_has_nothing_in_each(make_groups):
    (group,) = make_groups([[(3, 6)] * 3])
    group = named(group, {}, {"a": 1.0, "b": None}, {"a": 3.0, "b": 0.5})
    assert group.reward_columns() == {"a": [0.0, 1.0, 3.0], "b": [0.0, None, 0.5]}
    metrics = rollout_metrics([group])
    assert metrics["reward/a/mean"] == pytest.approx(4 / 3) and metrics["reward/b/mean"] == 0.25
