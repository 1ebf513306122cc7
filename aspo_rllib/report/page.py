"""The page of the report: its figures, tables and texts in their order."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.report import confounds, curves, html, planned, statistics, weights
from aspo_rllib.report.chart import Chart
from aspo_rllib.report.curves import curves_chart, panels_chart
from aspo_rllib.report.methods import Method, common_settings, short
from aspo_rllib.report.planned import PlannedResult
from aspo_rllib.report.results import Trial
from aspo_rllib.report.seeds import seeds_chart
from aspo_rllib.report.verdict import RULE, Comparison, compare, decimals_for, headline, sentence, too_few
from aspo_rllib.run import provenance

# Metric -> title; one figure for each.
_CURVES = {
    "reward/accuracy": "Training accuracy",
    "entropy/mean": "Mean token entropy (nats)",
    "entropy/pos_mean": "Entropy of tokens with A > 0 (nats)",
    "entropy/neg_mean": "Entropy of tokens with A < 0 (nats)",
    "clip/pos_frac": "Share of tokens clipped, A > 0",
    "clip/neg_frac": "Share of tokens clipped, A < 0",
    "kl/old": "KL divergence from the policy before the update (nats per token)",
    "ratio/mean": "Mean importance ratio",
    "length/mean": "Completion length (tokens)",
}
_NAMED_REWARD = re.compile(r"reward/([^/]+)/mean")
_FIRST = ("learning_curves", "learning_panels")
_LAST = ("token_weights", "seeds")
# The fields of RLlib that describe the experiment. All fields of this package are shown.
_RLLIB_FIELDS = {
    *("env", "env_config", "num_env_runners", "num_learners", "lr", "grad_clip", "num_epochs"),
    *("evaluation_config", "evaluation_duration", "evaluation_interval"),
}


@dataclass(frozen=True)
class Experiment:
    """The contents of a report.

    Attributes:
        trials: all trials, sorted by folder.
        methods: the trials in groups, the baseline first.
        metric: the metric to compare the methods by.
        last: a final value is the mean of the last `last` values.
        planned: the results of the comparisons that were planned; empty without a plan.
    """

    results_dir: Path
    trials: Sequence[Trial]
    methods: Sequence[Method]
    metric: str
    last: int
    planned: Sequence[PlannedResult] = ()


def draw(experiment: Experiment) -> tuple[dict[str, Chart], list[str]]:
    """The figures by name, and the metrics whose figures are left out because no trial has them."""
    methods, metric = experiment.methods, experiment.metric
    shown = {"learning_curves": (metric, f"{metric} over training")}
    titles = _CURVES | _named_rewards(experiment.trials)
    shown |= {name.replace("/", "_"): (name, title) for name, title in titles.items() if name != metric}
    charts = {name: curves_chart(methods, *what, name=name) for name, what in shown.items()}
    charts["token_weights"] = weights.weights_chart(methods)
    metrics = {name: what[0] for name, what in shown.items()} | {"token_weights": weights.METRICS}
    missing = [metrics[name] for name, chart in charts.items() if chart is None]
    charts["learning_panels"] = panels_chart(methods, metric)
    charts["seeds"] = seeds_chart(methods, metric, experiment.last)
    return {name: chart for name, chart in charts.items() if chart is not None}, missing


def _named_rewards(trials: Sequence[Trial]) -> dict[str, str]:
    """Metric and title of every named reward of the training batches."""
    found = {name: _NAMED_REWARD.fullmatch(name) for trial in trials for row in trial.rows.values() for name in row}
    return {name: f"Reward {match[1]!r}" for name, match in sorted(found.items()) if match}


def render(experiment: Experiment, charts: dict[str, Chart], missing: Sequence[str]) -> str:
    """The whole page."""
    comparisons = compare(experiment.methods, experiment.metric, experiment.last)
    finals = [v for m in experiment.methods for v in m.finals(experiment.metric, experiment.last)]
    decimals = decimals_for(finals)
    pictures = {name: html.picture(c.title, c.caption, c.alt, c.png) for name, c in charts.items()}
    left_out = [f"No figure of {', '.join(missing)}: no trial has such values."] if missing else []
    return html.page(
        f"Experiment {experiment.results_dir.resolve().name}",
        [
            html.heading("What was run"),
            _what_was_run(experiment),
            *_planned(experiment.planned),
            html.heading("Explored comparisons" if experiment.planned else "Verdict"),
            _verdict(experiment, comparisons, decimals),
            html.heading("Final results"),
            *_results(experiment, comparisons, decimals),
            html.heading("Learning curves"),
            html.paragraph(curves.note(experiment.methods, experiment.metric)),
            *(pictures[name] for name in _FIRST if name in pictures),
            html.pictures([picture for name, picture in pictures.items() if name not in _FIRST + _LAST]),
            html.heading("Token weights and seeds"),
            *(pictures[name] for name in _LAST if name in pictures),
            *(html.paragraph(text) for text in left_out),
            html.heading("Hyper-parameters"),
            *_settings(experiment),
            html.heading("Trials"),
            _trials_table(experiment, decimals),
            html.heading("How the numbers were made"),
            html.items(_notes(experiment)),
        ],
    )


def _what_was_run(experiment: Experiment) -> str:
    trials = experiment.trials
    rows = [row for trial in trials for row in trial.rows.values()]
    starts = [row["timestamp"] - row.get("time_total_s", 0) for row in rows if "timestamp" in row]
    ends = [row["timestamp"] for row in rows if "timestamp" in row]
    facts = {
        "environment": _values(trials, "env"),
        "model": _values(trials, "llm_model"),
        "methods": str(len(experiment.methods)),
        "trials": f"{len(trials)}, of them {sum(t.finished for t in trials)} finished",
        "seeds": ", ".join(map(str, sorted({t.seed for t in trials if t.seed is not None}))) or "not set",
        "iterations": _span([t.iterations for t in trials if t.rows]),
        "time": f"{_minute(min(starts))} to {_minute(max(ends))} UTC" if ends else "unknown",
        "versions": _versions(experiment.results_dir),
    }
    return html.facts(facts)


def _planned(results: Sequence[PlannedResult]) -> list[str]:
    """The section on the planned comparisons; empty without a plan."""
    if not results:
        return []
    columns = ("hypothesis", "pairs", "difference", "90 % interval", "p", "p (Holm)", "verdict")
    table = html.table(columns, [planned.cells(r) for r in results], "Planned comparisons", numbers=columns[1:-1])
    return [html.heading("Planned comparisons"), html.paragraph(planned.RULE), table]


def _verdict(experiment: Experiment, comparisons: Sequence[Comparison], decimals: int) -> str:
    tested = sum(c.p is not None for c in comparisons)
    # Without any test the headline is sufficient.
    ordered = sorted(comparisons, key=lambda c: -c.mean if c.pairs else np.inf) if tested else []
    sentences = [sentence(c, experiment.metric, num_comparisons=tested, decimals=decimals) for c in ordered]
    return html.verdict(headline(comparisons, experiment.metric), sentences, _remarks(experiment, comparisons))


def _remarks(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[str]:
    """Remarks that are needed to interpret the verdict."""
    remarks = []
    if experiment.planned:
        remarks.append("These comparisons were not planned, or not in this form: read them as questions for new runs.")
    if any(c.interval for c in comparisons):
        few = ", too narrow for few pairs (see the table)" if min(c.pairs for c in comparisons) < 10 else ""
        remarks.append(f"Brackets: 95 % bootstrap intervals of the mean difference in final {experiment.metric}{few}.")
    if text := too_few(comparisons):
        remarks.append(text)
    trials = experiment.trials
    if out := [t for t in trials if t.final(experiment.metric, experiment.last) is None]:
        remarks.append(
            f"{len(out)} of {len(trials)} trials did not finish with values of {experiment.metric} and are not in these"
            " numbers (see Trials). If a method's bad runs are the ones that crash, it looks better here than it is."
        )
    lengths = [t.iterations for t in trials if t.finished]
    if len(set(lengths)) > 1:
        remarks.append(
            f"Finished trials ended at different iterations, {_span(lengths)}: their final values are not equally far"
            " into training."
        )
    return remarks


def _results(experiment: Experiment, comparisons: Sequence[Comparison], decimals: int) -> list[str]:
    by_method = {c.method: c for c in comparisons}
    rows = []
    for method in experiment.methods:
        finals = method.finals(experiment.metric, experiment.last)
        error = statistics.standard_error(finals)
        mean = f"{np.mean(finals):.{decimals}f}" if finals else "n/a"
        row = [method.label, mean, f"{error:.{decimals}f}" if error is not None else "n/a", str(len(finals))]
        rows.append(row + _difference_cells(by_method.get(method), decimals))
    columns = ("method", "mean", "std. error", "n", "difference", "95 % interval", "pairs", "p", "p (Holm)")
    text = f"Final values: {_final_rule(experiment)}, here averaged over n finished seeds."
    if comparisons:
        text += f" The difference is to {experiment.methods[0].label}, over paired seeds."
    if any(c.interval for c in comparisons):
        covered = ", ".join(f"{share:.0%} of the time with {n}" for n, share in statistics.BOOTSTRAP_COVERAGE.items())
        text += (
            " Its bootstrap interval is too narrow for few pairs: of normal draws it holds the true mean"
            f" {covered} pairs, instead of 95%."
        )
    parts = [html.paragraph(text), html.table(columns, rows, f"Final {experiment.metric}", numbers=columns[1:])]
    return parts + confounds.section(comparisons)


def _difference_cells(comparison: Comparison | None, decimals: int) -> list[str]:
    if comparison is None:
        return ["baseline", "", "", "", ""]
    if not comparison.pairs:
        return ["n/a", "n/a", "0", "n/a", "n/a"]
    low_high = comparison.interval
    interval = f"[{low_high[0]:.{decimals}f}, {low_high[1]:.{decimals}f}]" if low_high else "n/a"
    p_values = [f"{p:.3g}" if p is not None else "n/a" for p in (comparison.p, comparison.p_holm)]
    return [f"{comparison.mean:+.{decimals}f}", interval, str(comparison.pairs), *p_values]


def _settings(experiment: Experiment) -> list[str]:
    names = list(experiment.methods[0].settings)
    parts = []
    if names:
        rows = [[m.label, *(short(m.settings[name]) for name in names)] for m in experiment.methods]
        parts.append(html.paragraph("Settings that differ between methods; None is the method's own default."))
        parts.append(html.table(("method", *names), rows, "Differing settings"))
    else:
        parts.append(html.paragraph("The settings of all trials are equal, except perhaps for the seed."))
    chosen = _RLLIB_FIELDS | (vars(ASPOSettings()).keys() - vars(AlgorithmConfig()).keys())
    common = common_settings(experiment.trials)
    main = {n: short(v) for n, v in common.items() if n.partition("/")[0] in chosen and v is not None}
    rest = {n: short(v) for n, v in common.items() if n not in main}
    parts.append(html.paragraph("Settings that are equal in all trials; those with the value None are collapsed."))
    parts.append(html.facts(main))
    parts.append(html.details(f"{len(rest)} more fields", html.facts(rest)))
    return parts


def _trials_table(experiment: Experiment, decimals: int) -> str:
    rows = []
    for method in experiment.methods:
        for trial in sorted(method.trials, key=lambda t: (t.seed is None, t.seed, t.name)):
            final = trial.final(experiment.metric, experiment.last)
            value = f"{final:.{decimals}f}" if final is not None else "n/a"
            rows.append([method.label, str(trial.seed), trial.status, str(trial.iterations), value, trial.name])
    columns = ("method", "seed", "status", "iterations", "final", "folder")
    return html.table(columns, rows, "Every trial folder", numbers=("seed", "iterations", "final"))


def _notes(experiment: Experiment) -> list[str]:
    notes = [
        f"Final value of a trial: {_final_rule(experiment)}. Only finished trials have one.",
        "A method is a set of trials with equal settings except for the seed. A pair is the same seed in two methods:"
        " the same prompts in the same order, from the same initial weights. Trials of one method that repeat a seed"
        " are averaged before they are paired.",
        RULE,
        f"Intervals of differences: BCa bootstrap of the mean, {statistics.BOOTSTRAP_RESAMPLES} resamples, seeded, not"
        " corrected for several comparisons; none for fewer than two pairs. The sign-flip test is exact up to"
        f" {statistics.MAX_EXACT} pairs.",
        "The statistics are over seeds. All trials answer the same evaluation prompts, so that they do not cover other"
        " prompts, models or tasks." + _prompt_error(experiment),
        "Curves: the mean over the trials that have a value at an iteration; a trial that ended early counts until"
        " then. NaN and infinite values are left out.",
    ]
    return notes


def _prompt_error(experiment: Experiment) -> str:
    """A sentence with the standard error over prompts of the last evaluation; "" if the trials do not report it."""
    names = {n for t in experiment.trials for row in t.rows.values() for n in row if n.startswith("evaluation/avg_at_")}
    errors = [t.series(name) for name in sorted(names) if name.endswith("_se") for t in experiment.trials]
    last = [list(series.values())[-1] for series in errors if series]
    if not experiment.metric.startswith("evaluation/") or not last:
        return ""
    return f" The standard error of a single evaluation over its prompts is about {np.mean(last):.2g}."


def _final_rule(experiment: Experiment) -> str:
    if experiment.last == 1:
        return f"the last value of {experiment.metric}"
    return f"the mean of the last {experiment.last} values of {experiment.metric} (of all after iteration 0 if fewer)"


def _values(trials: Sequence[Trial], field: str) -> str:
    return ", ".join(sorted({short(t.config[field]) for t in trials if t.config.get(field) is not None})) or "unknown"


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) != max(numbers) else str(numbers[0])


def _minute(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M")


def _versions(results_dir: Path) -> str:
    """The versions and git revisions from the records in the folders of the runs."""
    records = [record for path in results_dir.rglob(provenance.FILE) for record in json.loads(path.read_text())]
    found = {f"{name} {version}" for record in records for name, version in record["versions"].items()}
    revisions = {record["git"]["revision"][:12] for record in records if record["git"]}
    return ", ".join([*sorted(found), *(f"git {revision}" for revision in sorted(revisions))]) or "unknown"
