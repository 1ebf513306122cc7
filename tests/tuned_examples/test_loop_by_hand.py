"""The loop on one page learns, and stays on one page."""

import pytest

from tuned_examples import loop_by_hand


@pytest.mark.parametrize("loss", ["aspo", "grpo"])
def test_it_learns(loss):
    args = loop_by_hand.parser.parse_args(["--loss", loss, "--iterations", "7"])
    means = loop_by_hand.train(args)
    assert means[0] < 0.4 and means[-1] > means[0] + 0.2


def test_it_fits_a_page():
    with open(loop_by_hand.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) < 150
