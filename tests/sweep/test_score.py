"""The score of a configuration over all of its seeds: failures count, luck does not."""

import math

import numpy as np
import pytest
from scipy import stats

from ganscale.sweep.config import SweepSettings
from ganscale.sweep.score import (
    SeedResult,
    mean_interval,
    objectives,
    pareto_front,
    seed_from_json,
    standing,
    succeeded,
    wilson,
)


def seeds(*values: float, metric: str = "frechet", failed: int = 0) -> list[SeedResult]:
    valid = [SeedResult(i, 100, {metric: value}) for i, value in enumerate(values)]
    return valid + [SeedResult(90 + i, 50, {metric: 1.0}, "collapse") for i in range(failed)]


LOWER = SweepSettings()
RATE = SweepSettings(score="success_rate", threshold=50.0)


def score(results: list[SeedResult], settings: SweepSettings = LOWER, metric: str = "frechet") -> float:
    return standing(results, (metric,), settings).score


def test_the_bound_is_on_the_pessimistic_side() -> None:
    assert score(seeds(10, 12, 11)) == pytest.approx(-mean_interval([10, 12, 11], 0.95)[1])
    rising = score(seeds(10, 12, 11, metric="modes"), metric="modes")
    assert rising == pytest.approx(mean_interval([10, 12, 11], 0.95)[0])


def test_steady_beats_lucky() -> None:
    assert score(seeds(20, 21, 22)) > score(seeds(5, 30, 28))


def test_a_failure_costs_more_than_any_metric() -> None:
    assert (
        score(seeds(900, 950, 999)) > score(seeds(1, 1, failed=1)) > score(seeds(1, failed=2)) > score(seeds(failed=3))
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_is_always_finite(value: float) -> None:
    for settings in (LOWER, RATE):
        for metric in ("frechet", "modes"):
            assert math.isfinite(score(seeds(value, 2, 3, metric=metric), settings, metric))
            assert math.isfinite(standing([], (metric,), settings).score)


def test_a_number_that_is_none_is_a_failure() -> None:
    assert standing(seeds(math.nan, 2, 3), ("frechet",), LOWER).failures == 1
    assert score(seeds(math.nan, 2, 2)) < score(seeds(90, 90, 90))


def test_success_rate() -> None:
    summary = standing(seeds(40, 50, 60, failed=1), ("frechet",), RATE)
    assert summary.successes == 2
    assert summary.rate_interval == wilson(2, 4, 0.95)
    assert summary.score == pytest.approx(wilson(2, 4, 0.95)[0], abs=1e-5)
    assert score(seeds(40, 41, 60), RATE) > score(seeds(1, 60, 60), RATE)
    assert score(seeds(30, 31, 32), RATE) > score(seeds(40, 41, 42), RATE)  # equal rates: the bound decides


@pytest.mark.parametrize(
    ("metric", "value", "failure", "success"),
    [
        ("modes", 8.0, "", True),
        ("modes", 7.0, "", False),
        ("modes", 8.0, "diverged", False),
        ("frechet", 3.0, "", True),
    ],
)
def test_success_follows_the_metrics_direction(metric: str, value: float, failure: str, success: bool) -> None:
    settings = SweepSettings(threshold=8.0)
    assert succeeded(SeedResult(0, 1, {metric: value}, failure), (metric,), settings) is success


def test_pareto_front() -> None:
    assert pareto_front([(1, 1), (2, 0), (0, 2), (0, 0), (1, 1)]) == [0, 1, 2, 4]
    assert pareto_front([]) == []


def test_objectives_point_up() -> None:
    summary = standing(
        [SeedResult(i, 1, {"frechet": 10.0 + i, "modes": 5.0 + i}) for i in range(3)], ("frechet", "modes"), LOWER
    )
    first, second = objectives(summary, ("frechet", "modes"))
    assert first < -10 < 0 < second < 7


def test_json_and_back() -> None:
    result = SeedResult(3, 100, {"frechet": math.nan, "modes": 4.0}, "collapse: x", audited=True)
    back = seed_from_json(result.as_json())
    assert math.isnan(back.values["frechet"])
    assert (back.seed, back.images, back.values["modes"], back.failure) == (3, 100, 4.0, "collapse: x")
    assert back.audited
    assert not back.has_ended
    recorded_earlier = {key: value for key, value in result.as_json().items() if key != "audited"}
    assert seed_from_json(recorded_earlier).has_ended


def test_the_interval_of_a_mean_is_students() -> None:
    values = [1.0, 4.0, 2.5, 3.0]
    expected = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values, 0.9) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 3), (1, 3), (3, 3), (17, 40), (189, 200)])
def test_wilson(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    assert wilson(successes, trials, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_trial_gives_no_information() -> None:
    assert wilson(0, 0, 0.95) == (0.0, 1.0)
