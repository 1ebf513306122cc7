"""The numbers of an evaluation, each by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from aspo_rllib.evaluate.scores import majority, pass_at_k, scores, standard_error


def prompt(index, verdicts, extracted=None, **columns):
    """Rows of one prompt: 1 for a right completion, 0 for a wrong one."""
    rest = {"num_tokens": 1, "finish_reason": "stop", "repetition": 0.0, "data_source": None, "difficulty": None}
    rest["rewards"] = None
    answers = extracted or ["7" if verdict else "8" for verdict in verdicts]
    return [
        {**rest, "index": index, "correct": bool(verdict), "extracted": answer, **columns}
        for verdict, answer in zip(verdicts, answers, strict=True)
    ]


def test_accuracy_is_the_mean_over_prompts_with_its_standard_error():
    # Per prompt 1/2, 0, 1: mean 1/2; std (ddof 1) of [.5, 0, 1] = 0.5, so the error is 0.5 / sqrt(3).
    results = scores(prompt(5, [1, 0]) + prompt(6, [0, 0]) + prompt(9, [1, 1]))
    assert results["accuracy"] == results["avg_at_2"] == pytest.approx(0.5)
    assert results["avg_at_2_se"] == pytest.approx(0.5 / 3**0.5)
    assert results["num_prompts"] == 3


def test_rewards_without_verdicts_have_a_mean_and_no_accuracy():
    # Per prompt (0.2 + 0.9) / 2 = 0.55 and -0.5; mean 0.025; std (ddof 1) 1.05 / sqrt(2), over sqrt(2): 0.525.
    rows = [
        row | {"correct": None, "reward": reward}
        for row, reward in zip(prompt(0, [1, 0]) + prompt(1, [1, 0]), [0.2, 0.9, -0.5, -0.5], strict=True)
    ]
    results = scores(rows)
    assert results["reward_mean"] == pytest.approx(0.025) and results["reward_mean_se"] == pytest.approx(0.525)
    assert results["num_prompts"] == 2 and results["length_mean"] == 1.0
    assert not [name for name in results if "accuracy" in name or "_at_" in name or "pass_rate" in name]


def test_pass_at_powers_of_two_and_at_k():
    results = scores(prompt(0, [1, 0, 0, 0, 0, 0]) + prompt(1, [0, 0, 1, 1, 0, 1]))
    # 1 of 6 right: a subset of j holds it with j/6. 3 of 6 right: 1 - C(3,2)/C(6,2) = 4/5; no 4 are all wrong.
    assert [name for name in results if name.startswith("pass_at_") and "_se" not in name] == [
        "pass_at_1",
        "pass_at_2",
        "pass_at_4",
        "pass_at_6",
    ]
    assert results["pass_at_1"] == pytest.approx((1 / 6 + 3 / 6) / 2) == results["accuracy"]
    assert results["pass_at_2"] == pytest.approx((2 / 6 + 4 / 5) / 2)
    assert results["pass_at_4"] == pytest.approx((4 / 6 + 1) / 2)
    assert results["pass_at_6"] == pytest.approx(1)
    # Two values a and b: std (ddof 1) is |a - b| / sqrt(2), over sqrt(2): |a - b| / 2.
    assert results["pass_at_2_se"] == pytest.approx((4 / 5 - 2 / 6) / 2)
    assert results["pass_at_6_se"] == pytest.approx(0)


@pytest.mark.parametrize(("k", "names"), [(1, ["1"]), (2, ["1", "2"]), (3, ["1", "2", "3"]), (8, ["1", "2", "4", "8"])])
def test_every_k_is_there_once(k, names):
    results = scores(prompt(0, [1] * k))
    assert [name for name in results if name.startswith("pass_at_")] == [
        f"pass_at_{j}{e}" for j in names for e in ("", "_se")
    ]


@pytest.mark.parametrize(
    ("extracted", "correct", "expected"),
    [
        (["7", "7", "8"], [1, 1, 0], 1.0),
        (["7", "8", "8"], [1, 0, 0], 0.0),
        (["8", "7"], [0, 1], 0.5),  # a tie: either answer, by lot
        (["7", "8"], [1, 0], 0.5),  # in any order
        (["7", "8", "9", "7", "8", "9"], [1, 0, 0, 1, 0, 0], 1 / 3),
        (["7", None, None, None], [1, 0, 0, 0], 1.0),  # who gives no answer does not vote
        ([None, None], [0, 0], 0.0),
        (["7 ", "7", "8"], [1, 1, 0], 1.0),
        (["7", "7", "8"], [1, 0, 1], 0.5),  # a grader that looked at more than the answer
    ],
)
def test_the_majority_votes(extracted, correct, expected):
    assert majority(extracted, [bool(c) for c in correct]) == pytest.approx(expected)


def test_maj_at_k_is_the_mean_of_the_majorities():
    # 1, 0 and a tie of 1/2: mean 1/2; std (ddof 1) of [1, 0, .5] = 0.5.
    results = scores(
        prompt(0, [1, 1, 0, 0], ["7", "7", "8", None])
        + prompt(1, [1, 0, 0, 0], ["7", "8", "8", "8"])
        + prompt(2, [1, 0, 0, 0], ["7", "8", None, None])
    )
    assert results["maj_at_4"] == pytest.approx(0.5) and results["maj_at_4_se"] == pytest.approx(0.5 / 3**0.5)


def test_there_is_no_majority_where_nothing_is_extracted():
    results = scores(prompt(0, [1, 1], [None, None]))
    assert math.isnan(results["maj_at_2"]) and results["accuracy"] == 1
    # But a single answer in the whole evaluation makes silence count as wrong.
    results = scores(prompt(0, [0, 0], [None, None]) + prompt(1, [1, 0], ["7", None]))
    assert results["maj_at_2"] == 0.5


def test_accuracy_by_source_and_difficulty():
    results = scores(
        prompt(0, [1, 1], data_source="openai/gsm8k", difficulty="1")
        + prompt(1, [1, 0], data_source="openai/gsm8k", difficulty="5")
        + prompt(2, [0, 0], data_source="aime", difficulty="5")
    )
    assert {name: value for name, value in results.items() if name.startswith(("by_source", "by_difficulty"))} == {
        "by_source/openai_gsm8k/accuracy": 0.75,
        "by_source/openai_gsm8k/num_prompts": 2,
        "by_source/aime/accuracy": 0,
        "by_source/aime/num_prompts": 1,
        "by_difficulty/1/accuracy": 1,
        "by_difficulty/1/num_prompts": 1,
        "by_difficulty/5/accuracy": 0.25,
        "by_difficulty/5/num_prompts": 2,
    }


def test_prompts_by_pass_rate():
    # Of 8: 0 | 1/8 and 2/8 | 3/8 and 6/8 | 7/8 | 8/8.
    rows = [
        row
        for index, right in enumerate([0, 1, 2, 3, 6, 7, 8])
        for row in prompt(index, [1] * right + [0] * (8 - right))
    ]
    counts = {name.split("/")[1]: n for name, n in scores(rows).items() if name.startswith("by_pass_rate")}
    assert counts == {"never": 1, "hard": 2, "medium": 2, "easy": 1, "always": 1}


def test_lengths_truncation_and_repetition_are_over_completions():
    results = scores(
        prompt(0, [0, 0], num_tokens=8, finish_reason="length", repetition=0.5) + prompt(1, [1, 1], num_tokens=2)
    )
    assert results["length_mean"] == 5
    assert results["truncated_frac"] == 0.5 and results["repetition_frac"] == 0.25


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 5), (3, 5), (5, 5), (2, 8), (7, 8)])
def test_pass_at_k_counts_the_subsets_with_a_right_answer(right, n):
    correct = np.array([True] * right + [False] * (n - right))
    for k in range(1, n + 1):
        subsets = [any(subset) for subset in combinations(correct, k)]
        assert pass_at_k(correct[None], k)[0] == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow():
    # 1 right of 2000, k = 1000: a subset holds it with probability k / n = 1/2.
    correct = np.zeros((1, 2000), dtype=bool)
    correct[0, 7] = True
    assert pass_at_k(correct, 1000)[0] == pytest.approx(0.5, abs=1e-12)


def test_standard_error_is_over_prompts():
    # Means 0, 1, 1, 0: unbiased std sqrt(4 x 0.25 / 3) = 0.5773503, over sqrt(4): 0.2886751.
    assert standard_error(np.array([0.0, 1.0, 1.0, 0.0])) == pytest.approx(0.2886751)
    assert math.isnan(standard_error(np.array([0.5])))


def test_named_rewards_have_their_means():
    pairs = [[("correct", 1.0), ("format", 0.5)], [("correct", 0.0), ("format", None)]]
    rows = [row | {"rewards": rewards} for row, rewards in zip(prompt(0, [1, 0]), pairs, strict=True)]
    results = scores(rows)
    assert results["reward/correct/mean"] == 0.5 and results["reward/format/mean"] == 0.5
