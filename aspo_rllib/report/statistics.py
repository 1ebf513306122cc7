"""Means over a few seeds, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 9999
BOOTSTRAP_COVERAGE = {2: 0.51, 3: 0.71, 5: 0.85, 10: 0.90}
"""How often the bootstrap interval of normal draws holds the mean, by their number (tests/test_report.py)."""
MAX_EXACT = 20
RANDOM_SIGN_FLIPS = 100_000


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for fewer than two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean; None for fewer than two values."""
    error = standard_error(values)
    if error is None:
        return None
    half_width = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return float(np.mean(values)) - half_width, float(np.mean(values)) + half_width


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Bootstrap interval (BCa, 95 %) of the mean; None for fewer than two values.

    Too narrow for few values: see BOOTSTRAP_COVERAGE.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # BCa is 0/0 there
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, confidence_level=LEVEL, method="BCa", rng=seed
    ).confidence_interval
    return float(interval.low), float(interval.high)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided p of the hypothesis that every difference could as well have had the other sign.

    None for fewer than two. Over all 2^n sign patterns up to n = 20, so that it is exact whatever the differences'
    distribution; beyond, over random patterns.
    """
    n = len(differences)
    if n < 2:
        return None
    size = np.abs(differences)
    if n <= MAX_EXACT:
        sums = np.zeros(1)
        for d in size:
            sums = np.concatenate([sums + d, sums - d])
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(RANDOM_SIGN_FLIPS, n))
        # The pattern that was seen is one of them, so that p is never 0.
        sums = np.append(signs @ size, np.sum(differences))
    # Equal sums may differ in their last bits.
    return float(np.mean(np.abs(sums) >= abs(np.sum(differences)) - 1e-12 * size.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p values that keep the chance of any false alarm among all of them below the level."""
    adjusted = np.zeros(len(p_values))
    highest = 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted.tolist()


def fewest_pairs(num_comparisons: int, alpha: float) -> int:
    """The fewest pairs with which a sign-flip test can get below alpha after Holm's correction."""
    n = 1
    while num_comparisons * 2.0 ** (1 - n) > alpha:
        n += 1
    return n
