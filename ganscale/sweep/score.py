"""The quality of a configuration over all of its seeds: a pessimistic bound or a success rate, not the best seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from ganscale.config.evaluation import METRICS
from ganscale.sweep.config import SweepSettings

FAILURE = 1e9
"""Cost of one failed seed in a score: more than any value of a metric."""


@dataclass(frozen=True)
class SeedResult:
    """One run of a configuration, so far."""

    seed: int  # `run.seed`
    images: int  # images that it was trained on
    values: Mapping[str, float]  # metrics of its newest evaluation; NaN where samples were not finite
    failure: str = ""  # why it failed; empty if it did not
    audited: bool = False  # whether it is trained on after a health verdict, to see whether the verdict was wrong

    @property
    def has_ended(self) -> bool:
        """Whether a health verdict ended its training."""
        return bool(self.failure) and not self.audited

    def as_json(self) -> dict[str, Any]:
        """Plain mappings; None in place of what is not finite."""
        return {**asdict(self), "values": {name: finite_or_none(value) for name, value in self.values.items()}}


def seed_from_json(raw: Mapping[str, Any]) -> SeedResult:
    """The inverse of `SeedResult.as_json`.

    Args:
        raw: The parsed JSON; null values become NaN.
    """
    values = {name: math.nan if value is None else float(value) for name, value in raw["values"].items()}
    return SeedResult(raw["seed"], raw["images"], values, raw["failure"], raw.get("audited", False))


@dataclass(frozen=True)
class Standing:
    """A configuration by all of its seeds."""

    score: float  # what schedulers and searchers compare; higher is better, always finite
    means: dict[str, float]  # mean of each metric over the seeds that did not fail; NaN if all failed
    bounds: dict[str, float]  # pessimistic end of each metric's interval; NaN if fewer than two seeds did not fail
    failures: int  # number of failed seeds
    successes: int | None  # number of seeds that reached the threshold; None without one
    rate_interval: tuple[float, float] | None  # wilson's interval of the success rate; None without a threshold

    def as_json(self) -> dict[str, Any]:
        """Plain mappings; None in place of what is not finite."""
        finite = {
            what: {name: finite_or_none(value) for name, value in values.items()}
            for what, values in (("means", self.means), ("bounds", self.bounds))
        }
        return asdict(self) | finite


def finite_or_none(value: float) -> float | None:
    """The value if it is finite, else None.

    Args:
        value: Any number.
    """
    return value if math.isfinite(value) else None


def mean_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Two-sided confidence interval of a mean by Student's t, for normal values.

    Args:
        values: At least two.
        confidence: In (0, 1).
    """
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes a second to import

    mean, degrees = fmean(values), len(values) - 1
    half = float(stdtrit(degrees, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def wilson(successes: float, trials: int, confidence: float) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson 1927); (0, 1) without a trial.

    Args:
        successes: From 0 to `trials`; may be fractional, which scipy's `binomtest` refuses.
        trials: Number of trials.
        confidence: In (0, 1).
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def has_failed(result: SeedResult, metrics: Sequence[str]) -> bool:
    """Whether a seed failed or one of its metrics is not finite.

    Args:
        result: The seed's result.
        metrics: Names of the metrics.
    """
    return bool(result.failure) or any(not math.isfinite(result.values.get(m, math.nan)) for m in metrics)


def succeeded(result: SeedResult, metrics: Sequence[str], settings: SweepSettings) -> bool:
    """Whether a seed reached the sweep's threshold; without a threshold, whether it did not fail.

    Args:
        result: The seed's result.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.
    """
    if settings.threshold is None or has_failed(result, metrics[:1]):
        return not has_failed(result, metrics)
    value = result.values[metrics[0]]
    return value >= settings.threshold if METRICS[metrics[0]].higher_is_better else value <= settings.threshold


def standing(results: Sequence[SeedResult], metrics: Sequence[str], settings: SweepSettings) -> Standing:
    """Summarize a configuration over its seeds.

    With `lower_bound` the score is the first metric's pessimistic bound (signed so that higher is better), and every
    failed seed costs more than any metric. With `success_rate` it is the lower end of Wilson's interval; the bound only
    orders configurations of equal rates.

    Args:
        results: Results of all seeds.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.
    """
    valid = [result for result in results if not has_failed(result, metrics)]
    failures = len(results) - len(valid)
    means = {m: fmean([r.values[m] for r in valid]) if valid else math.nan for m in metrics}
    bounds = {m: _bound([r.values[m] for r in valid], m, settings.confidence) for m in metrics}
    bound = _clamped(_signed(metrics[0], bounds[metrics[0]]))
    score = bound - FAILURE * failures
    if settings.threshold is None:
        return Standing(score, means, bounds, failures, None, None)
    successes = sum(succeeded(result, metrics, settings) for result in results)
    interval = wilson(successes, len(results), settings.confidence)
    if settings.score == "success_rate":
        score = interval[0] + 1e-6 * bound / (1 + abs(bound))
    return Standing(score, means, bounds, failures, successes, interval)


def _bound(values: Sequence[float], metric: str, confidence: float) -> float:
    if len(values) < 2:
        return math.nan
    return mean_interval(values, confidence)[0 if METRICS[metric].higher_is_better else 1]


def _signed(metric: str, value: float) -> float:
    return value if METRICS[metric].higher_is_better else -value


def _clamped(value: float) -> float:
    """A finite number that every scheduler can compare."""
    return max(-0.4 * FAILURE, min(0.4 * FAILURE, value)) if math.isfinite(value) else -0.4 * FAILURE


def objectives(standing: Standing, metrics: Sequence[str]) -> tuple[float, ...]:
    """The pessimistic bound of each metric, higher is better, with failures counted as in the score.

    Args:
        standing: Summary of the configuration.
        metrics: Metrics that are optimized.
    """
    cost = FAILURE * standing.failures
    return tuple(_clamped(_signed(metric, standing.bounds[metric])) - cost for metric in metrics)


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point dominates (higher is better).

    Args:
        points: Points of equal length.
    """

    def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
