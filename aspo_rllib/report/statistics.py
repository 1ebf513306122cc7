"""Statistics of means over a few seeds: standard errors, intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 9999
BOOTSTRAP_COVERAGE = {2: 0.51, 3: 0.71, 5: 0.85, 10: 0.90}
"""Number of normal draws -> the share of their bootstrap intervals that contain the true mean (see the tests)."""
MAX_EXACT = 20
RANDOM_SIGN_FLIPS = 100_000


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for fewer than two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of the mean, 95 % by default; None for fewer than two values."""
    error = standard_error(values)
    if error is None:
        return None
    half_width = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return float(np.mean(values)) - half_width, float(np.mean(values)) + half_width


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Bootstrap interval (BCa, 95 %) of the mean; None for fewer than two values.

    The interval is too narrow for few values: see BOOTSTRAP_COVERAGE.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # BCa would divide 0 by 0
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, confidence_level=LEVEL, method="BCa", rng=seed
    ).confidence_interval
    return float(interval.low), float(interval.high)


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float | None:
    """Two-sided p value of the hypothesis that both signs of every difference were equally likely.

    None for fewer than two differences. Up to n = 20 all 2^n sign patterns are counted, so that the value is exact for
    any distribution of the differences. For more, random patterns are counted.
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
        # The observed pattern is included, so that p is never 0.
        sums = np.append(signs @ size, np.sum(differences))
    # Equal sums may differ in their last bits.
    return float(np.mean(np.abs(sums) >= abs(np.sum(differences)) - 1e-12 * size.sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of p values, which limits the probability of any false positive among all of them."""
    adjusted = np.zeros(len(p_values))
    highest = 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted.tolist()


def fewest_pairs(num_comparisons: int, alpha: float) -> int:
    """The smallest number of pairs with which a sign-flip test can reach p <= alpha after Holm's correction."""
    n = 1
    while num_comparisons * 2.0 ** (1 - n) > alpha:
        n += 1
    return n
