"""The paper's central figure: token weights by the token's old probability and the sign of its advantage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aspo_rllib.report.chart import FEWEST_SEEDS_OF_AN_INTERVAL, Chart, legend, look, png
from aspo_rllib.report.methods import Method
from aspo_rllib.report.statistics import t_interval

METRICS = "weight_by_prob/*"
LAST_ITERATIONS = 10
_SIGNS = {"pos": "A > 0", "neg": "A < 0"}
_TENTHS = range(10)


def weights_chart(methods: Sequence[Method]) -> Chart | None:
    """The figure of mean token weights by old probability, one panel per sign; None if no trial has these metrics."""
    weights = {(i, sign): seed_weights(method, sign) for i, method in enumerate(methods) for sign in _SIGNS}
    shown = sorted({i for (i, _), by_tenth in weights.items() if any(by_tenth)})
    if not shown:
        return None
    figure = Figure(figsize=(9, 3.7 + 0.22 * -(-len(methods) // 3)), layout="constrained")
    for axes, (sign, heading) in zip(figure.subplots(1, 2, sharey=True), _SIGNS.items(), strict=True):
        for place, index in enumerate(shown):
            # Methods are drawn side by side, because below the clip all losses without a flip have equal weights.
            offset = 0.07 * ((place + 0.5) / len(shown) - 0.5)
            _draw(axes, weights[index, sign], index, offset)
        axes.axhline(1, color="0.5", lw=0.8, zorder=0)
        axes.set(xlabel="old probability of the token", title=heading, xlim=(0, 1), xticks=np.arange(11) / 10)
        axes.grid(alpha=0.3, axis="x")
    figure.axes[0].set_ylabel("mean token weight")
    legend(figure, methods, shown)
    caption = (
        f"Means over each trial's last {LAST_ITERATIONS} iterations, then over seeds (bars: 95 % t-interval, from"
        f" {FEWEST_SEEDS_OF_AN_INTERVAL} seeds on), of tokens whose probability before the update lies in a tenth;"
        " clipped tokens count with weight 0. All iterations count equally, for any number of tokens in the tenth."
    )
    ends = [
        f"{methods[i].label} {_mean(weights[i, 'pos'][0])} for the least likely tenth and"
        f" {_mean(weights[i, 'pos'][9])} for the likeliest"
        for i in shown
    ]
    alt = f"Mean token weight by old probability. For positive advantages: {'; '.join(ends)}."
    return Chart("token_weights", "Token weight by old probability and sign", caption, alt, png(figure))


def seed_weights(method: Method, sign: str) -> list[list[float]]:
    """For each tenth of the old probability, the mean weight of every trial that has tokens in it.

    sign: sign of the advantage, "pos" or "neg".
    """
    weights = []
    for tenth in _TENTHS:
        series = [(trial.iterations, trial.series(f"weight_by_prob/{sign}/{tenth}")) for trial in method.trials]
        recent = [[v for i, v in s.items() if i > end - LAST_ITERATIONS] for end, s in series]
        weights.append([float(np.mean(values)) for values in recent if values])
    return weights


def _draw(axes: Axes, weights: list[list[float]], index: int, offset: float) -> None:
    tenths = [k for k in _TENTHS if weights[k]]
    at = [k / 10 + 0.05 + offset for k in tenths]
    axes.plot(at, [np.mean(weights[k]) for k in tenths], **look(index))
    for x, k in zip(at, tenths, strict=True):
        interval = t_interval(weights[k])
        if len(weights[k]) >= FEWEST_SEEDS_OF_AN_INTERVAL and interval is not None:
            # Student's interval may contain negative numbers, but a weight is never negative.
            axes.plot([x, x], np.clip(interval, 0, None), color=look(index)["color"], lw=1, zorder=1)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3g}" if values else "no value"
