"""What all figures share: their words, the look of each method, the legend, the PNG. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aspo_rllib.report.methods import Method

FEWEST_SEEDS_OF_AN_INTERVAL = 3
"""Student's interval of two values is 18 of their standard deviations wide: it would fill the figure."""

_DPI = 140
# Okabe and Ito's colours without the yellow; neighbours differ in brightness.
_COLORS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7")
_LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (7, 2, 1, 2, 1, 2)))
_MARKERS = "osD^vPX*<>hp"


@dataclass(frozen=True)
class Chart:
    """A figure with its words.

    Attributes:
        name: of its file, without the ending.
        alt: what is seen, for those who do not see it.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def look(index: int) -> dict[str, Any]:
    """How the method at this place is drawn in every figure, told apart in black and white too; 0 is the baseline."""
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5.5,
        "markerfacecolor": "white",
        "linewidth": 1.6,
    }


def legend(figure: Figure, methods: Sequence[Method], shown: Sequence[int]) -> None:
    """Below the figure: the methods at these places."""
    handles = [Line2D([], [], **look(i)) for i in shown]
    labels = [plain(methods[i].label) for i in shown]
    columns = 1 if max(map(len, labels)) > 30 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=4, fontsize=9)


def limit(axes: Axes, methods: Sequence[Method], metric: str) -> None:
    """End the axis where single seeds do: the interval of three seeds can be many times wider."""
    values = [v for method in methods for trial in method.trials for v in trial.series(metric).values()]
    margin = 0.06 * (max(values) - min(values)) or 0.06 * abs(values[0]) or 0.06
    axes.set_ylim(min(values) - margin, max(values) + margin)


def plain(label: str) -> str:
    """A label in which matplotlib finds no formulas."""
    return label.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    # Agg: figures for files, wherever this runs.
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return data.getvalue()
