"""docs/method.md and its figure say what `losses` does."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from aspo_rllib.learner.advantages import ADVANTAGES
from aspo_rllib.losses import LOSSES

DOCS = Path(__file__).parents[2] / "docs"
TABLES = runpy.run_path(str(DOCS / "method_tables.py"))
FIGURE = runpy.run_path(str(DOCS / "method_figure.py"))
TABLE_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "method.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]
F64 = torch.float64


def weights_drawn(loss, ratios, advantage):
    return FIGURE["token_weights"](loss, torch.tensor(ratios, dtype=F64), advantage=advantage)


# By hand, at clip 0.2/0.2 and c = 3; cispo at 1 + clip_high = 5.
@pytest.mark.parametrize(
    ("loss", "advantage", "ratios", "weights"),
    [
        ("aspo", 1.0, [0.1, 0.4, 0.8, 1.0, 1.19, 1.21, 5.9], [3.0, 2.5, 1.25, 1.0, 1 / 1.19, 0.0, 0.0]),
        ("aspo", -1.0, [0.1, 0.79, 0.81, 2.5, 5.9], [0.0, 0.0, 0.81, 2.5, 3.0]),
        ("grpo", 1.0, [0.1, 1.19, 1.21], [0.1, 1.19, 0.0]),
        ("grpo", -1.0, [0.79, 0.81, 2.9, 3.1], [0.0, 0.81, 2.9, 0.0]),
        ("no_is", 1.0, [0.1, 1.19, 1.21], [1.0, 1.0, 0.0]),
        ("no_is", -1.0, [0.79, 0.81, 2.9, 3.1], [0.0, 1.0, 1.0, 0.0]),
        ("cispo", 2.0, [0.1, 4.9, 5.9], [0.1, 4.9, 5.0]),
        ("cispo", -2.0, [0.1, 4.9, 5.9], [0.1, 4.9, 5.0]),
    ],
)
def test_the_curves_are_the_weights(loss, advantage, ratios, weights):
    torch.testing.assert_close(weights_drawn(loss, ratios, advantage), torch.tensor(weights, dtype=F64))


def test_the_ratio_after_a_shift_is_that_of_a_softmax():
    logits = torch.tensor([2.0, 0.5, -1.0, -3.0], dtype=F64)
    for token in range(4):
        shifted = logits.clone()
        shifted[token] -= 1.0
        expected = shifted.softmax(0)[token] / logits.softmax(0)[token]
        torch.testing.assert_close(FIGURE["ratio_after_shift"](logits.softmax(0)[token], -1.0), expected)


def test_the_figure_is_drawn(tmp_path):
    FIGURE["draw"](tmp_path / "method.png")
    png = (tmp_path / "method.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 20_000


def test_the_pages_weights_in_numbers():
    (header,) = [row for row in TABLE_ROWS if row[0] == "weight at r ="]
    ratios = [float(cell) for cell in header[1:]]
    rows = [(match, row[1:]) for row in TABLE_ROWS if (match := re.fullmatch(r"`(\w+)`, A ([<>]) 0", row[0]))]
    assert {(match[1], match[2]) for match, _ in rows} == {(n, s) for n in ("aspo", "grpo") for s in "<>"}
    for match, cells in rows:
        expected = weights_drawn(match[1], ratios, 1.0 if match[2] == ">" else -1.0)
        assert [float(cell) for cell in cells] == pytest.approx(expected.tolist(), abs=5e-4)


def test_the_pages_tables_are_made_of_the_rows():
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    assert TABLES["page"](text) == text, "run: python docs/method_tables.py"
    assert set(TABLES["WEIGHTS"]) == set(LOSSES) and set(TABLES["FORMULAS"]) == set(ADVANTAGES)
