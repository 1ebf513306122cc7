"""The conclusions about the methods that the seeds allow, as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aspo_rllib.report import statistics
from aspo_rllib.report.methods import Method

ALPHA = 0.05
FEWEST_PAIRS_OF_A_HINT = 5

RULE = (
    "A method is called better (or worse) than the baseline when the sign-flip test over paired seeds gives p"
    f" ≤ {ALPHA} after Holm's correction for the number of methods compared. The test computes how often an average"
    " difference this large would occur if the sign of each seed's difference were random; it assumes no"
    " distribution. With n pairs its p cannot be smaller than 2/2ⁿ: 0.0625 with 5 pairs, 0.031 with 6. So five seeds"
    " can never show a difference by this rule, however large it is. When all of at least"
    f" {FEWEST_PAIRS_OF_A_HINT} pairs agree in sign but p stays above the level, the page says so and calls it a hint."
    " “No difference shown” does not mean that the methods are equal: the interval shows what remains possible."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A method against the baseline, over the seeds that both have.

    Attributes:
        differences: method minus baseline, by seed.
        interval: bootstrap interval of the mean difference; None for fewer than two pairs.
        p: p value of the sign-flip test; None for fewer than two pairs.
        p_holm: p after Holm's correction for all methods that have a p value.
    """

    method: Method
    baseline: Method
    differences: dict[int, float]
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None

    @property
    def pairs(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.differences.values())))

    @property
    def shown(self) -> bool:
        """Whether one of the two methods is better by `RULE`."""
        return self.p_holm is not None and self.p_holm <= ALPHA

    @property
    def hinted(self) -> bool:
        """Whether `RULE` is not met, but all differences of a sufficient number of pairs have the same sign."""
        signs = {np.sign(d) for d in self.differences.values()}
        return not self.shown and self.pairs >= FEWEST_PAIRS_OF_A_HINT and len(signs) == 1 and 0 not in signs


def compare(methods: Sequence[Method], metric: str, last: int) -> list[Comparison]:
    """Compare every method with the first one, which is the baseline."""
    baseline, *others = methods
    reference = baseline.finals_by_seed(metric, last)
    differences = []
    for method in others:
        finals = method.finals_by_seed(metric, last)
        differences.append({seed: finals[seed] - reference[seed] for seed in finals if seed in reference})
    values = [list(d.values()) for d in differences]
    p_values = [statistics.sign_flip_p(d) for d in values]
    corrected = iter(statistics.holm([p for p in p_values if p is not None]))
    return [
        Comparison(method, baseline, d, statistics.bootstrap_interval(v), p, next(corrected) if p is not None else None)
        for method, d, v, p in zip(others, differences, values, p_values, strict=True)
    ]


def headline(comparisons: Sequence[Comparison], metric: str) -> str:
    """One sentence about all comparisons."""
    if not comparisons:
        return "One method: there is nothing to compare."
    better, worse = words(metric)
    tested = [c for c in comparisons if c.p is not None]
    if not tested:
        most = max(c.pairs for c in comparisons)
        return ("One seed" if most == 1 else "No paired seeds") + ": nothing can be said about differences."
    up, down = (sum(c.shown and np.sign(c.mean) == sign for c in tested) for sign in (1, -1))
    hints = sum(c.hinted for c in tested)
    counts = {better: up, worse: down, "with a hint of a difference": hints}
    counts["without a difference shown"] = len(tested) - up - down - hints
    untested = len(comparisons) - len(tested)
    counts["with fewer than two pairs"] = untested
    parts = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
    plural = "method" if len(comparisons) == 1 else "methods"
    return f"{len(comparisons)} {plural} compared with {comparisons[0].baseline.label}: {parts}."


def sentence(comparison: Comparison, metric: str, *, num_comparisons: int, decimals: int) -> str:
    """One sentence about a comparison, by `RULE`.

    num_comparisons: number of comparisons that the p values were corrected for.
    decimals: number of decimals of the differences.
    """
    c = comparison
    method, baseline = c.method.label, c.baseline.label
    if c.pairs == 0:
        return f"{method} and {baseline} share no finished seed: nothing can be said about their difference."
    if c.pairs == 1:
        return (
            f"{method} against {baseline}: one seed: nothing can be said about differences"
            f" (on this seed {c.mean:+.{decimals}f})."
        )
    assert c.interval is not None  # every comparison with at least two pairs has one
    word = words(metric)[0 if c.mean > 0 else 1]
    interval = f"[{c.interval[0]:.{decimals}f}, {c.interval[1]:.{decimals}f}]"
    signed_interval = interval if c.mean > 0 else f"[{-c.interval[1]:.{decimals}f}, {-c.interval[0]:.{decimals}f}]"
    size = f"{abs(c.mean):.{decimals}f} {signed_interval}"
    p = f"sign-flip p = {c.p:.3g}"
    if num_comparisons > 1:
        p += f", {c.p_holm:.3g} corrected for {num_comparisons} comparisons"
    if c.shown:
        return f"{method} is {word} than {baseline} by {size} ({c.pairs} paired seeds, {p})."
    if c.hinted:
        return (
            f"{method} was {word} than {baseline} on all {c.pairs} seeds, by {size} on average: a hint, not yet shown"
            f" ({p})."
        )
    return (
        f"No difference shown between {method} and {baseline}: {c.mean:+.{decimals}f} {interval}"
        f" ({c.pairs} paired seeds, {p})."
    )


def too_few(comparisons: Sequence[Comparison]) -> str | None:
    """A remark if there are too few pairs to show any difference; None if there are enough pairs."""
    tested = [c for c in comparisons if c.p is not None]
    needed = statistics.fewest_pairs(len(tested), ALPHA)
    if all(c.pairs >= needed for c in tested):
        return None
    comparing = f"{len(tested)} comparisons" if len(tested) > 1 else "one comparison"
    return (
        f"With {comparing}, fewer than {needed} paired seeds cannot show a difference, however large: run more seeds"
        " before you conclude that there is none, or that there is one."
    )


def words(metric: str) -> tuple[str, str]:
    """The words for a larger and for a smaller value of a metric."""
    is_score = any(name in metric for name in ("accuracy", "avg_at_", "pass_at_", "maj_at_", "reward"))
    return ("better", "worse") if is_score else ("higher", "lower")


def decimals_for(values: Sequence[float]) -> int:
    """The number of decimals that shows three digits of the largest value; at least three if it is below 1."""
    scale = max((abs(v) for v in values), default=0.0)
    return 3 if scale == 0 else max(0, 3 - max(-3, math.ceil(math.log10(scale))))
