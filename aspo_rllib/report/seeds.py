"""A figure with one dot per seed: the final values behind the means and tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from aspo_rllib.report.chart import Chart, look, plain, png
from aspo_rllib.report.methods import Method


def seeds_chart(methods: Sequence[Method], metric: str, last: int) -> Chart | None:
    """The figure with one row of dots per method; None if no trial has a final value."""
    finals = [method.finals(metric, last) for method in methods]
    by_seed = [method.finals_by_seed(metric, last) for method in methods]
    if not any(finals):
        return None
    figure = Figure(figsize=(7, 1.1 + 0.4 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(finals):
        axes.plot(values, np.full(len(values), row), **(look(row) | {"linestyle": "none"}))
        if values:
            axes.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], "-", color="black", lw=2.2)
    for row, (upper, lower) in enumerate(pairwise(by_seed)):
        for seed in upper.keys() & lower.keys():
            axes.plot([upper[seed], lower[seed]], [row, row + 1], "-", color="0.75", lw=0.8, zorder=0)
    axes.set_yticks(range(len(methods)), [plain(method.label) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlabel(f"final {metric}")
    axes.grid(axis="x", alpha=0.3)
    ranges = [f"{m.label} {min(v):.3g} to {max(v):.3g}" for m, v in zip(methods, finals, strict=True) if v]
    alt = f"A row per method with a dot per seed of the final {metric}: {', '.join(ranges)}."
    caption = "A dot per finished trial; the bar is the mean; grey lines join equal seeds in neighbouring rows."
    return Chart("seeds", f"Final {metric}, seed by seed", caption, alt, png(figure))
