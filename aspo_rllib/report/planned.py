"""The results of the planned comparisons: tests over paired seeds, corrected together, and equivalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aspo_rllib.report import statistics
from aspo_rllib.report.methods import Method
from aspo_rllib.report.plan import Plan, PlannedComparison
from aspo_rllib.report.verdict import ALPHA, decimals_for

RULE = (
    "The planned comparisons were written down before the experiment ran. Each has a two-sided sign-flip test over"
    " paired seeds, and Holm's correction counts all of them together, whatever their metric. A hypothesis is supported"
    f" if its corrected p is at most {ALPHA} and the difference has the expected sign, and contradicted if the"
    " difference has the other sign. If the 90 % t-interval of the difference lies within the bounds of equivalence,"
    f" the methods are equivalent within them (two one-sided t-tests at {ALPHA}, not corrected). Everything else is"
    " undecided."
)


@dataclass(frozen=True, eq=False)
class PlannedResult:
    """The result of a planned comparison.

    Attributes:
        differences: method minus baseline, by the seeds that both have.
        interval: 90 % t-interval of the mean difference, None for fewer than two pairs.
        p, p_holm: p value of the sign-flip test, and after correction; None for fewer than two pairs.
    """

    planned: PlannedComparison
    differences: Mapping[int, float]
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.differences.values())))

    @property
    def equivalent(self) -> bool:
        """Whether no difference larger than the bound is compatible with the seeds."""
        bound = self.planned.equivalence
        return bound is not None and self.interval is not None and max(map(abs, self.interval)) <= bound

    @property
    def verdict(self) -> str:
        """The verdict as text: supported, contradicted, equivalent within ..., undecided, or too few pairs."""
        if self.p_holm is None:
            return "too few pairs"
        within = f"equivalent within {self.planned.equivalence:g}" if self.planned.equivalence else ""
        if self.planned.expect == "equal":
            if self.equivalent:
                return f"supported: {within}"
            return "contradicted" if self.p_holm <= ALPHA else "undecided"
        if self.p_holm <= ALPHA:
            as_expected = (self.mean > 0) == (self.planned.expect == "higher")
            size = f", but {within}" if self.equivalent else ""
            return ("supported" if as_expected else "contradicted") + size
        return within if self.equivalent else "undecided"


def planned_results(plan: Plan, methods: Sequence[Method], last: int) -> list[PlannedResult]:
    """The results of all planned comparisons, in the plan's order.

    last: a final value is the mean of the last `last` values.
    Raises ValueError if the plan names a method that the experiment does not have.
    """
    differences = [_differences(planned, methods, last) for planned in plan.comparisons]
    values = [list(d.values()) for d in differences]
    p_values = [statistics.sign_flip_p(v) for v in values]
    corrected = iter(statistics.holm([p for p in p_values if p is not None]))
    return [
        PlannedResult(
            planned, d, statistics.t_interval(v, level=1 - 2 * ALPHA), p, next(corrected) if p is not None else None
        )
        for planned, d, v, p in zip(plan.comparisons, differences, values, p_values, strict=True)
    ]


def cells(result: PlannedResult) -> list[str]:
    """The result as the row of a table: hypothesis, pairs, difference, interval, p, corrected p, verdict."""
    planned = result.planned
    what = f"the mean of {planned.metric} over training" if planned.value == "area" else f"the final {planned.metric}"
    relation = {"higher": "is higher than", "lower": "is lower than", "equal": "equals"}[planned.expect]
    hypothesis = f"{what} of {planned.method} {relation} that of {planned.baseline}"
    if result.p is None or result.interval is None:
        return [hypothesis, str(len(result.differences)), "n/a", "n/a", "n/a", "n/a", result.verdict]
    decimals = decimals_for([*result.differences.values(), *result.interval])
    low, high = result.interval
    return [
        hypothesis,
        str(len(result.differences)),
        f"{result.mean:+.{decimals}f}",
        f"[{low:.{decimals}f}, {high:.{decimals}f}]",
        f"{result.p:.3g}",
        f"{result.p_holm:.3g}",
        result.verdict,
    ]


def _differences(planned: PlannedComparison, methods: Sequence[Method], last: int) -> dict[int, float]:
    by_label = {method.label: method for method in methods}
    if missing := [label for label in (planned.method, planned.baseline) if label not in by_label]:
        raise ValueError(f"the plan compares {missing[0]!r}: expected one of the methods {sorted(by_label)}.")
    ours, theirs = (
        method.areas_by_seed(planned.metric) if planned.value == "area" else method.finals_by_seed(planned.metric, last)
        for method in (by_label[planned.method], by_label[planned.baseline])
    )
    return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
