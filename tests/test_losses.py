"""The loss family. These tests pin gradients, not shapes; the arithmetic stands in the comments."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from aspo_rllib.losses import (
    AGGREGATIONS,
    LOSSES,
    Loss,
    TokenInputs,
    aggregation_coefficients,
    by_entropy_class,
    ce_gppo,
    clip_cov,
    dgpo,
    entropy_class,
    kl_cov,
    kl_penalty,
    policy_loss,
    resolve_loss,
    sapo,
    sequence_masked,
)

F64 = torch.float64
DATA = Path(__file__).parent / "data"
GRAD_TABLE = json.loads((DATA / "grad_table.json").read_text())["rows"]
OFFICIAL = json.loads((DATA / "official_gradients.json").read_text())
OFFICIAL_2026 = json.loads((DATA / "official_gradients_2026.json").read_text())
BY_BATCH = ["clip_cov", "kl_cov"]  # the losses that compare a token with all others of the forward pass


def surrogate(name, logprobs, old_logprobs, advantages, loss_mask=None, coefficients=None, **overrides):
    """policy_loss with the settings of `LOSSES[name]`, by default no padding and coefficients of 1."""
    row = LOSSES[name]
    settings = {
        "loss": row.token_weight,
        "clip_low": row.clip_low,
        "clip_high": row.clip_high,
        "weight_cap": row.weight_cap,
    }
    settings["coefficients"] = torch.ones_like(logprobs) if coefficients is None else coefficients
    loss_mask = torch.ones_like(logprobs) if loss_mask is None else loss_mask
    return policy_loss(logprobs, old_logprobs, advantages, loss_mask, **(settings | overrides))


def run(name, logprobs, *args, **kwargs):
    """`surrogate` and its gradient: (PolicyLoss, d loss / d logprobs)."""
    logprobs = logprobs.detach().clone().requires_grad_()
    result = surrogate(name, logprobs, *args, **kwargs)
    result.loss.backward()
    return result, logprobs.grad


def at_ratio(name, ratios, advantages, old_prob=0.5, **overrides):
    """`run` in float64 on the responses `ratios` [B, T] with one advantage each -> (weights, gradients)."""
    old = torch.full_like(torch.tensor(ratios, dtype=F64), math.log(old_prob))
    logprobs = old + torch.tensor(ratios, dtype=F64).log()
    result, grad = run(name, logprobs, old, torch.tensor(advantages, dtype=F64), **overrides)
    return result.token_weight, grad


def random_batch(dtype=F64, seed=0):
    """Six completions of 4, 0, 7, 1, 3 and 7 tokens ratios from 1/8 to 8: every branch is taken."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([4, 0, 7, 1, 3, 7])
    mask = torch.arange(7) < lengths[:, None]
    old = -3 * torch.rand(6, 7, generator=generator, dtype=dtype)
    logprobs = old + math.log(8) * (2 * torch.rand(6, 7, generator=generator, dtype=dtype) - 1)
    advantages = torch.tensor([1.5, 1.0, -0.5, -2.0, 0.0, 0.7], dtype=dtype)
    return logprobs, old, advantages, mask


def softmax_problem(ratio_noise=0.3):
    """Three responses of four tokens over five words: logits (a leaf), tokens, frozen old log-probs."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=F64)
    tokens = torch.randint(5, (3, 4, 1), generator=generator)
    old_logits = logits + ratio_noise * torch.randn(3, 4, 5, generator=generator, dtype=F64)
    old = old_logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)
    return logits.requires_grad_(), tokens, old


# ---------------------------------------------------------------- golden: the authors' released loss, float64


@pytest.mark.parametrize("side", [0, 1], ids=["below", "above"])
@pytest.mark.parametrize(
    ("name", "bounds"),
    [("aspo", "by entropy"), ("grpo", "own"), ("dapo", "own"), ("grpo", "by entropy")],
)
def test_gradients_of_the_released_code(name, bounds, side):
    column = {"grpo": "ppo_grpo", "dapo": "ppo_dapo"}.get(name)
    column = "ppo_eps_by_entropy" if (name, bounds) == ("grpo", "by entropy") else column
    expected = [
        (row["grad_below"], row["grad_above"])[side] if name == "aspo" else row[f"{column}_grad_below_above"][side]
        for row in GRAD_TABLE
    ]
    # One token per response, so that every row of the table is a response of its own.
    ratio = torch.tensor([[row["r"]] for row in GRAD_TABLE], dtype=F64) * (1 + (-1e-9, 1e-9)[side])
    old = torch.full_like(ratio, -3.0)
    high_entropy = torch.tensor([[row["entropy"] == "high"] for row in GRAD_TABLE])
    by_entropy = by_entropy_class(high_entropy, 0.2, 0.4)
    overrides = {"weight_cap": 3.0}
    if bounds == "by entropy":
        overrides |= {"clip_low": by_entropy, "clip_high": by_entropy}
    advantages = torch.tensor([row["A"] for row in GRAD_TABLE], dtype=F64)
    _, grad = run(name, old + ratio.log(), old, advantages, **overrides)
    assert len(GRAD_TABLE) == 64
    torch.testing.assert_close(grad.squeeze(-1), torch.tensor(expected, dtype=F64), rtol=0, atol=1e-9)


# ---------------------------------------------------------------- golden: what the methods' official code gives

HIGH = by_entropy_class(torch.tensor(OFFICIAL["high_entropy"]).bool(), 0.2, 0.4)
NO_BOUNDS = {"clip_low": None, "clip_high": None, "weight_cap": None}


def clip(low, high, weight_cap=None):
    return {"clip_low": low, "clip_high": high, "weight_cap": weight_cap}


# In the order of the file: loss, what differs from its row, aggregation, divisor of "constant".
OFFICIAL_SETTINGS = [
    ("aspo", clip(0.2, 0.2, 3.0), "sequence"),
    ("aspo", clip(0.2, 0.2, 3.0), "token"),
    ("aspo", clip(HIGH, HIGH, 3.0), "sequence"),
    ("grpo", clip(0.2, 0.2, 3.0), "sequence"),
    ("grpo", clip(0.2, 0.2), "sequence"),
    ("dapo", {}, "token"),
    ("dr_grpo", {}, "constant"),
    ("gspo", {}, "sequence"),
    ("gmpo", {}, "sequence"),
    ("cispo", {}, "token"),
    ("cispo", clip(0.2, 0.28), "token"),
    ("gppo", {}, "token"),
    ("gppo", clip(0.2, 0.2), "token"),
    ("topr_token", {}, "constant"),
    ("topr", {}, "constant"),
    ("sapo", {}, "sequence"),
    ("dppo", {}, "constant 12"),  # its code sums over tokens and divides by B twice
    ("no_is", {}, "sequence"),
    ("positive_mean", {}, "sequence"),
]
OFFICIAL_SETTINGS_2026 = [
    ("ce_gppo", {}, "token"),
    ("ce_gppo", {"loss": partial(ce_gppo, beta_low=0.5)}, "token"),
    ("dgpo", {}, "token"),
    ("dgpo", {"loss": partial(dgpo, n=2)}, "token"),
    ("dgpo", {"loss": partial(dgpo, n=3, m=1)}, "token"),
    ("maspo", {}, "token"),
    ("vespo", {}, "token"),
    ("kl_cov", {}, "token"),
    ("kl_cov", {"loss": partial(kl_cov, fraction=0.1)}, "token"),
    ("clip_cov", {"loss": partial(clip_cov, fraction=1.0)}, "token"),
    ("clip_cov", clip(0.2, 0.2) | {"loss": partial(clip_cov, fraction=1.0)}, "token"),
    ("luspo", {}, "sum"),
    ("sequence_masked", {}, "sequence"),
]
OFFICIAL_CASES = [
    pytest.param(*setting, gradients, id=name)
    for settings, file in ((OFFICIAL_SETTINGS, OFFICIAL), (OFFICIAL_SETTINGS_2026, OFFICIAL_2026))
    for setting, (name, gradients) in zip(settings, file["gradients"].items(), strict=True)
]


@pytest.mark.parametrize(("name", "overrides", "aggregation", "gradients"), OFFICIAL_CASES)
def test_gradients_of_the_official_code(name, overrides, aggregation, gradients):
    logprobs, old, advantages = (
        torch.tensor(OFFICIAL[k], dtype=F64) for k in ("logprobs", "old_logprobs", "advantages")
    )
    mask = torch.tensor(OFFICIAL["loss_mask"])
    aggregation, _, divisor = aggregation.partition(" ")
    coefficients = aggregation_coefficients(
        mask,
        aggregation,
        num_loss_tokens=int(mask.sum()),
        num_sequences=len(mask),
        max_completion_tokens=int(divisor or 4096),
    )
    _, grad = run(name, logprobs, old, advantages, mask, coefficients, **overrides)
    # verl adds 1e-8 to a number of tokens, which is 1e-8 of a gradient of at most 0.2.
    torch.testing.assert_close(grad, torch.tensor(gradients, dtype=F64), rtol=2e-8, atol=1e-14)


def test_the_official_settings_are_those_of_the_rows():
    """Each loss with an official code is checked with the settings of its row at least once."""
    plain = {name for name, overrides, _ in OFFICIAL_SETTINGS + OFFICIAL_SETTINGS_2026 if not overrides}
    drawn = {"clip_cov"}  # which of its tokens are dropped is random in the official code
    own = {"aspo", "grpo"}  # checked above with the values of their rows, spelt out
    of_a_paper = {"double_sided"}
    assert plain | drawn | own | of_a_paper == set(LOSSES)
    assert (LOSSES["aspo"].clip_low, LOSSES["aspo"].clip_high, LOSSES["aspo"].weight_cap) == (0.2, 0.2, 3.0)
    assert (LOSSES["grpo"].clip_low, LOSSES["grpo"].clip_high, LOSSES["grpo"].weight_cap) == (0.2, 0.2, 3.0)


# ---------------------------------------------------------------- golden: by hand, one token, old prob 1/2

HAND_ROWS = [
    # aspo: clip 0.2/0.2, c = 3. A>0: 1/r capped at 3, dead above 1.2. A<0: r capped at 3, dead below 0.8.
    ("aspo", +1, [0.25, 0.4, 0.5, 0.8, 1.0, 1.25, 9.0], [3.0, 2.5, 2.0, 1.25, 1.0, 0.0, 0.0]),
    ("aspo", -1, [0.1, 0.75, 0.9, 1.0, 2.5, 4.0, 99.0], [0.0, 0.0, 0.9, 1.0, 2.5, 3.0, 3.0]),
    # grpo: r, dead above 1.2 (A>0), below 0.8 and above c = 3 (A<0).
    ("grpo", +1, [0.01, 0.5, 1.0, 1.1, 1.25], [0.01, 0.5, 1.0, 1.1, 0.0]),
    ("grpo", -1, [0.75, 0.9, 1.0, 2.5, 3.5], [0.0, 0.9, 1.0, 2.5, 0.0]),
    # dapo: grpo with 0.2/0.28 and the dual clip at 10; dr_grpo: without a dual clip.
    ("dapo", +1, [0.5, 1.25, 1.3], [0.5, 1.25, 0.0]),
    ("dapo", -1, [0.75, 0.9, 3.5, 10.5], [0.0, 0.9, 3.5, 0.0]),
    ("dr_grpo", +1, [0.5, 1.1, 1.25], [0.5, 1.1, 0.0]),
    ("dr_grpo", -1, [0.75, 0.9, 3.5, 99.0], [0.0, 0.9, 3.5, 99.0]),
    # no_is: 1 wherever grpo is alive.
    ("no_is", +1, [0.01, 0.5, 1.1, 1.25], [1.0, 1.0, 1.0, 0.0]),
    ("no_is", -1, [0.75, 0.9, 2.5, 3.5], [0.0, 1.0, 1.0, 0.0]),
    # positive_mean: of one token, its own r.
    ("positive_mean", +1, [0.5, 1.1, 1.25], [0.5, 1.1, 0.0]),
    ("positive_mean", -1, [0.75, 0.9, 2.5, 3.5], [0.0, 0.9, 2.5, 0.0]),
    # gspo: of one token, s = r; 3e-4/4e-4; no dual clip.
    ("gspo", +1, [0.5, 1.0, 1.0003, 1.0005], [0.5, 1.0, 1.0003, 0.0]),
    ("gspo", -1, [0.9996, 0.9998, 1.0, 5.0], [0.0, 0.9998, 1.0, 5.0]),
    # gmpo: of one token, r; alive for log r <= 0.4 (1.4918) or >= -0.4 (0.6703); no dual clip.
    ("gmpo", +1, [0.1, 1.0, 1.49, 1.5], [0.1, 1.0, 1.49, 0.0]),
    ("gmpo", -1, [0.67, 0.68, 1.0, 5.0], [0.0, 0.68, 1.0, 5.0]),
    # cispo: min(r, 5) whatever the sign.
    ("cispo", +1, [0.01, 1.0, 4.5, 6.0], [0.01, 1.0, 4.5, 5.0]),
    ("cispo", -1, [0.01, 1.0, 4.5, 6.0], [0.01, 1.0, 4.5, 5.0]),
    # gppo: the edge 1.28 above, 0.8 below; the other direction is free, but for the dual clip at 10.
    ("gppo", +1, [0.5, 1.1, 1.5], [0.5, 1.1, 1.28]),
    ("gppo", -1, [0.5, 0.9, 1.5, 7.0, 11.0], [0.8, 0.9, 1.5, 7.0, 0.0]),
    # ce_gppo: the edges 1.0 x 1.2 above, 0.75 x 0.8 below.
    ("ce_gppo", +1, [0.5, 1.1, 1.5], [0.5, 1.1, 1.2]),
    ("ce_gppo", -1, [0.5, 0.9, 1.5, 7.0, 11.0], [0.6, 0.9, 1.5, 7.0, 0.0]),
    # topr: of one token, the completion's ratio is its own.
    ("topr", +1, [0.01, 1.0, 7.0], [1.0, 1.0, 1.0]),
    ("topr", -1, [0.01, 0.5, 1.0, 7.0], [0.01, 0.5, 1.0, 1.0]),
    ("topr_token", +1, [0.01, 1.0, 7.0], [1.0, 1.0, 1.0]),
    ("topr_token", -1, [0.01, 0.5, 1.0, 7.0], [0.01, 0.5, 1.0, 1.0]),
    # luspo: of one token, s = r; 2e-3/2.5e-3; no dual clip.
    ("luspo", +1, [0.5, 1.0, 1.002, 1.003], [0.5, 1.0, 1.002, 0.0]),
    ("luspo", -1, [0.997, 0.999, 1.0, 5.0], [0.0, 0.999, 1.0, 5.0]),
    # dgpo: above 1.2 it is sqrt(1.2 r), sqrt(1.8) = 1.3416408; below 0.8 it is r^2 / 0.8, 0.16 / 0.8 = 0.2.
    ("dgpo", +1, [0.5, 1.1, 1.5], [0.5, 1.1, 1.3416407865]),
    ("dgpo", -1, [0.4, 0.9, 5.0], [0.2, 0.9, 5.0]),
    # maspo, A = 2: width 0.5^-0.3 x 1.06 = 1.3050130; r = 2: 2 exp(-1 / (2 x 1.7030590)).
    ("maspo", +1, [0.5, 1.0, 2.0], [0.5, 1.0, 1.4911652254]),
    # A = -2: width 1.2311444 / 1.06 = 1.1614570; r = 1/2: exp(-0.25 / (2 x 1.3489824)) / 2.
    ("maspo", -1, [0.5, 1.0, 2.0], [0.4557505660, 1.0, 2.0]),
    # vespo, W = r: W^2 e^(3(1-W)): e^1.5 / 4, 4 e^-3; A<0: W^3 e^(2(1-W)): e / 8, 8 e^-2.
    ("vespo", +1, [0.5, 1.0, 2.0], [1.1204222676, 1.0, 0.1991482735]),
    ("vespo", -1, [0.5, 1.0, 2.0], [0.3397852286, 1.0, 1.0826822659]),
    # double_sided: r between 0.8 and 1.28, nothing elsewhere.
    ("double_sided", +1, [0.5, 0.9, 1.25, 1.3], [0.0, 0.9, 1.25, 0.0]),
    ("double_sided", -1, [0.5, 0.9, 1.25, 1.3], [0.0, 0.9, 1.25, 0.0]),
    # sequence_masked: grpo without a dual clip; the mask acts below r = e^-0.5 = 0.607, where the clip does, too.
    ("sequence_masked", +1, [0.5, 1.1, 1.25], [0.5, 1.1, 0.0]),
    ("sequence_masked", -1, [0.5, 0.75, 0.9, 5.0], [0.0, 0.0, 0.9, 5.0]),
    # sapo: 4 r s(1-s) at z = tau (r-1). A>0, r=2: z=1, 0.19661193 x 8; r=1/2: z=-0.5, 0.23500371 x 2.
    ("sapo", +1, [0.5, 1.0, 2.0], [0.4700074244, 1.0, 1.5728954659]),
    # A<0, r=2: z=1.05, e^-z=0.34993775, / 1.34993775^2 = 0.19202745 x 8; r=1/2: z=-0.525, 0.23353496 x 2.
    ("sapo", -1, [0.5, 1.0, 2.0], [0.4670699116, 1.0, 1.5362195834]),
    # dppo: old p = 0.5, so r = 1.25 is p = 0.625 (moved 0.125 < 0.15) and r = 1.4 is p = 0.7 (moved 0.2).
    ("dppo", +1, [0.1, 1.0, 1.25, 1.4], [0.1, 1.0, 1.25, 0.0]),
    ("dppo", -1, [0.6, 0.75, 1.0, 1.9], [0.0, 0.75, 1.0, 1.9]),
]


@pytest.mark.parametrize(("name", "advantage", "ratios", "weights"), HAND_ROWS)
def test_hand_worked_weights(name, advantage, ratios, weights):
    # An advantage of 2, not 1, so that a forgotten factor A shows.
    weight, grad = at_ratio(name, [[r] for r in ratios], [2.0 * advantage] * len(ratios))
    expected = torch.tensor(weights, dtype=F64)
    torch.testing.assert_close(weight.squeeze(-1), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(grad.squeeze(-1), -2.0 * advantage * expected, rtol=1e-7, atol=1e-9)


def test_every_loss_has_hand_worked_rows_of_both_signs():
    assert {(name, sign) for name, sign, _, _ in HAND_ROWS} == {
        (n, s) for n in LOSSES.keys() - BY_BATCH for s in (1, -1)
    }


EDGES = [
    # name, sign of A, the edge, weight just below it, weight just above it
    ("aspo", +1, 1.2, 1 / 1.2, 0.0),
    ("aspo", +1, 1 / 3, 3.0, 3.0),
    ("aspo", -1, 0.8, 0.0, 0.8),
    ("aspo", -1, 3.0, 3.0, 3.0),
    ("grpo", +1, 1.2, 1.2, 0.0),
    ("grpo", -1, 0.8, 0.0, 0.8),
    ("grpo", -1, 3.0, 3.0, 0.0),
    ("dapo", +1, 1.28, 1.28, 0.0),
    ("no_is", +1, 1.2, 1.0, 0.0),
    ("no_is", -1, 0.8, 0.0, 1.0),
    ("no_is", -1, 3.0, 1.0, 0.0),
    ("positive_mean", +1, 1.2, 1.2, 0.0),
    ("gspo", +1, 1.0004, 1.0004, 0.0),
    ("gspo", -1, 0.9997, 0.0, 0.9997),
    ("gmpo", +1, math.exp(0.4), math.exp(0.4), 0.0),
    ("gmpo", -1, math.exp(-0.4), 0.0, math.exp(-0.4)),
    ("cispo", +1, 5.0, 5.0, 5.0),
    ("gppo", +1, 1.28, 1.28, 1.28),
    ("gppo", -1, 0.8, 0.8, 0.8),
    ("gppo", -1, 10.0, 10.0, 0.0),
    ("dapo", -1, 10.0, 10.0, 0.0),
    ("ce_gppo", +1, 1.2, 1.2, 1.2),
    ("ce_gppo", -1, 0.8, 0.6, 0.8),
    ("luspo", +1, 1.0025, 1.0025, 0.0),
    ("luspo", -1, 0.998, 0.0, 0.998),
    ("dgpo", +1, 1.2, 1.2, 1.2),
    ("dgpo", -1, 0.8, 0.8, 0.8),
    ("maspo", +1, 1.0, 1.0, 1.0),
    ("double_sided", +1, 0.8, 0.0, 0.8),
    ("double_sided", -1, 1.28, 1.28, 0.0),
    ("topr", -1, 1.0, 1.0, 1.0),
    ("dppo", +1, 1.3, 1.3, 0.0),  # p = 0.65 = 0.5 + delta
    ("dppo", -1, 0.7, 0.0, 0.7),  # p = 0.35 = 0.5 - delta
]


@pytest.mark.parametrize(("name", "sign", "edge", "below", "above"), EDGES)
def test_both_sides_of_every_edge(name, sign, edge, below, above):
    weight, _ = at_ratio(name, [[edge * (1 - 1e-9)], [edge * (1 + 1e-9)]], [sign, sign])
    torch.testing.assert_close(weight.flatten(), torch.tensor([below, above], dtype=F64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["aspo", "grpo", "no_is", "gspo", "gmpo"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_edge_itself_is_inside(name, advantage):
    # r = 1 is exact, so bounds of 0 and a cap of 1 put it exactly on all edges.
    weight, _ = at_ratio(name, [[1.0]], [advantage], clip_low=0.0, clip_high=0.0, weight_cap=1.0)
    assert weight.item() == 1.0


def test_gspo_keeps_or_clips_a_response_as_one():
    # s = sqrt(1.0004 * 1) = 1.00019998 < 1.0004: both tokens weigh s. sqrt(1.002) = 1.0009995 > 1.0004: none.
    weight, _ = at_ratio("gspo", [[1.0004, 1.0], [1.002, 1.0], [1.002, 1.0]], [1.0, 1.0, -1.0])
    expected = [[1.00019998, 1.00019998], [0.0, 0.0], [1.0009995, 1.0009995]]
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-8)


def test_positive_mean_masks_on_the_tokens_own_ratio():
    # Means: (0.9 + 1.3) / 2 = 1.1, and 1.3 > 1.2 is masked; (0.5 + 1) / 2 = 0.75; negatives keep their own r.
    weight, _ = at_ratio("positive_mean", [[0.9, 1.3], [0.5, 1.0], [0.9, 1.3]], [1.0, 1.0, -1.0])
    expected = [[1.1, 0.0], [0.75, 0.75], [0.9, 1.3]]
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=F64))


def test_gmpo_counts_a_clipped_token_in_the_mean():
    # A>0: logs (0.0953102, 0.4 of 0.6931472), mean 0.2476551, exp = 1.2810180; the second is clipped.
    # A<0: logs (-0.4 of -0.6931472, -0.1053605), mean -0.2526803, exp = 0.7767162; the first is clipped.
    weight, _ = at_ratio("gmpo", [[1.1, 2.0], [0.5, 0.9]], [1.0, -1.0])
    expected = [[1.2810180, 0.0], [0.0, 0.7767162]]
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-7)


def test_luspo_is_gspo_with_other_bounds():
    # s = sqrt(1.004) = 1.001998 < 1.0025: kept; sqrt(1.006) = 1.0029955: clipped.
    weight, _ = at_ratio("luspo", [[1.004, 1.0], [1.006, 1.0]], [1.0, 1.0])
    torch.testing.assert_close(weight, torch.tensor([[1.001998, 1.001998], [0, 0]], dtype=F64), rtol=0, atol=1e-8)


def test_topr_and_vespo_take_the_ratio_of_the_whole_completion():
    # 0.5 x 0.8 = 0.4 and 2 x 1.5 = 3, clipped to 1. The positive weighs 1. By token: each its own.
    ratios, advantages = [[0.5, 0.8], [2.0, 1.5], [0.5, 0.8]], [-1.0, -1.0, 1.0]
    weight, _ = at_ratio("topr", ratios, advantages)
    torch.testing.assert_close(weight, torch.tensor([[0.4, 0.4], [1.0, 1.0], [1.0, 1.0]], dtype=F64))
    weight, _ = at_ratio("topr_token", ratios, advantages)
    torch.testing.assert_close(weight, torch.tensor([[0.5, 0.8], [1.0, 1.0], [1.0, 1.0]], dtype=F64))
    # A < 0: W = 0.4: 0.064 e^1.2 = 0.2124875; W = 3: 27 e^-4 = 0.4945223. A > 0: W = 0.4: 0.16 e^1.8 = 0.9679436.
    weight, _ = at_ratio("vespo", ratios, advantages)
    expected = torch.tensor([[0.2124875], [0.4945223], [0.9679436]], dtype=F64).expand(3, 2)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-7)


def test_vespo_of_thousands_of_tokens_is_finite():
    for ratio in (0.5, 2.0):
        weight, _ = at_ratio("vespo", [[ratio] * 5000] * 2, [1.0, -1.0])
        assert weight.isfinite().all() and (weight < 1e-6).all()


def test_sequence_mask_acts_on_negatives_that_drifted():
    # Mean log(1/r) of (0.9, 0.4): (0.105 + 0.916) / 2 = 0.511 > 0.5: nothing is left, not even of the token inside
    # the clip. Of (0.9, 0.5): 0.399: the first is kept, the second clipped. Positives are never masked.
    weight, _ = at_ratio("sequence_masked", [[0.9, 0.4], [0.9, 0.5], [0.9, 0.4]], [-1.0, -1.0, 1.0])
    torch.testing.assert_close(weight, torch.tensor([[0.0, 0.0], [0.9, 0.0], [0.9, 0.4]], dtype=F64))
    loose = partial(sequence_masked, delta=0.52)
    weight, _ = at_ratio("sequence_masked", [[0.9, 0.4]], [-1.0], loss=loose)
    torch.testing.assert_close(weight, torch.tensor([[0.9, 0.0]], dtype=F64))


def test_dgpo_without_decay_is_gppo_above_and_a_plain_ratio_below():
    # m = 1: r (1.2 / r) = 1.2; n = 0: r.
    weight, _ = at_ratio("dgpo", [[3.0], [0.5]], [1.0, -1.0], loss=partial(dgpo, n=0, m=1))
    torch.testing.assert_close(weight, torch.tensor([[1.2], [0.5]], dtype=F64))


def test_maspo_gives_rare_tokens_more_space():
    # Old prob 1e-6: 1e6^0.3 = 63.1, limited to 10; A = 2 makes it 10.6: 2 exp(-1 / 224.72) = 1.9911198.
    weight, _ = at_ratio("maspo", [[2.0]], [2.0], old_prob=1e-6)
    assert weight.item() == pytest.approx(1.9911198, abs=1e-7)


COVARIANCE_BATCH = {
    # A = (2, -1, -1), mean 0; log p = ln (1/2, 1/4, 1/8), mean ln 1/4: covariances 2 ln 2 = 1.386, 0, ln 2 = 0.693.
    "logprobs": torch.tensor([[0.5], [0.25], [0.125]], dtype=F64).log(),
    "advantages": torch.tensor([2.0, -1.0, -1.0], dtype=F64),
}


def test_kl_cov_by_hand():
    # r = (2, 1, 1/2). A third of three is one token, the first: 2 - 1/2 = 1.5. Two thirds: the last, too: its
    # gradient -A w = 1/2 - 1 x 1, so w = 1/2 + sign(log 1/2) = -1/2: the penalty outweighs the advantage.
    old = torch.tensor([[0.25], [0.25], [0.25]], dtype=F64).log()
    for fraction, expected in ((0.4, [1.5, 1.0, 0.5]), (0.7, [1.5, 1.0, -0.5])):
        result, _ = run("kl_cov", old_logprobs=old, loss=partial(kl_cov, fraction=fraction), **COVARIANCE_BATCH)
        torch.testing.assert_close(result.token_weight.flatten(), torch.tensor(expected, dtype=F64))


def test_clip_cov_by_hand():
    # r = (1.6, 1, 1/2), all inside 0 to 2; only the first has a covariance between 1 and 5.
    old = (COVARIANCE_BATCH["logprobs"].exp() / torch.tensor([[1.6], [1.0], [0.5]], dtype=F64)).log()
    result, _ = run("clip_cov", old_logprobs=old, **COVARIANCE_BATCH)
    torch.testing.assert_close(result.token_weight.flatten(), torch.tensor([0.0, 1.0, 0.5], dtype=F64))
    wide = partial(clip_cov, covariance_high=1.3)
    result, _ = run("clip_cov", old_logprobs=old, loss=wide, **COVARIANCE_BATCH)
    torch.testing.assert_close(result.token_weight.flatten(), torch.tensor([1.6, 1.0, 0.5], dtype=F64))


def test_clip_cov_draws_the_same_tokens_again():
    logprobs, old, advantages, mask = random_batch()
    drop = partial(clip_cov, fraction=0.1, covariance_low=0.0)
    first, again = (run("clip_cov", logprobs, old, advantages, mask, loss=drop)[0].token_weight for _ in range(2))
    assert torch.equal(first, again)
    without = run("clip_cov", logprobs, old, advantages, mask, loss=partial(clip_cov, covariance_low=1e9))[0]
    assert ((first == 0) & (without.token_weight != 0)).sum() == 2  # a tenth of 22 tokens


def test_dppo_lets_a_rare_token_grow_a_hundredfold():
    # p: 1e-4 -> 1e-2 moves 0.0099 of probability, whatever r says; a common token may not move 0.99 -> 0.79.
    assert at_ratio("dppo", [[100.0]], [1.0], old_prob=1e-4)[0].item() == pytest.approx(100.0)
    assert at_ratio("dppo", [[0.79 / 0.99]], [-1.0], old_prob=0.99)[0].item() == 0.0


def test_method_parameters_are_overridden_with_partial():
    # tau = 2, r = 2: z = 2, s = 0.8807971, s(1-s) = 0.1049936, 8 x that.
    weight, _ = at_ratio("sapo", [[2.0]], [1.0], loss=partial(sapo, tau_positive=2.0))
    assert weight.item() == pytest.approx(0.8399487, abs=1e-6)


# ---------------------------------------------------------------- what holds for every loss


@pytest.mark.parametrize("name", LOSSES)
def test_at_ratio_one_every_loss_is_reinforce(name):
    weight, grad = at_ratio(name, [[1.0, 1.0], [1.0, 1.0]], [2.0, -3.0])
    assert torch.equal(weight, torch.ones(2, 2, dtype=F64))
    assert torch.equal(grad, torch.tensor([[-2.0, -2.0], [3.0, 3.0]], dtype=F64))


@pytest.mark.parametrize("name", LOSSES)
def test_zero_advantage_is_exactly_nothing(name):
    logprobs, old, _, mask = random_batch()
    result, grad = run(name, logprobs, old, torch.zeros(6, dtype=F64), mask)
    for tensor in (result.loss, result.token_weight, grad):
        assert (tensor == 0).all() and not torch.signbit(tensor).any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tokens_of_probability_e_minus_60(name, dtype):
    # r = e^-0.125 = 0.8824969: alive for A>0 in every method. pi^2 would be 0 in fp32 and the weight NaN.
    logprobs, old = torch.tensor([[-60.0]], dtype=dtype), torch.tensor([[-59.875]], dtype=dtype)
    result, grad = run(name, logprobs, old, torch.ones(1, dtype=dtype))
    others = {"aspo": 1.1331485, "no_is": 1.0, "topr": 1.0, "topr_token": 1.0, "sapo": 0.8794577}
    # vespo: r^2 e^(3 (1 - r)) = 0.7788008 x 1.4226350; kl_cov: the only token is the highest, r + 1.
    expected = (others | {"vespo": 1.1079476, "kl_cov": 1.8824969}).get(name, 0.8824969)
    assert result.token_weight.item() == pytest.approx(expected, abs=1e-6)
    assert result.loss.item() == grad.item() == pytest.approx(-expected, abs=1e-6)
    assert result.loss.dtype == result.token_weight.dtype == grad.dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_huge_log_ratios_stay_finite(name, advantage, gap):
    logprobs, old = torch.tensor([[min(gap, 0.0)]]), torch.tensor([[min(-gap, 0.0)]])
    result, grad = run(name, logprobs, old, torch.tensor([advantage]))
    assert result.loss.isfinite() and grad.isfinite().all()
    assert result.ratio.item() == pytest.approx(math.exp(math.copysign(20, gap)), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_surrogate_and_gradient_is_its_weight(name):
    logprobs, old, advantages, mask = random_batch()
    coefficients = torch.rand(6, 7, generator=torch.Generator().manual_seed(2), dtype=F64)
    result, grad = run(name, logprobs, old, advantages, mask, coefficients)
    expected = -coefficients * advantages[:, None] * result.token_weight
    assert result.loss.item() == pytest.approx(expected.sum().item(), abs=1e-12)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)
    assert not result.token_weight.requires_grad and not result.ratio.requires_grad
    assert (result.token_weight[~mask] == 0).all() and (result.ratio[~mask] == 1).all()
    torch.testing.assert_close(result.ratio[mask], (logprobs - old).exp()[mask])


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_through_a_softmax_is_weight_times_advantage_times_score(name):
    logits, tokens, old = softmax_problem()
    logprobs = logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)
    advantages = torch.tensor([1.5, -0.5, 0.7], dtype=F64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    result = surrogate(name, logprobs, old, advantages, mask, torch.full((3, 4), 0.25))
    result.loss.backward()
    # d log pi(token) / d logits = onehot(token) - softmax(logits)
    score = torch.zeros(3, 4, 5, dtype=F64).scatter_(-1, tokens, 1.0) - logits.detach().softmax(-1)
    expected = -0.25 * (result.token_weight * advantages[:, None])[..., None] * score
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_step_moves_the_token_the_way_the_advantage_says(name, ratio, advantage):
    logits = torch.tensor([[[0.2, -0.1, 0.4]]], dtype=F64, requires_grad=True)
    logprobs = logits.log_softmax(-1)[..., 0]
    old = (logprobs - math.log(ratio if advantage > 0 else 1 / ratio)).detach()
    result = surrogate(name, logprobs, old, torch.tensor([advantage], dtype=F64))
    result.loss.backward()
    after = (logits - 0.01 * logits.grad).log_softmax(-1)[..., 0]
    if name == "double_sided" and ratio == 0.5:  # masked on both sides
        assert (logits.grad == 0).all()
    else:
        assert advantage * (after - logprobs).item() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_masks_of_any_type_are_the_same_mask(name):
    logprobs, old, advantages, mask = random_batch(torch.float32)
    reference, reference_grad = run(name, logprobs, old, advantages, mask)
    for dtype in (torch.int64, torch.uint8, torch.float32):
        result, grad = run(name, logprobs, old, advantages, mask.to(dtype))
        assert torch.equal(result.loss, reference.loss) and torch.equal(grad, reference_grad)
        assert torch.equal(result.token_weight, reference.token_weight)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", [math.nan, -math.inf, math.inf, 1e30])
def test_padding_may_hold_anything(name, garbage):
    logprobs, old, advantages, mask = random_batch(torch.float32)
    advantages = advantages[:, None].repeat(1, 7)
    reference, reference_grad = run(name, logprobs, old, advantages, mask)
    dirty = [tensor.masked_fill(~mask, garbage) for tensor in (logprobs, old, advantages)]
    for which in ([0], [1], [2], [0, 1, 2]):
        clean = [logprobs, old, advantages]
        inputs = [dirty[i] if i in which else clean[i] for i in range(3)]
        result, grad = run(name, *inputs, mask)
        assert torch.equal(result.loss, reference.loss) and torch.equal(grad, reference_grad)
        assert torch.equal(result.token_weight, reference.token_weight)
        assert torch.equal(result.ratio, reference.ratio)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["logprobs", "old_logprobs", "advantages"])
def test_a_broken_unmasked_token_breaks_the_loss(name, advantage, broken, which):
    tensors = {"logprobs": torch.tensor([[-1.0, -2.0]]), "old_logprobs": torch.tensor([[-1.1, -2.0]])}
    tensors["advantages"] = torch.full((1, 2), advantage)
    tensors[which] = tensors[which].clone()
    tensors[which][0, 0] = broken
    result, grad = run(name, **tensors)
    assert not result.loss.isfinite() and not grad.isfinite().all()


def test_advantages_per_completion_or_per_token():
    logprobs, old, advantages, mask = random_batch()
    one, one_grad = run("aspo", logprobs, old, advantages, mask)
    two, two_grad = run("aspo", logprobs, old, advantages[:, None].expand(6, 7), mask)
    assert torch.equal(one.loss, two.loss) and torch.equal(one_grad, two_grad)


def test_half_precision_is_computed_in_fp32():
    logprobs, old, advantages, mask = (t.bfloat16() if t.is_floating_point() else t for t in random_batch())
    result, grad = run("aspo", logprobs, old, advantages, mask)
    assert result.loss.dtype == result.token_weight.dtype == torch.float32 and grad.dtype == torch.bfloat16
    expected, _ = run("aspo", logprobs.float(), old.float(), advantages.float(), mask)
    assert torch.equal(result.loss, expected.loss)


@pytest.mark.parametrize("which", ["old_logprobs", "advantages", "loss_mask"])
def test_shapes_that_do_not_match_are_named(which):
    tensors = {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2, 3),
    }
    tensors |= {"loss_mask": torch.ones(2, 3)} | {which: torch.zeros(2, 1)}
    with pytest.raises(ValueError, match=rf"{which} has shape \(2, 1\), logprobs \(2, 3\)"):
        run("aspo", **tensors)


def test_one_advantage_for_two_completions_is_an_error_not_a_broadcast():
    with pytest.raises(ValueError, match=r"advantages has shape \(1,\)"):
        run("aspo", torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1))


# ---------------------------------------------------------------- against autograd of the papers' objectives


def ppo_objective(ratio, advantages, low, high):
    clipped = torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    return torch.where(advantages < 0, torch.max(clipped, 3.0 * advantages), clipped)  # the dual clip, c = 3


def token_mean_objective(token_objective):
    """The mean over responses of the token means of `token_objective(ratio, A)`."""

    def objective(logprobs, old, advantages, lengths):
        values = [
            token_objective((lp[:n] - o[:n]).exp(), a).mean()
            for lp, o, a, n in zip(logprobs, old, advantages, lengths, strict=True)
        ]
        return torch.stack(values).mean()

    return objective


def gspo_objective(logprobs, old, advantages, lengths):
    values = []
    for lp, o, a, n in zip(logprobs, old, advantages, lengths, strict=True):
        s = (lp[:n].sum() - o[:n].sum()).div(n).exp()  # (pi(y) / pi_old(y)) ** (1 / |y|)
        values.append(torch.min(s * a, s.clamp(1 - 3e-4, 1 + 4e-4) * a))
    return torch.stack(values).mean()


def gmpo_objective(logprobs, old, advantages, lengths):
    values = []
    for lp, o, a, n in zip(logprobs, old, advantages, lengths, strict=True):
        sign, ratio = a.sign(), (lp[:n] - o[:n]).exp()
        pessimistic = torch.min(ratio**sign, ratio.clamp(math.exp(-0.4), math.exp(0.4)) ** sign) ** sign
        values.append(pessimistic.prod() ** (1 / n) * a)
    return torch.stack(values).mean()


def sapo_gate(ratio, advantage):
    tau = 1.0 if advantage > 0 else 1.05
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage


PAPER_OBJECTIVES = {
    "grpo": token_mean_objective(lambda r, a: ppo_objective(r, a, 0.2, 0.2)),
    "gspo": gspo_objective,
    "gmpo": gmpo_objective,
    "sapo": token_mean_objective(sapo_gate),
    "cispo": token_mean_objective(lambda r, a: r.detach().clamp(max=5.0) * a * r.log()),
}


@pytest.mark.parametrize("name", PAPER_OBJECTIVES)
@pytest.mark.parametrize("ratio_noise", [2e-4, 0.3, 2.0])
def test_gradient_is_that_of_the_papers_objective(name, ratio_noise):
    logits, tokens, old = softmax_problem(ratio_noise)
    lengths, advantages = [4, 3, 2], torch.tensor([1.5, -0.5, 0.7], dtype=F64)

    def logprobs():
        return logits.log_softmax(-1).gather(-1, tokens).squeeze(-1)

    (expected,) = torch.autograd.grad(-PAPER_OBJECTIVES[name](logprobs(), old, advantages, lengths), logits)
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    counts = {"num_loss_tokens": 9, "num_sequences": 3, "max_completion_tokens": 4}
    coefficients = aggregation_coefficients(mask, "sequence", **counts)
    result = surrogate(name, logprobs(), old, advantages, mask, coefficients)
    (grad,) = torch.autograd.grad(result.loss, logits)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- aggregation


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_aggregation_coefficients_by_hand(dtype):
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).to(dtype)
    counts = {"num_loss_tokens": 10, "num_sequences": 5, "max_completion_tokens": 4}
    token = aggregation_coefficients(mask, "token", **counts)
    sequence = aggregation_coefficients(mask, "sequence", **counts)
    constant = aggregation_coefficients(mask, "constant", **counts)
    total = aggregation_coefficients(mask, "sum", **counts)
    # 1/10; 1/(5 x 2), 1/(5 x 3), none; 1/(5 x 4); 1/5
    assert torch.equal(token, torch.tensor([[0.1, 0.1, 0], [0.1, 0.1, 0.1], [0, 0, 0]], dtype=F64))
    assert torch.equal(sequence, torch.tensor([[0.1, 0.1, 0], [1 / 15] * 3, [0, 0, 0]], dtype=F64))
    assert torch.equal(constant, torch.tensor([[0.05, 0.05, 0], [0.05] * 3, [0, 0, 0]], dtype=F64))
    assert torch.equal(total, torch.tensor([[0.2, 0.2, 0], [0.2] * 3, [0, 0, 0]], dtype=F64))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_step_without_tokens_has_no_share(aggregation):
    counts = {"num_loss_tokens": 0, "num_sequences": 2, "max_completion_tokens": 4}
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(aggregation_coefficients(mask, aggregation, **counts), torch.zeros(2, 3, dtype=F64))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in BY_BATCH])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("cuts", [[3, 3], [1, 5], [2, 1, 3], [1] * 6])
def test_micro_batches_add_up_to_the_batch(name, aggregation, cuts):
    logprobs, old, advantages, mask = random_batch()
    counts = {"num_loss_tokens": 22, "num_sequences": 6, "max_completion_tokens": 9}
    whole, whole_grad = run(
        name, logprobs, old, advantages, mask, aggregation_coefficients(mask, aggregation, **counts)
    )
    total, grads = 0.0, torch.zeros_like(logprobs)
    for rows in torch.arange(6).split(cuts):
        width = max(1, int(mask[rows].sum(-1).max()))  # each micro-batch is padded to its own longest
        part = [tensor[rows][:, :width] for tensor in (logprobs, old, mask)]
        coefficients = aggregation_coefficients(part[2], aggregation, **counts)
        result, grad = run(name, part[0], part[1], advantages[rows], part[2], coefficients)
        total += result.loss.item()
        grads[rows, :width] = grad
    assert int(mask.sum()) == 22
    assert total == pytest.approx(whole.loss.item(), abs=1e-12)
    torch.testing.assert_close(grads, whole_grad, rtol=0, atol=1e-12)


def test_unknown_aggregation_is_named():
    counts = {"num_loss_tokens": 1, "num_sequences": 1, "max_completion_tokens": 1}
    with pytest.raises(ValueError, match="unknown aggregation 'tokens'"):
        aggregation_coefficients(torch.ones(1, 1), "tokens", **counts)
    with pytest.raises(ValueError, match="unknown aggregation 'mean'"):
        Loss(lambda x: x.ratio, aggregation="mean")


# ---------------------------------------------------------------- the registry

PUBLISHED = {
    # name: clip_low, clip_high, weight_cap, aggregation, kl_coef, advantage, old_logprobs
    "aspo": (0.2, 0.2, 3.0, "sequence", 0.001, "grpo", "learner"),
    "grpo": (0.2, 0.2, 3.0, "sequence", 0.001, "grpo", "learner"),
    "dapo": (0.2, 0.28, 10.0, "token", 0.0, "grpo", "learner"),
    "dr_grpo": (0.2, 0.2, math.inf, "constant", 0.0, "dr_grpo", "learner"),
    "gspo": (3e-4, 4e-4, None, "sequence", 0.0, "grpo", "learner"),
    "gmpo": (0.4, 0.4, None, "sequence", 0.0, "grpo", "learner"),
    "gppo": (0.2, 0.28, 10.0, "token", 0.0, "grpo", "learner"),
    "luspo": (2e-3, 2.5e-3, None, "sum", 0.0, "grpo", "learner"),
    "dppo": (None, None, None, "constant", 0.0, "dr_grpo", "sampler"),
    "vespo": (None, None, None, "token", 0.0, "grpo", "sampler"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    row = resolve_loss(name)
    bounds = (row.clip_low, row.clip_high, row.weight_cap)
    assert (*bounds, row.aggregation, row.kl_coef, row.advantage, row.old_logprobs) == PUBLISHED[name]


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_says_where_it_comes_from(name):
    assert "arXiv 2" in LOSSES[name].source


@pytest.mark.parametrize("name", LOSSES)
def test_a_bound_that_is_none_in_the_row_is_not_used(name):
    """And one that is given is: it changes the weight of some token."""
    ratios = torch.linspace(-2.5, 2.5, 200, dtype=F64).exp()[:, None].repeat(2, 1).tolist()
    advantages = [1.0] * 200 + [-1.0] * 200
    plain, _ = at_ratio(name, ratios, advantages, old_prob=0.05)
    for field, value in (("clip_low", 0.1), ("clip_high", 0.1), ("weight_cap", 1.5)):
        other, _ = at_ratio(name, ratios, advantages, old_prob=0.05, **{field: value})
        assert torch.equal(other, plain) == (getattr(LOSSES[name], field) is None), field


def test_a_loss_may_be_a_name_a_loss_or_a_function():
    def root(x: TokenInputs):
        return x.ratio.sqrt()

    assert resolve_loss("aspo") is LOSSES["aspo"]
    own = Loss(root, clip_high=0.5, aggregation="constant")
    assert resolve_loss(own) is own
    assert resolve_loss(root) == replace(LOSSES["grpo"], token_weight=root, source="")
    assert resolve_loss(partial(sapo, tau_negative=2.0)).aggregation == "sequence"
    weight, grad = at_ratio("aspo", [[4.0]], [2.0], loss=resolve_loss(root).token_weight)
    assert weight.item() == pytest.approx(2.0) and grad.item() == pytest.approx(-4.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("asop", "unknown loss 'asop'. Did you mean 'aspo'"),
        ("drgrpo", "'dr_grpo'"),
        (3, "unknown loss 3"),
        (None, "None"),
    ],
)
def test_unknown_losses_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        resolve_loss(value)


# ---------------------------------------------------------------- entropy classes and KL


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_entropy_class_is_per_response_and_ignores_padding(dtype):
    # Quantile 0.8 of 1..5 is at position 0.8 x 4 = 3.2: 4.2, so only 5 is above; of (10, 30) it is 26.
    # One token or equal tokens are not above themselves; an empty response has none.
    entropy = torch.tensor([[1, 5, 2, 4, 3], [10, 30, 1e9, 1e9, 1e9], [7, 0, 0, 0, 0], [2] * 5, [1, 2, 3, 4, 5.0]])
    mask = torch.arange(5) < torch.tensor([5, 2, 1, 5, 0])[:, None]
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[0, 1] = expected[1, 1] = True
    for garbage in (math.nan, math.inf, -1.0):
        assert torch.equal(entropy_class(entropy.masked_fill(~mask, garbage), mask.to(dtype)), expected)


def test_entropy_class_quantile():
    entropy = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert entropy_class(entropy, torch.ones(1, 5), quantile=0.5).tolist() == [[False, False, False, True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_archer2_bounds_choose_by_entropy(dtype):
    # r = 1.3, A > 0: low entropy is masked at 1.2, high entropy kept to 1.4 and weighs 1/1.3.
    # r = 0.7, A < 0: low entropy is masked at 0.8, high entropy kept to 0.6 and weighs 0.7.
    ratio, high = torch.tensor([[1.3, 1.3], [0.7, 0.7]], dtype=dtype), torch.tensor([[False, True]] * 2)
    bound = by_entropy_class(high, 0.2, 0.4)
    assert torch.equal(bound, torch.tensor([[0.2, 0.4]] * 2, dtype=F64))
    assert torch.equal(by_entropy_class(high, 0.001, 0.0), torch.tensor([[0.001, 0.0]] * 2, dtype=F64))
    advantages = torch.tensor([1.0, -1.0], dtype=dtype)
    result, _ = run("aspo", ratio.log(), torch.zeros_like(ratio), advantages, clip_low=bound, clip_high=bound)
    expected = torch.tensor([[0.0, 1 / 1.3], [0.0, 0.7]], dtype=dtype)
    torch.testing.assert_close(result.token_weight, expected)


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if row.clip_low is not None])
def test_bounds_per_token_or_as_a_float(name):
    logprobs, old, advantages, mask = random_batch()
    row = LOSSES[name]
    bounds = {"clip_low": torch.full((6, 7), row.clip_low, dtype=F64)}
    bounds["clip_high"] = torch.full((6, 7), row.clip_high, dtype=F64)
    result, _ = run(name, logprobs, old, advantages, mask, **bounds)
    assert torch.equal(result.token_weight, run(name, logprobs, old, advantages, mask)[0].token_weight)


def test_kl_penalty_by_hand():
    # d = ref - logp = ln 2: 2 - ln 2 - 1 = 0.3068528, slope 1 - e^d = -1.
    # d = -ln 2: 0.5 + ln 2 - 1 = 0.1931472, slope 0.5.
    logprobs = torch.tensor([[-2.0, -1.0, math.nan]], dtype=F64, requires_grad=True)
    ref = torch.tensor([[-2.0 + math.log(2), -1.0 - math.log(2), -math.inf]], dtype=F64)
    kl = kl_penalty(logprobs, ref, torch.tensor([[1, 1, 0]]))
    kl.sum().backward()
    expected = torch.tensor([[0.3068528, 0.1931472, 0.0]], dtype=F64)
    torch.testing.assert_close(kl.detach(), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1.0, 0.5, 0.0]], dtype=F64))


def test_kl_penalty_numerics():
    # Near 0 k3 is d^2 / 2, here 5e-9: exp(d) - d - 1 in fp32 gives 0 or 1e-7. Far out it is clamped, not inf.
    close = kl_penalty(torch.tensor([[0.0]]), torch.tensor([[1e-4]]), torch.ones(1, 1))
    assert close.item() == pytest.approx(5e-9, rel=1e-2)
    gaps = torch.linspace(-30, 30, 601)[None]
    kl = kl_penalty(torch.zeros_like(gaps), gaps, torch.ones_like(gaps))
    assert kl.isfinite().all() and (kl >= 0).all()
    assert not kl_penalty(torch.tensor([[math.nan]]), torch.tensor([[0.0]]), torch.ones(1, 1)).isfinite().all()


@pytest.mark.parametrize(("estimator", "unclamped"), [("k1", -15.0), ("k2", 112.5), ("k3", 3269001.37)])
def test_a_clamped_estimate_is_held_and_has_no_gradient_there(estimator, unclamped):
    # d = 15: k3 is e^15 - 16 = 3269001.37, which times 0.001 is 3,270; k1 is -15 and is held at -10.
    logprobs = torch.tensor([[-16.0, -1.0]], dtype=F64, requires_grad=True)
    ref = torch.tensor([[-1.0, -1.5]], dtype=F64)
    plain = kl_penalty(logprobs, ref, torch.ones(1, 2), estimator)
    assert plain[0, 0].item() == pytest.approx(unclamped, abs=0.01)
    clamped = kl_penalty(logprobs, ref, torch.ones(1, 2), estimator, clamp=10.0)
    clamped.sum().backward()
    assert clamped[0, 0].item() == math.copysign(10.0, unclamped) and clamped[0, 1] == plain[0, 1]
    assert logprobs.grad[0, 0] == 0 and logprobs.grad[0, 1] != 0
    broken = kl_penalty(torch.tensor([[math.nan, -1.0]]), torch.zeros(1, 2), torch.ones(1, 2), estimator, clamp=10.0)
    assert not broken.sum().isfinite()


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        # logprob = ln 0.5, reference = ln 0.25: d = ref - logprob = -ln 2 = -0.693147
        ("k1", 0.693147, 1.0),  # -d; its gradient is that of logprob
        ("k2", 0.240227, 0.693147),  # d^2 / 2 = 0.480453 / 2; gradient -d
        ("k3", 0.193147, 0.5),  # exp(d) - d - 1 = 0.5 + 0.693147 - 1; gradient 1 - exp(d)
    ],
)
def test_kl_estimators_by_hand(estimator, value, gradient):
    logprobs = torch.tensor([[0.5]], dtype=torch.float64).log().requires_grad_()
    ref = torch.tensor([[0.25]], dtype=torch.float64).log()
    kl = kl_penalty(logprobs, ref, torch.ones(1, 1), estimator)
    kl.sum().backward()
    assert kl.item() == pytest.approx(value, abs=1e-6)
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_a_function_takes_the_settings_of_grpo_so_that_a_comparison_differs_in_the_weight_alone():
    def reinforce(x):
        return torch.ones_like(x.ratio)

    assert replace(resolve_loss(reinforce), token_weight=LOSSES["grpo"].token_weight, source="") == replace(
        LOSSES["grpo"], source=""
    )
    assert resolve_loss(reinforce).token_weight is reinforce
