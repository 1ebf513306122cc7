"""From groups to optimizer steps: nothing lost, nothing twice, everyone equally busy."""

import numpy as np
import pytest

from aspo_rllib.learner.batching import (
    balance_by_tokens,
    build_train_batches,
    cut_microbatches,
    cut_to_count,
    split_minibatches,
)
from aspo_rllib.model.layouts import LAYOUTS, rollouts_of_one_prompt

UNEVEN = [[(4, 3), (4, 17), (4, 8)], [(6, 30), (6, 1), (6, 12)], [(2, 5), (2, 5), (2, 29)], [(9, 2), (9, 9), (9, 4)]]


@pytest.fixture
def build(make_groups):
    """TrainBatches of `lengths`; the advantage of rollout g of group p is 10 p + g, which tells them all apart."""

    def build(lengths, *, num_learners, minibatch_prompts=2, max_tokens=40, **layout):
        groups = make_groups(lengths)
        advantages = [np.array([10 * p + g for g in range(len(group))], float) for p, group in enumerate(lengths)]
        return groups, build_train_batches(
            groups,
            advantages,
            num_learners=num_learners,
            minibatch_prompts=minibatch_prompts,
            max_tokens_per_microbatch=max_tokens,
            **layout,
        )

    return build


def trained_rows(batch, step):
    return [int(row) for rows in batch.minibatches[step].microbatches for row in rows]


@pytest.mark.parametrize(
    ("num_prompts", "minibatch_prompts", "sizes"),
    [
        (64, 16, [16, 16, 16, 16]),
        (9, 4, [3, 3, 3]),  # not 4, 4, 1
        (10, 4, [4, 3, 3]),
        (5, 4, [3, 2]),
        (4, 4, [4]),
        (3, 4, [3]),
        (1, 1, [1]),
    ],
)
def test_minibatches_differ_by_at_most_one_prompt(num_prompts, minibatch_prompts, sizes):
    steps = split_minibatches(num_prompts, minibatch_prompts)
    assert [len(s) for s in steps] == sizes
    assert np.concatenate(steps).tolist() == list(range(num_prompts))


@pytest.mark.parametrize("num_learners", [0, 1, 2, 3, 5])
def test_every_rollout_is_trained_once_per_epoch_by_one_learner(build, num_learners):
    _, batches = build(UNEVEN, num_learners=num_learners)
    assert len(batches) == max(1, num_learners)
    for step, prompts in enumerate([(0, 1), (2, 3)]):
        trained = [b.advantages[row] for b in batches for row in trained_rows(b, step)]
        assert sorted(trained) == [10 * p + g for p in prompts for g in range(3)]


def test_a_row_keeps_its_own_tokens_logprobs_and_advantage(build):
    groups, batches = build(UNEVEN, num_learners=2)
    for batch in batches:
        for row, advantage in enumerate(batch.advantages):
            rollout = groups[int(advantage) // 10].rollouts[int(advantage) % 10]
            assert batch.prompt_ids[row] is rollout.prompt_ids
            assert batch.completion_ids[row] is rollout.completion_ids
            assert batch.sampler_logprobs[row] is rollout.sampler_logprobs


def test_learners_get_equal_tokens_by_hand():
    # Longest first, each to the emptier side: 9 | 8, then 7 -> 8+7, 6 -> 9+6, 5 -> first of two 15s, 4 -> 15+4.
    shares = balance_by_tokens([9, 8, 7, 6, 5, 4], 2)
    assert shares == [[0, 3, 4], [1, 2, 5]]  # 9+6+5 = 20 tokens and 8+7+4 = 19


def test_token_loads_differ_by_at_most_one_rollout():
    lengths = np.random.default_rng(0).integers(10, 1000, 256).tolist()
    loads = [sum(lengths[i] for i in share) for share in balance_by_tokens(lengths, 8)]
    assert max(loads) - min(loads) <= max(lengths)
    assert max(loads) < 1.01 * sum(lengths) / 8  # longest-first leaves the small ones to even things out


def test_equal_lengths_give_equal_counts():
    assert [len(s) for s in balance_by_tokens([7] * 12, 4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("max_tokens", [1, 20, 33, 64, 10_000])
def test_a_microbatch_stays_within_its_padded_budget(max_tokens):
    lengths = [7, 30, 13, 13, 20, 1, 5, 33, 2]
    cuts = cut_microbatches(lengths, max_tokens)
    assert sorted(i for rows in cuts for i in rows) == list(range(len(lengths)))
    for rows in cuts:
        padded = len(rows) * max(lengths[i] for i in rows)
        assert padded <= max_tokens or len(rows) == 1


def test_microbatches_by_hand():
    # Budget 40: 30 alone (2 x 30 > 40), 20 + 13 (2 x 20), then 13 + 7 + 5 (3 x 13 = 39), 2.
    assert cut_microbatches([7, 30, 13, 13, 20, 5, 2], 40) == [[1], [4, 2], [3, 0, 5], [6]]


def test_missing_microbatches_come_from_the_largest_one():
    # 5 rows -> 2 + 3, and the 3 -> 1 + 2.
    assert cut_to_count([[0, 1, 2, 3, 4], [5]], 4) == [[0, 1], [2], [3, 4], [5]]
    assert cut_to_count([[0, 1], [2]], 2) == [[0, 1], [2]]


def test_a_learner_with_too_few_rollouts_gets_empty_microbatches():
    assert cut_to_count([[0], [1]], 4) == [[0], [1], [], []]
    assert cut_to_count([], 2) == [[], []]


@pytest.mark.parametrize("max_tokens", [10, 40, 100, 10_000])
@pytest.mark.parametrize("num_learners", [1, 2, 3, 7])
def test_all_learners_run_equally_many_microbatches(build, num_learners, max_tokens):
    # 6 rollouts per step: with 7 learners one of them has none at all.
    _, batches = build(UNEVEN, num_learners=num_learners, max_tokens=max_tokens)
    for step in range(2):
        counts = {len(b.minibatches[step].microbatches) for b in batches}
        assert len(counts) == 1 and counts.pop() >= 1


def test_a_long_rollout_forces_its_count_on_a_learner_with_fewer_rollouts(build):
    # Learner 0 gets the rollout of 101 tokens alone, learner 1 four of 11, which the budget of 11 cuts into four.
    lengths = [[(1, 100), (1, 10), (1, 10), (1, 10), (1, 10)]]
    _, (first, second) = build(lengths, num_learners=2, max_tokens=11)
    assert [len(m) for m in first.minibatches[0].microbatches] == [1, 0, 0, 0]
    assert [len(m) for m in second.minibatches[0].microbatches] == [1, 1, 1, 1]


def test_fewer_rollouts_than_learners_leaves_a_learner_without_rows(build):
    _, batches = build([[(3, 5), (3, 6)]], num_learners=3)
    assert sorted(len(b) for b in batches) == [0, 1, 1]
    assert [len(b.minibatches) for b in batches] == [1, 1, 1]


def test_rollouts_of_one_prompt_by_hand(make_groups):
    # With their prompt of 4 once: 4 + 3 + 17 = 24, and with the 8 it would be 32; 4 + 8 = 12; then 4 + 30 > 30 alone.
    (group,) = make_groups([[(4, 3), (4, 17), (4, 8), (4, 30)]])
    assert rollouts_of_one_prompt(group.rollouts, 30) == [[0, 1], [2], [3]]
    assert rollouts_of_one_prompt(group.rollouts, 62) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("num_learners", [1, 2, 5])
def test_rollouts_of_one_prompt_stay_with_one_learner_and_within_the_budget(build, num_learners):
    _, batches = build(UNEVEN, num_learners=num_learners, layout=LAYOUTS["shared"], max_tokens=60)
    for step, prompts in enumerate([(0, 1), (2, 3)]):
        learners = [{int(b.advantages[row]) // 10 for row in trained_rows(b, step)} for b in batches]
        assert sorted(p for found in learners for p in found) == list(prompts)
        trained = sorted(int(b.advantages[row]) for b in batches for row in trained_rows(b, step))
        assert trained == [10 * p + g for p in prompts for g in range(3)]
        for batch in batches:
            for rows in batch.minibatches[step].microbatches:
                prompt_tokens = {int(batch.advantages[r]) // 10: len(batch.prompt_ids[r]) for r in rows}
                assert sum(prompt_tokens.values()) + sum(len(batch.completion_ids[r]) for r in rows) <= 60


@pytest.mark.parametrize("num_learners", [1, 2, 5])
def test_denominators_are_those_of_the_whole_step(build, num_learners):
    # Completion tokens: 3 + 17 + 8 + 30 + 1 + 12 = 71, then 5 + 5 + 29 + 2 + 9 + 4 = 54; 6 rollouts each.
    _, batches = build(UNEVEN, num_learners=num_learners)
    for batch in batches:
        assert [m.num_loss_tokens for m in batch.minibatches] == [71, 54]
        assert [m.num_sequences for m in batch.minibatches] == [6, 6]
