"""The exact small example of docs/method.md: when the flip helps a rare good token, and when it does not."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = runpy.run_path(str(DOCS / "rare_token.py"))
Setting, rare_token_path = EXAMPLE["Setting"], EXAMPLE["rare_token_path"]


def test_with_one_step_per_batch_all_methods_are_equal():
    one_step = Setting(coupling=2.0, steps=1, lr=1.0)
    aspo, no_is, grpo = (rare_token_path(name, one_step, batches=3) for name in ("aspo", "no_is", "grpo"))
    assert (aspo == no_is).all() and (aspo == grpo).all()


def test_the_first_step_is_the_policy_gradient():
    # By hand. Context 0 has 0.1 of the prompts, p = (0.05, 0.55, 0.4) and R = (1, 0, 0), so that its advantages are
    # A = (R - 0.05) / sqrt(0.05 * 0.95). The logit of action a moves by 0.1 * p_a * A_a, because sum(p * A) is 0.
    alone = rare_token_path("grpo", Setting(coupling=0.0, steps=1, lr=1.0), batches=1)
    std = (0.05 * 0.95) ** 0.5
    moves = [0.1 * p * (reward - 0.05) / std for p, reward in ((0.05, 1), (0.55, 0), (0.4, 0))]
    weights = [p * 2.718281828459045**move for p, move in zip((0.05, 0.55, 0.4), moves, strict=True)]
    assert alone[0].tolist() == pytest.approx([0.05, weights[0] / sum(weights)], rel=1e-12)


def test_the_flip_brings_back_a_rare_good_token_that_other_updates_pushed_down():
    paths = {name: rare_token_path(name, EXAMPLE["PUSHED_DOWN"], batches=3) for name in EXAMPLE["METHODS"]}
    for path in paths.values():
        assert path[0, 1] < 0.2 * path[0, 0]  # the first step pushes it far down
    assert paths["aspo"][0, -1] > paths["aspo"][0, 0] > paths["grpo"][0, -1]
    assert paths["aspo"][-1, -1] > paths["no_is"][-1, -1] > 10 * paths["grpo"][-1, -1]


def test_a_rare_good_token_that_only_rises_learns_a_little_slower_with_the_flip():
    aspo, grpo = (float(rare_token_path(name, EXAMPLE["ALONE"])[-1, -1]) for name in ("aspo", "grpo"))
    assert 0.9 * grpo < aspo < grpo


def test_the_table_of_the_page_is_that_of_the_script():
    assert EXAMPLE["table"]() in (DOCS / "method.md").read_text(encoding="utf-8"), "run: python docs/rare_token.py"
