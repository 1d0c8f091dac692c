"""How good a configuration is, by all of its seeds: a pessimistic bound or a success rate, never the luckiest seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ganscale.config.evaluation import METRICS
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.statistics import mean_bound, wilson

FAILURE = 1e9
"""What one failed seed costs in a score: more than any value of a metric can make up for."""


@dataclass(frozen=True)
class SeedResult:
    """One run of a configuration, so far.

    Attributes:
        seed: run.seed.
        images: that it was trained on.
        values: metrics of its newest evaluation; NaN where samples were not finite.
        failure: why it counts as failed; empty if it does not.
    """

    seed: int
    images: int
    values: Mapping[str, float]
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain mappings; what is not finite becomes None."""
        values = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
        return {**asdict(self), "values": values}


def seed_from_json(raw: Mapping[str, Any]) -> SeedResult:
    """Read back what `SeedResult.as_json` gave."""
    values = {name: math.nan if value is None else float(value) for name, value in raw["values"].items()}
    return SeedResult(raw["seed"], raw["images"], values, raw["failure"])


@dataclass(frozen=True)
class Standing:
    """A configuration by all of its seeds.

    Attributes:
        score: higher is better, always finite; what schedulers and searches compare.
        means: of each metric over the seeds that did not fail; NaN if fewer than one.
        bounds: pessimistic end of each metric's interval; NaN if fewer than two seeds did not fail.
        failures: seeds that failed.
        successes: seeds that reached the threshold; None without one.
        rate_interval: Wilson's interval of the success rate; None without a threshold.
    """

    score: float
    means: dict[str, float]
    bounds: dict[str, float]
    failures: int
    successes: int | None
    rate_interval: tuple[float, float] | None


def is_success(result: SeedResult, metric: str, threshold: float) -> bool:
    """Whether a seed reached the threshold and did not fail."""
    value = result.values.get(metric, math.nan)
    if result.failure or not math.isfinite(value):
        return False
    return value >= threshold if METRICS[metric].higher_is_better else value <= threshold


def has_failed(result: SeedResult, metrics: Sequence[str]) -> bool:
    """Whether a seed was judged failed or a metric of it is not finite."""
    return bool(result.failure) or any(not math.isfinite(result.values.get(m, math.nan)) for m in metrics)


def succeeded(result: SeedResult, metrics: Sequence[str], settings: SweepSettings) -> bool:
    """Whether a seed reached the sweep's threshold, or where there is none did not fail."""
    if settings.threshold is None:
        return not has_failed(result, metrics)
    return is_success(result, metrics[0], settings.threshold)


def standing(results: Sequence[SeedResult], metrics: Sequence[str], settings: SweepSettings) -> Standing:
    """Judge a configuration by its seeds.

    With `lower_bound` the score is the first metric's pessimistic bound (signed so that higher is better), and every
    failed seed costs more than any metric. With `success_rate` it is the lower end of Wilson's interval; the bound only
    orders configurations of equal rates.

    Args:
        results: of all seeds.
        metrics: names, the first leads.
        settings: section `sweep` of the sweep.
    """
    sound = [result for result in results if not has_failed(result, metrics)]
    failures = len(results) - len(sound)
    means = {m: fmean([r.values[m] for r in sound]) if sound else math.nan for m in metrics}
    bounds = {m: _bound([r.values[m] for r in sound], m, settings.confidence) for m in metrics}
    bound = _signed(metrics[0], bounds[metrics[0]])
    if settings.threshold is None:
        return Standing(_finite(bound) - FAILURE * failures, means, bounds, failures, None, None)
    successes = sum(is_success(result, metrics[0], settings.threshold) for result in results)
    interval = wilson(successes, len(results), settings.confidence)
    if settings.score == "success_rate":
        bound = _finite(bound)
        return Standing(interval[0] + 1e-6 * bound / (1 + abs(bound)), means, bounds, failures, successes, interval)
    return Standing(_finite(bound) - FAILURE * failures, means, bounds, failures, successes, interval)


def _bound(values: Sequence[float], metric: str, confidence: float) -> float:
    if len(values) < 2:
        return math.nan
    return mean_bound(values, confidence, upper=not METRICS[metric].higher_is_better)


def _signed(metric: str, value: float) -> float:
    return value if METRICS[metric].higher_is_better else -value


def _finite(value: float) -> float:
    """A number that every scheduler can compare."""
    return max(-0.4 * FAILURE, min(0.4 * FAILURE, value)) if math.isfinite(value) else -0.4 * FAILURE


def objectives(standing: Standing, metrics: Sequence[str]) -> tuple[float, ...]:
    """The pessimistic bound of each metric, higher is better, with failures counted as in the score."""
    cost = FAILURE * standing.failures
    return tuple(_finite(_signed(metric, standing.bounds[metric])) - cost for metric in metrics)


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other is at least as good as in everything and better in something."""

    def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]
