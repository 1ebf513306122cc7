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
    plan: str | Path | None = None,
) -> Path:
    """Write report.html, its figures as PNGs and the trials' values as results.csv; returns the page's path.

    Args:
        results_dir: A Tune experiment's folder, or one with several experiments.
        out: Folder for the files; None: `report` in `results_dir`.
        metric: The metric to compare, by its name in the results; nested names are joined by "/".
        baseline: Label of the method that the others are compared with. None: "grpo", or else the first label that
            starts with it, or else the first label.
        last: A trial's final value is the mean of its last `last` values, >= 1.
        plan: A plan.toml with the comparisons that the experiment was made for. None: that in `results_dir`, if there
            is one. docs/tune.md shows its fields.

    Raises:
        ValueError: if the folder has no result, no result has the metric, the baseline is unknown, last < 1, or the
            plan has an unknown field or method.
    """
    # These imports are slow. Here they do not delay --help on the command line.
    from aspo_rllib.report import plan as plans
    from aspo_rllib.report.methods import group_methods
    from aspo_rllib.report.page import Experiment, draw, render
    from aspo_rllib.report.planned import planned_results
    from aspo_rllib.report.results import read_trials
    from aspo_rllib.report.table import write_csv

    if last < 1:
        raise ValueError(f"last={last}: expected an int >= 1.")
    results_dir = Path(results_dir)
    trials = read_trials(results_dir)
    if not any(trial.series(metric) for trial in trials):
        names = {name for trial in trials for row in trial.rows.values() for name in row}
        alike = sorted(name for name in names if "accuracy" in name or name.startswith(metric.partition("/")[0]))
        raise ValueError(f"metric={metric!r}: no result has such values; expected one such as {alike[:10]}.")
    plan_path = Path(plan) if plan is not None else results_dir / plans.FILE
    planned = plans.read_plan(plan_path) if plan is not None or plan_path.exists() else None
    methods = group_methods(trials, baseline, planned.methods if planned else None)
    results = planned_results(planned, methods, last) if planned else []
    experiment = Experiment(results_dir, trials, methods, metric, last, results)
    charts, missing = draw(experiment)
    out = Path(out) if out is not None else results_dir / "report"
    out.mkdir(parents=True, exist_ok=True)
    for chart in charts.values():
        (out / f"{chart.name}.png").write_bytes(chart.png)
    metrics = dict.fromkeys([metric, *(result.planned.metric for result in results)])
    write_csv(out / "results.csv", methods, list(metrics), last)
    path = out / "report.html"
    path.write_text(render(experiment, charts, missing), encoding="utf-8")
    return path
