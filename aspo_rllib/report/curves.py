"""Metrics over training iterations: the mean over seeds and its confidence band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aspo_rllib.report.chart import FEWEST_SEEDS_OF_AN_INTERVAL, Chart, legend, limit, look, plain, png
from aspo_rllib.report.methods import Method
from aspo_rllib.report.statistics import t_interval

MAX_HATCHED_BANDS = 3
_BAND = f"95 % t-intervals of the mean, from {FEWEST_SEEDS_OF_AN_INTERVAL} seeds on"
_HATCHES = ("////", "\\\\\\\\")


@dataclass(frozen=True)
class Curve:
    """A method's mean over seeds by iteration. `low` and `high` are NaN at iterations without a band."""

    iterations: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_seeds: int


def mean_curve(method: Method, metric: str) -> Curve | None:
    """The mean over the trials that have the metric at an iteration; None if no trial has it."""
    series = [s for trial in method.trials if (s := trial.series(metric))]
    if not series:
        return None
    iterations = sorted({i for s in series for i in s})
    values = [[s[i] for s in series if i in s] for i in iterations]
    bands = [t_interval(v) if len(v) >= FEWEST_SEEDS_OF_AN_INTERVAL else None for v in values]
    low, high = np.array([band or (np.nan, np.nan) for band in bands]).T
    return Curve(np.array(iterations), np.array([np.mean(v) for v in values]), low, high, len(series))


def curves_chart(methods: Sequence[Method], metric: str, title: str, name: str) -> Chart | None:
    """A figure of a metric over iterations, with one line per method; None if no method has the metric."""
    curves = {i: c for i, method in enumerate(methods) if (c := mean_curve(method, metric)) is not None}
    if not curves:
        return None
    figure = Figure(figsize=(5.6, 3.6 + 0.22 * -(-len(methods) // 3)), layout="constrained")
    axes = figure.subplots()
    for index, curve in curves.items():
        _draw_band(axes, curve, index, hatched=len(curves) <= MAX_HATCHED_BANDS)
        _draw_line(axes, curve, index)
    axes.set(xlabel="iteration", ylabel=metric)
    _finish(axes, methods, metric)
    legend(figure, methods, list(curves))
    last = ", ".join(f"{methods[i].label} {curve.mean[-1]:.3g}" for i, curve in curves.items())
    alt = f"Lines of {metric} over training iterations. Last means: {last}."
    return Chart(name, title, "", alt, png(figure))


def panels_chart(methods: Sequence[Method], metric: str) -> Chart | None:
    """A figure of many methods with their bands: one panel per method, which also has the baseline's curve.

    None if a single panel can show all methods, or if the baseline has no curve.
    """
    curves = {i: c for i, method in enumerate(methods) if (c := mean_curve(method, metric)) is not None}
    baseline = curves.pop(0, None)
    if baseline is None or len(curves) < MAX_HATCHED_BANDS:
        return None
    columns = 2 if len(curves) <= 4 else 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(9, 2.6 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (index, curve) in zip(grid.flat, curves.items(), strict=False):
        for place, drawn in ((0, baseline), (index, curve)):
            _draw_band(axes, drawn, place, hatched=True)
            _draw_line(axes, drawn, place)
        axes.set_title(plain(methods[index].label), fontsize=10)
        _finish(axes, methods, metric)
    figure.supxlabel("iteration")
    figure.supylabel(metric)
    caption = f"Each method (hatched) and {methods[0].label} (solid black line, plain grey band); bands are {_BAND}."
    alt = f"Small panels of {metric} over iterations, one per method, each also with {methods[0].label}."
    return Chart("learning_panels", f"{metric}, method by method", caption, alt, png(figure))


def _draw_band(axes: Axes, curve: Curve, index: int, *, hatched: bool) -> None:
    band = (curve.iterations, curve.low, curve.high)
    color = look(index)["color"]
    axes.fill_between(*band, color=color, alpha=0.15 if hatched else 0.08, lw=0)
    if hatched and index > 0:
        hatch = _HATCHES[index % len(_HATCHES)]
        axes.fill_between(*band, fc="none", ec=color, hatch=hatch, alpha=0.3, lw=0)


def _draw_line(axes: Axes, curve: Curve, index: int) -> None:
    # About eight markers per line, at different iterations for different methods.
    every = max(1, len(curve.iterations) // 8)
    axes.plot(curve.iterations, curve.mean, **look(index), markevery=(index % every, every))


def _finish(axes: Axes, methods: Sequence[Method], metric: str) -> None:
    limit(axes, methods, metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)


def note(methods: Sequence[Method], metric: str) -> str:
    """A sentence that explains the lines and bands of all curves, for the beginning of their section."""
    seeds = [len(method.trials) for method in methods if mean_curve(method, metric) is not None]
    if max(seeds, default=1) == 1:
        return "There is one seed per method: the curves have no bands."
    few = " Methods with fewer seeds have a line only." if min(seeds) < FEWEST_SEEDS_OF_AN_INTERVAL else ""
    return f"Lines are means over seeds, and bands are {_BAND}.{few} Each axis ends at the extremes of single seeds."
