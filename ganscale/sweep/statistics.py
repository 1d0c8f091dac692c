"""Intervals for few seeds: Student's t for means, Wilson's score interval for shares. Plain Python, no scipy."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev


def student_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t, degrees of freedom a whole number (Abramowitz and Stegun 1964, 26.7.3-26.7.4)."""
    angle = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    term, total = (cosine, cosine) if df % 2 else (1.0, 1.0)
    for k in range(2 if df % 2 else 1, df - 1, 2):
        term *= k / (k + 1) * cosine**2
        total += term
    if df == 1:
        total = 0.0
    inside = 2.0 / math.pi * (angle + sine * total) if df % 2 else sine * total
    return 0.5 * (1.0 + inside)


def student_quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p, 0.5 <= p < 1, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, df) < p:
        high *= 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_cdf(middle, df) < p else (low, middle)
    return high


def mean_bound(values: Sequence[float], confidence: float, *, upper: bool) -> float:
    """One end of the two-sided confidence interval of a mean, assuming normal values.

    Args:
        values: at least two.
        confidence: of the interval, in (0, 1).
        upper: which end.
    """
    half = student_quantile(0.5 + confidence / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) + (half if upper else -half)


def wilson(successes: float, trials: int, confidence: float) -> tuple[float, float]:
    """Both ends of the confidence interval of a share (Wilson 1927); (0, 1) where there is no trial."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)
