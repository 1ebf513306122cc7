"""The sampler ratio pi_old / mu and its two corrections. The arithmetic stands in the comments."""

import math

import pytest
import torch

from aspo_rllib.learner.mismatch import correction_weights, outside, sampler_ratio

# Two completions; the second has one token. old - sampler in nats: [ln 3, -ln 2], [ln 1.5, padding].
SAMPLER = torch.tensor([[-2.0, -1.0], [-1.0, math.nan]])
OLD = SAMPLER + torch.tensor([[math.log(3), -math.log(2)], [math.log(1.5), 0.0]])
MASK = torch.tensor([[True, True], [True, False]])


def test_token_ratio_is_learner_over_engine_and_1_on_padding():
    torch.testing.assert_close(sampler_ratio(OLD, SAMPLER, MASK, "token"), torch.tensor([[3.0, 0.5], [1.5, 1.0]]))


def test_sequence_ratio_is_the_product_for_every_token():
    # 3 * 1/2 = 1.5
    torch.testing.assert_close(sampler_ratio(OLD, SAMPLER, MASK, "sequence"), torch.tensor([[1.5, 1.5], [1.5, 1.0]]))


def test_geometric_ratio_is_the_mean_per_token_in_log_space():
    # sqrt(3 * 1/2) = 1.2247449; of one token, its own.
    ratio = sampler_ratio(OLD, SAMPLER, MASK, "geometric")
    torch.testing.assert_close(ratio, torch.tensor([[1.5**0.5, 1.5**0.5], [1.5, 1.0]]))


def test_geometric_ratio_does_not_grow_with_length():
    # 1000 tokens that are 1 % off: the product is 1.01^1000 = 20959, the geometric mean 1.01.
    old, mask = torch.zeros(1, 1000), torch.ones(1, 1000, dtype=torch.bool)
    sampler = old - math.log(1.01)
    assert sampler_ratio(old, sampler, mask, "geometric")[0, 0].item() == pytest.approx(1.01, rel=1e-5)
    assert sampler_ratio(old, sampler, mask, "sequence")[0, 0].item() == pytest.approx(20959, rel=1e-3)


def test_truncation_caps_from_above_and_from_below_if_there_is_a_floor():
    ratio = torch.tensor([[3.0, 0.25, 1.5]])
    above = correction_weights(ratio, "truncated", floor=None, cap=2.0)
    torch.testing.assert_close(above, torch.tensor([[2.0, 0.25, 1.5]]))
    both = correction_weights(ratio, "truncated", floor=0.5, cap=2.0)
    torch.testing.assert_close(both, torch.tensor([[2.0, 0.5, 1.5]]))


def test_masking_drops_what_lies_outside_on_either_side():
    # cap 2: the band is [0.5, 2]
    ratio = torch.tensor([[3.0, 0.25, 1.5, 2.0, 0.5]])
    masked = correction_weights(ratio, "masked", floor=None, cap=2.0)
    torch.testing.assert_close(masked, torch.tensor([[0.0, 0.0, 1.5, 2.0, 0.5]]))
    assert outside(ratio, None, 2.0).tolist() == [[True, True, False, False, False]]


def test_the_band_has_two_bounds_of_its_own():
    # floor 0.8, cap 2; then no floor at all.
    ratio = torch.tensor([[3.0, 0.25, 1.5, 0.8, 0.79]])
    masked = correction_weights(ratio, "masked", floor=0.8, cap=2.0)
    torch.testing.assert_close(masked, torch.tensor([[0.0, 0.0, 1.5, 0.8, 0.0]]))
    assert outside(ratio, 0.0, 2.0).tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize("level", ["token", "geometric", "sequence"])
def test_equal_probabilities_correct_nothing(level):
    ratio = sampler_ratio(SAMPLER, SAMPLER, MASK, level)
    assert ratio.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    for correction in ("truncated", "masked"):
        assert correction_weights(ratio, correction, floor=0.5, cap=2.0).tolist() == ratio.tolist()


def test_a_hopeless_ratio_stays_finite():
    old, sampler = torch.tensor([[-1.0] * 4]), torch.tensor([[-60.0] * 4])
    assert torch.isfinite(sampler_ratio(old, sampler, torch.ones(1, 4, dtype=torch.bool), "sequence")).all()
