"""Intervals against scipy's."""

import numpy as np
import pytest
from scipy import stats

from ganscale.sweep.statistics import mean_bound, student_cdf, student_quantile, wilson


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 101])
def test_student(df: int) -> None:
    for t in (0.0, 0.3, 1.7, 12.0):
        assert student_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-12)
    for p in (0.6, 0.9, 0.975, 0.999):
        assert student_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9)


def test_ends_of_a_mean() -> None:
    values = [1.0, 4.0, 2.5, 3.0]
    low, high = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_bound(values, 0.9, upper=False) == pytest.approx(low)
    assert mean_bound(values, 0.9, upper=True) == pytest.approx(high)


@pytest.mark.parametrize(("successes", "trials"), [(0, 3), (1, 3), (3, 3), (17, 40), (189, 200)])
def test_wilson(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    assert wilson(successes, trials, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0, 0.95) == (0.0, 1.0)
