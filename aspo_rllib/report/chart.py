"""The common parts of all figures: texts, the style of each method, the legend, and PNG output. Needs matplotlib."""

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
"""Student's interval of two values is 18 standard deviations wide and would fill the figure."""

_DPI = 140
# The colours of Okabe and Ito without yellow; consecutive colours differ in brightness.
_COLORS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7")
_LINES = ("-", "--", "-.", (0, (1, 1.2)), (0, (7, 2, 1, 2, 1, 2)))
_MARKERS = "osD^vPX*<>hp"


@dataclass(frozen=True)
class Chart:
    """A figure with its texts.

    Attributes:
        name: name of its file, without the extension.
        alt: a description of the image for screen readers.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def look(index: int) -> dict[str, Any]:
    """The line style of the method with this index, the same in all figures; index 0 is the baseline.

    The styles can also be distinguished in black and white.
    """
    return {
        "color": _COLORS[index % len(_COLORS)],
        "linestyle": _LINES[index % len(_LINES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5.5,
        "markerfacecolor": "white",
        "linewidth": 1.6,
    }


def legend(figure: Figure, methods: Sequence[Method], shown: Sequence[int]) -> None:
    """Add a legend below the figure, with the methods at the indices `shown`."""
    handles = [Line2D([], [], **look(i)) for i in shown]
    labels = [plain(methods[i].label) for i in shown]
    columns = 1 if max(map(len, labels)) > 30 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=4, fontsize=9)


def limit(axes: Axes, methods: Sequence[Method], metric: str) -> None:
    """Limit the axis to the range of single seeds, because the interval of three seeds can be many times wider."""
    values = [v for method in methods for trial in method.trials for v in trial.series(metric).values()]
    margin = 0.06 * (max(values) - min(values)) or 0.06 * abs(values[0]) or 0.06
    axes.set_ylim(min(values) - margin, max(values) + margin)


def plain(label: str) -> str:
    """A label with escaped "$", which matplotlib would read as a formula."""
    return label.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    # The Agg backend draws into files and needs no display.
    FigureCanvasAgg(figure)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=_DPI)
    return data.getvalue()
