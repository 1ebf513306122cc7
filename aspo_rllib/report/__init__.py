"""The report of a comparison of methods over seeds: one HTML page from a Ray Tune experiment's folder.

Needs matplotlib, which the extra `plots` installs.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(
    results_dir: str | Path,
    out: str | Path | None = None,
    *,
    metric: str = "evaluation/accuracy",
    baseline: str | None = None,
    last: int = 3,
) -> Path:
    """Write report.html and its figures as PNGs; returns the page's path.

    Args:
        results_dir: A Tune experiment's folder, or one with several experiments.
        out: Folder for the files; None: `report` in `results_dir`.
        metric: The metric to compare, by its name in the results; nested names are joined by "/".
        baseline: Label of the method that the others are compared with. None: "grpo", or else the first label that
            starts with it, or else the first label.
        last: A trial's final value is the mean of its last `last` values, >= 1.

    Raises:
        ValueError: if the folder has no result, no result has the metric, the baseline is unknown, or last < 1.
    """
    # These imports are slow. Here they do not delay --help on the command line.
    from aspo_rllib.report.methods import group_methods
    from aspo_rllib.report.page import Experiment, draw, render
    from aspo_rllib.report.results import read_trials

    if last < 1:
        raise ValueError(f"last={last}: expected an int >= 1.")
    results_dir = Path(results_dir)
    trials = read_trials(results_dir)
    if not any(trial.series(metric) for trial in trials):
        names = {name for trial in trials for row in trial.rows.values() for name in row}
        alike = sorted(name for name in names if "accuracy" in name or name.startswith(metric.partition("/")[0]))
        raise ValueError(f"metric={metric!r}: no result has such values; expected one such as {alike[:10]}.")
    experiment = Experiment(results_dir, trials, group_methods(trials, baseline), metric, last)
    charts, missing = draw(experiment)
    out = Path(out) if out is not None else results_dir / "report"
    out.mkdir(parents=True, exist_ok=True)
    for chart in charts.values():
        (out / f"{chart.name}.png").write_bytes(chart.png)
    path = out / "report.html"
    path.write_text(render(experiment, charts, missing), encoding="utf-8")
    return path
