"""Metrics: sums until the very end."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from aspo_rllib.learner.tally import WEIGHT_EDGES, Tally, merge_histograms, merge_updates, tally_frozen, tally_loss
from aspo_rllib.losses import LOSSES, policy_loss
from aspo_rllib.losses import aspo as aspo_weight
from aspo_rllib.rollout.engines.engine import Completion
from aspo_rllib.rollout.group_sampler import GroupRequest, as_rollout
from aspo_rllib.rollout.prompts import Prompt
from aspo_rllib.rollout.stats import repetition, rollout_metrics
from aspo_rllib.types import RolloutGroup, UpdateResult
from envs.grading.pool import Graded


def result(sums=None, maxima=None, values=None):
    return UpdateResult(
        sums=sums or {}, maxima=maxima or {}, values=values or {}, learner_metrics={}, old_logprobs_s=0.0
    )


def test_a_tally_adds_numerators_and_denominators():
    tally = Tally()
    tally.add("x", 3.0, 2)
    tally.add("x", torch.tensor(1.0), torch.tensor(8))
    assert tally.sums() == {"x": (4.0, 10.0)}


def test_a_tally_keeps_the_highest_value():
    tally = Tally()
    for value in (torch.tensor(-3.0), -1.0, -2.0):
        tally.highest("x", value)
    assert tally.maxima() == {"x": -1.0}


def test_merging_is_not_an_average_of_averages():
    # Learner 1: 10 tokens of mean 1; learner 2: 90 of mean 0. Mean 10 / 100 = 0.1; the average of averages is 0.5.
    merged = merge_updates([result(sums={"x": (10.0, 10.0)}), result(sums={"x": (0.0, 90.0)})])
    assert merged == {"x": 0.1}


def test_merging_takes_maxima_and_common_values():
    merged = merge_updates(
        [result(maxima={"m": 2.0}, values={"optim/lr": 0.1}), result(maxima={"m": 5.0}, values={"optim/lr": 0.1})]
    )
    assert merged == {"m": 5.0, "optim/lr": 0.1}


def test_a_maximum_that_only_the_second_learner_has_is_kept():
    # The first learner may have had nothing but empty micro-batches.
    assert merge_updates([result(), result(maxima={"m": 5.0})]) == {"m": 5.0}


def test_a_metric_without_tokens_is_left_out():
    assert merge_updates([result(sums={"ratio/neg_mean": (0.0, 0.0), "x": (1.0, 2.0)})]) == {"x": 0.5}


def test_histograms_are_added_over_micro_batches_and_learners():
    tally = Tally()
    tally.count_weights("weight/pos", torch.tensor([0.0, 0.05, 0.1, 0.11, 1e30]))
    tally.count_weights("weight/pos", torch.tensor([]))
    tally.count_weights("weight/pos", torch.tensor([0.1]))
    counts = tally.histograms()["weight/pos"]
    assert counts[:3].tolist() == [1, 3, 1] and counts[-1] == 1 and counts.sum() == 6
    others = [replace(result(), histograms={"weight/pos": counts}), result()]
    merged = merge_histograms([*others, replace(result(), histograms={"weight/pos": counts, "weight/neg": counts})])
    assert merged["weight/pos"].tolist() == (2 * counts).tolist() and merged["weight/neg"].tolist() == counts.tolist()


def test_loss_metrics_by_hand():
    # Two positive and two negative rows' tokens with chosen ratios; clip 0.2/0.2, cap 3; the last token is padding.
    # Positives r = 1.5 (masked), 1.0 (w 1), 0.25 (1/r = 4, capped at 3); negatives r = 0.5 (masked), 4.0 (capped at 3).
    ratios = torch.tensor([[1.5, 1.0, 0.25], [0.5, 4.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    advantages = torch.tensor([1.0, -1.0])
    # Old probabilities by bucket: 0.05 (0), 0.15 (1), 1.0 (9, the last); 0.15 (1), 0.19 (1).
    old = torch.tensor([[0.05, 0.15, 1.0], [0.15, 0.19, 0.5]]).log()
    logprobs = old + ratios.log()
    out = policy_loss(
        logprobs,
        old,
        advantages,
        mask,
        loss=aspo_weight,
        coefficients=mask / 5,
        clip_low=0.2,
        clip_high=0.2,
        weight_cap=3.0,
    )
    tally = Tally()
    tally_loss(tally, out, logprobs, old, advantages, mask)
    merged = merge_updates([result(tally.sums(), tally.maxima())])
    by_edge = {
        name: {WEIGHT_EDGES[i]: int(n) for i, n in enumerate(counts) if n}
        for name, counts in tally.histograms().items()
    }
    assert by_edge == {"weight/pos": {0.0: 1, 1.0: 1, 3.0: 1}, "weight/neg": {0.0: 1, 3.0: 1}}
    assert merged.pop("ratio/max") == pytest.approx(4.0)  # 9.0 is padding
    # k3 of KL(old || new): r - 1 - log r, with r = new / old.
    kl = sum(r - 1 - math.log(r) for r in (1.5, 1.0, 0.25, 0.5, 4.0)) / 5
    assert merged == {
        "ratio/mean": pytest.approx((1.5 + 1 + 0.25 + 0.5 + 4) / 5),
        "ratio/pos_mean": pytest.approx(2.75 / 3),
        "ratio/neg_mean": pytest.approx(4.5 / 2),
        "weight/pos_mean": pytest.approx((0 + 1 + 3) / 3),
        "weight/neg_mean": pytest.approx((0 + 3) / 2),
        "clip/pos_frac": pytest.approx(1 / 3),
        "clip/neg_frac": pytest.approx(1 / 2),
        "cap/pos_frac": pytest.approx(1 / 3),
        "cap/neg_frac": pytest.approx(1 / 2),
        "kl/old": pytest.approx(kl, rel=1e-5),
        "weight_by_prob/pos/0": 0.0,
        "weight_by_prob/pos/1": pytest.approx(1.0),
        "weight_by_prob/pos/9": 3.0,
        "weight_by_prob/neg/1": pytest.approx((0 + 3) / 2),
    }


@pytest.mark.parametrize(
    ("name", "clipped", "held"),
    [
        # r = 0.5, 1.0, 1.5, 20 with A > 0, then with A < 0; l/h as below, what has no gradient, what is on a bound.
        ("cispo", [0, 0], [3, 3]),  # 0.8/1.28: 0.5 below, 1.5 and 20 above, whatever the sign
        ("gppo", [0, 1], [2, 1]),  # positives above 1.28; negatives below 0.8, and 20 is above the dual clip at 10
        ("aspo", [2, 1], [0, 1]),  # 0.2/0.28: positives above 1.28; negatives below 0.8, and 20 is held at 3
        ("grpo", [2, 2], [0, 0]),
    ],
)
def test_clip_and_cap_count_what_happens(name, clipped, held):
    ratios = torch.tensor([[0.5, 1.0, 1.5, 20.0]] * 2)
    old, mask = torch.full((2, 4), -4.0), torch.ones(2, 4, dtype=torch.bool)
    row, advantages = LOSSES[name], torch.tensor([1.0, -1.0])
    out = policy_loss(
        old + ratios.log(),
        old,
        advantages,
        mask,
        loss=row.token_weight,
        coefficients=mask / 8,
        clip_low=0.2,
        clip_high=0.28,
        weight_cap=row.weight_cap,
    )
    tally = Tally()
    tally_loss(tally, out, old + ratios.log(), old, advantages, mask)
    sums = tally.sums()
    assert [sums[f"clip/{sign}_frac"][0] for sign in ("pos", "neg")] == clipped
    assert [sums[f"cap/{sign}_frac"][0] for sign in ("pos", "neg")] == held


def test_frozen_metrics_ignore_padding():
    mask = torch.tensor([[True, True, False]])
    tally = Tally()
    tally_frozen(
        tally,
        old_logprobs=torch.tensor([[-1.0, -2.0, -50.0]]),
        sampler_logprobs=torch.tensor([[-1.0, -2.5, 0.0]]),
        entropy=torch.tensor([[0.5, 1.5, 99.0]]),
        high_entropy=torch.tensor([[False, True, True]]),
        advantages=torch.tensor([2.0]),
        loss_mask=mask,
    )
    merged = merge_updates([result(tally.sums(), tally.maxima())])
    # The second token: learner - sampler = 0.5, so k3 of KL(sampler || learner) is e^0.5 - 0.5 - 1 = 0.1487213.
    assert merged == {
        "entropy/mean": 1.0,
        "entropy/pos_mean": 1.0,
        "entropy/high_frac": 0.5,
        "kl/sampler": pytest.approx(0.1487213 / 2, abs=1e-6),
        "sampler/max_abs_dlogp": 0.5,
    }


def test_rollout_metrics_by_hand(make_groups):
    right, wrong, mixed = make_groups([[(2, 4), (2, 6)], [(2, 1), (2, 3)], [(2, 8), (2, 8)]])

    def graded(group, verdicts, **changes):
        rollouts = [
            replace(r, correct=v, reward=2.0 * v, **changes) for r, v in zip(group.rollouts, verdicts, strict=True)
        ]
        return replace(group, rollouts=tuple(rollouts))

    groups = [
        graded(right, [True, True]),
        graded(wrong, [False, False], finish_reason="length"),
        graded(mixed, [True, False], info={"grade_status": "timeout", "grade_seconds": 1.5}),
    ]
    metrics = rollout_metrics(groups)
    assert metrics["reward/accuracy"] == 3 / 6 and metrics["reward/mean"] == 6 / 6
    # Rewards 2, 2 | 0, 0 | 2, 0: every one is 1 away from the mean of all; within the groups 0, 0 and 1.
    assert metrics["reward/std"] == 1 and metrics["reward/group_std"] == pytest.approx(1 / 3)
    assert metrics["groups/all_right_frac"] == metrics["groups/all_wrong_frac"] == pytest.approx(1 / 3)
    assert metrics["length/mean"] == (4 + 6 + 1 + 3 + 8 + 8) / 6 and metrics["length/max"] == 8
    assert metrics["length/truncated_frac"] == pytest.approx(2 / 6)
    assert metrics["length/finished_mean"] == (4 + 6 + 8 + 8) / 4 and metrics["length/truncated_mean"] == (1 + 3) / 2
    assert "length/truncated_mean" not in rollout_metrics(groups[:1])
    assert metrics["grader/timeouts"] == 2 and metrics["grader/seconds"] == 3.0


def test_rollout_metrics_of_rewards_without_verdicts(make_groups):
    graded, judged = make_groups([[(2, 4), (2, 6)], [(2, 1), (2, 3)]])
    without = replace(graded, rollouts=tuple(replace(r, correct=None) for r in graded.rollouts))
    metrics = rollout_metrics([without])
    assert metrics["reward/mean"] == 0.5
    assert not [name for name in metrics if "accuracy" in name or name.startswith("groups/")]
    # A completion whose grading timed out has the verdict of the pool; the env still gives none.
    partly = replace(without, rollouts=(replace(without.rollouts[0], correct=False), without.rollouts[1]))
    assert "reward/accuracy" not in rollout_metrics([partly])
    # In a mixture, the sets that have verdicts are counted.
    named = [
        replace(g, rollouts=tuple(replace(r, info={"set": name}) for r in g.rollouts))
        for name, g in (("style", without), ("math", judged))
    ]
    metrics = rollout_metrics(named)
    assert metrics["reward/accuracy"] == metrics["reward/math/accuracy"] == 0.5
    assert "reward/style/accuracy" not in metrics and metrics["groups/all_wrong_frac"] == 0


def test_repetition_by_hand():
    words = [f"w{i}" for i in range(20)]
    assert repetition(" ".join(words)) == 0.0  # one 20-gram
    assert repetition(" ".join(words[:19])) == 0.0  # none
    # 40 words, the same 20 twice: 21 windows of 20 words, of which the last repeats the first: 1 - 20/21.
    assert repetition(" ".join(words * 2)) == pytest.approx(1 / 21)
    # 24 times the same word: 5 equal windows: 1 - 1/5.
    assert repetition("again " * 24) == pytest.approx(4 / 5)
    assert repetition("") == 0.0


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 1000])
def test_repetition_counts_windows_of_words(vocabulary):
    words = np.random.default_rng(0).integers(0, vocabulary, 500).astype(str).tolist()
    words = [*words[:200], *words[100:300]]  # a passage of 100 words once more
    windows = [tuple(words[i : i + 20]) for i in range(len(words) - 19)]
    assert repetition(" ".join(words)) == pytest.approx(1 - len(set(windows)) / len(windows))


def test_the_runner_counts_the_repetition_of_a_rollout(make_config):
    text = "again " * 24  # 5 equal windows
    completion = Completion("0/0", np.arange(3, dtype=np.int32), np.zeros(3, np.float32), "stop")
    prompt = Prompt("?", np.arange(2, dtype=np.int32), {})
    request = GroupRequest(0, 7, prompt, make_config(), pool=None, weights_version=1)
    rollout = as_rollout(request, completion, text, Graded("?", 1.0, {"correct": True}))
    assert rollout.repetition_frac == pytest.approx(4 / 5)
    assert rollout_metrics([RolloutGroup(0, 7, "?", (rollout,))])["repetition/frac"] == pytest.approx(4 / 5)


# ---- what an env may give ----------------------------------------------------------------------------------------


def rollout_of(make_config, reward, info):
    completion = Completion("0/0", np.array([5, 2], np.int32), np.array([-0.5, -1.0], np.float32), "stop")
    config = make_config().environment("mine:graded-v0")
    request = GroupRequest(0, 17, Prompt("?", np.array([1], np.int32), {}), config, None, weights_version=1)
    return as_rollout(request, completion, "no", Graded("?", reward, info))


@pytest.mark.parametrize(
    ("info", "correct"),
    [({}, None), ({"correct": None}, None), ({"correct": np.True_}, True), ({"correct": 0}, False)],
)
@pytest.mark.parametrize("reward", [0.2, -1.0, 0.0, 1e38])
def test_the_verdict_is_the_envs_and_is_not_guessed_from_the_reward(make_config, reward, info, correct):
    rollout = rollout_of(make_config, reward, info)
    assert rollout.correct is correct and rollout.reward == reward


@pytest.mark.parametrize("reward", [1e39, -1e39, 3.5e38, np.inf, -np.inf, np.nan])
def test_a_reward_that_float32_cannot_hold_is_an_error_with_env_task_and_value(make_config, reward):
    with pytest.raises(
        ValueError, match=rf"env 'mine:graded-v0' gave task 17 the reward {re.escape(repr(float(reward)))}: expected"
    ):
        rollout_of(make_config, float(reward), {})
