"""Analysis of the results: success rates and importance of settings, differences of a grid's values, false alarms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, median
from typing import Any

import numpy as np

from ganscale.config.evaluation import METRICS
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.results import Entry
from ganscale.sweep.score import SeedResult, has_failed, mean_interval, succeeded, wilson
from ganscale.sweep.space import Parameter

BINS = 3
"""Parts of a range, with equally many configurations each."""
PERMUTATIONS = 1000


@dataclass(frozen=True)
class Rate:
    """Success of the runs at one value of a setting."""

    value: str  # the value as a text; for a range, a part of it
    successes: int  # runs that reached the threshold; without one, that did not fail
    runs: int  # all seeds of all configurations
    configs: int  # number of configurations
    # wilson's interval with each configuration as one trial, as its seeds are not independent
    interval: tuple[float, float]

    @property
    def share(self) -> float:
        """Share of the runs that succeeded."""
        return self.successes / self.runs


def success_rates(
    entries: Sequence[Entry], parameter: Parameter, metrics: Sequence[str], settings: SweepSettings
) -> list[Rate]:
    """Success by the value of a setting, in the order of its options or from low to high.

    Args:
        entries: Configurations with at least one row.
        parameter: The setting; configurations to which it does not apply are left out.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.
    """
    rates = []
    for value, group in value_groups(entries, parameter):
        seeds = [seed for entry in group for seed in entry.rows[-1].seeds]
        good = sum(succeeded(seed, metrics, settings) for seed in seeds)
        interval = wilson(good / len(seeds) * len(group), len(group), settings.confidence)
        rates.append(Rate(value, good, len(seeds), len(group), interval))
    return rates


def success_curve(results: Sequence[SeedResult], metric: str) -> tuple[list[float], list[float]]:
    """The share of seeds that reach a threshold, as a function of the threshold.

    Args:
        results: Results of all seeds; failed seeds reach no threshold.
        metric: Name of the metric.

    Returns:
        The values at which the share changes, from the strictest threshold on, and the share from each value on.
    """
    valid = [result.values[metric] for result in results if not has_failed(result, (metric,))]
    values = sorted(valid, reverse=METRICS[metric].higher_is_better)
    return values, [(i + 1) / len(results) for i in range(len(values))]


def value_groups(entries: Sequence[Entry], parameter: Parameter) -> list[tuple[str, list[Entry]]]:
    """Entries by the value of a setting: by option, or by part of a range with equally many entries each.

    Args:
        entries: Configurations; those to which the setting does not apply are left out.
        parameter: The setting.
    """
    own = [entry for entry in entries if parameter.name in entry.drawn]
    if not parameter.is_number:
        groups = [(str(o), [e for e in own if e.drawn[parameter.name] == o]) for o in parameter.options]
        return [(label, group) for label, group in groups if group]
    own.sort(key=lambda entry: entry.drawn[parameter.name])
    size = max(1, math.ceil(len(own) / BINS))
    parts = [own[i : i + size] for i in range(0, len(own), size)]
    return [(f"{part[0].drawn[parameter.name]:.2g} to {part[-1].drawn[parameter.name]:.2g}", part) for part in parts]


@dataclass(frozen=True)
class Audit:
    """What health verdicts saved by ending seeds, and how often they were false alarms."""

    seeds: int  # all seeds of all configurations
    ended: int  # seeds that a verdict ended
    images_saved: int  # images that those were not trained on; without verdicts a scheduler may have saved some too
    continued: int  # seeds that got a verdict and were trained to the end
    false_alarms: int  # seeds of those that succeeded
    threshold: float | None  # first metric's value from which they did; None: any finite value
    # wilson's interval of the share of false alarms, with each configuration as one trial
    interval: tuple[float, float]

    def describe(self, metric: str) -> str:
        """The audit as a sentence.

        Args:
            metric: The first metric.
        """
        saved = f"health verdicts ended {self.ended} of {self.seeds} seeds, saving about {self.images_saved:,} images"
        if not self.continued:
            return f"{saved}; no seed with a verdict was trained to the end to find false alarms (sweep.audit_share)"
        success = "remained finite" if self.threshold is None else f"reached {metric} {self.threshold:.4g}"
        low, high = self.interval
        return (
            f"{saved}; of {self.continued} that got one and were trained to the end, {self.false_alarms} {success} "
            f"(share of false alarms: interval {low:.2f} to {high:.2f}, or {low * self.ended:.0f} to "
            f"{high * self.ended:.0f} of those ended)"
        )


def audit(entries: Sequence[Entry], metrics: Sequence[str], settings: SweepSettings, *, images: int) -> Audit:
    """Estimate the false alarms from the seeds of `sweep.audit_share`, which verdicts did not end.

    Such a seed is a false alarm if it reached the sweep's threshold; without one, the median of the seeds that were
    trained to the end without a verdict.

    Args:
        entries: Configurations with at least one row.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.
        images: Length of the runs.
    """
    seeds = [(entry, seed) for entry in entries for seed in entry.rows[-1].seeds]
    ended = [(entry, seed) for entry, seed in seeds if seed.has_ended]
    saved = sum((images if entry.status == "complete" else entry.images) - seed.images for entry, seed in ended)
    complete = [(entry, seed) for entry, seed in seeds if entry.status == "complete"]
    audited = [(entry, seed) for entry, seed in complete if seed.failure and seed.audited]
    threshold, metric = settings.threshold, metrics[:1]
    if threshold is None:
        values = [seed.values[metrics[0]] for _, seed in complete if not has_failed(seed, metric)]
        threshold = median(values) if values else None
    goal = settings.model_copy(update={"threshold": threshold})
    good = sum(succeeded(replace(seed, failure=""), metric, goal) for _, seed in audited)
    configs = len({entry.index for entry, _ in audited})
    interval = wilson(good / len(audited) * configs if audited else 0, configs, settings.confidence)
    return Audit(len(seeds), len(ended), saved, len(audited), good, threshold, interval)


@dataclass(frozen=True)
class Difference:
    """Difference of the success rates of two values of a grid."""

    better: str  # the value with more successes
    worse: str  # the other value
    share: float  # mean difference of the rates over the draws, in [0, 1]
    # interval of the mean by Student's t over the draws, in [-1, 1]; None if all draws differ equally
    interval: tuple[float, float] | None
    draws: int  # number of draws with which both values were tried

    def __str__(self) -> str:
        between = "" if self.interval is None else f" ({self.interval[0]:+.2f} to {self.interval[1]:+.2f})"
        return f"{self.better} over {self.worse}: {self.share:+.2f}{between} on {self.draws} draws"


def differences(
    entries: Sequence[Entry], parameter: Parameter, metrics: Sequence[str], settings: SweepSettings, *, cells: int
) -> list[Difference]:
    """Compare all pairs of a grid's values within the draws with which both were tried.

    The difficulty of a draw, common to both values, does not widen the interval as it does those of the rates.

    Args:
        entries: Configurations; those without a row are left out.
        parameter: The grid.
        metrics: Metrics that are optimized.
        settings: Section `sweep`.
        cells: Number of combinations of all grids, each of which every draw is tried with.
    """
    shares: dict[Any, dict[int, list[float]]] = {}
    for entry in entries:
        if entry.rows and parameter.name in entry.drawn:
            by_draw = shares.setdefault(entry.drawn[parameter.name], {})
            share = fmean(succeeded(seed, metrics, settings) for seed in entry.rows[-1].seeds)
            by_draw.setdefault(entry.index // cells, []).append(share)
    found = []
    for one, other in combinations(shares, 2):
        common = sorted(shares[one].keys() & shares[other].keys())
        if len(common) < 2:
            continue
        each = [fmean(shares[one][draw]) - fmean(shares[other][draw]) for draw in common]
        better, worse = (one, other) if fmean(each) >= 0 else (other, one)
        each = each if better == one else [-value for value in each]
        low, high = mean_interval(each, settings.confidence)
        interval = (max(-1.0, low), min(1.0, high)) if low < high else None
        found.append(Difference(str(better), str(worse), fmean(each), interval, len(common)))
    return sorted(found, key=lambda difference: -difference.share)


@dataclass(frozen=True)
class Importance:
    """How much of the difference between configurations one setting explains."""

    name: str  # name of the setting
    explained: float  # share of the variance of the scores' ranks between its values (eta squared), in [0, 1]
    by_chance: float  # 95 % quantile of the same under random assignments of the values
    p: float  # share of random assignments that explain at least as much


def importances(entries: Sequence[Entry], parameters: Sequence[Parameter], *, seed: int = 0) -> list[Importance]:
    """Settings by the share of the variance of the scores' ranks that they explain, the most important first.

    It is a one-way analysis of variance of ranks (Kruskal and Wallis 1952) with a permutation test: no interactions,
    no causes where settings were not drawn independently. Configurations to which a setting does not apply are left
    out of its row.

    Args:
        entries: Complete configurations; with population-based training, values are the last ones.
        parameters: Parameters of the space.
        seed: Seed of the permutations.
    """
    from scipy.stats import rankdata

    found = []
    for parameter in parameters:
        own = [entry for entry in entries if parameter.name in entry.drawn]
        groups = _groups(own, parameter)
        if len(own) < 4 or len(np.unique(groups)) < 2:
            continue
        ranks = rankdata([entry.standing.score for entry in own])
        explained, generator = _eta_squared(ranks, groups), np.random.default_rng(seed)
        chance = np.array([_eta_squared(ranks, generator.permutation(groups)) for _ in range(PERMUTATIONS)])
        p = (1 + int((chance >= explained - 1e-12).sum())) / (1 + PERMUTATIONS)
        found.append(Importance(parameter.name, explained, float(np.quantile(chance, 0.95)), p))
    return sorted(found, key=lambda importance: -importance.explained)


def _groups(entries: Sequence[Entry], parameter: Parameter) -> np.ndarray:
    """Number of each entry's option, or of its part of the range: `[N]`."""
    values = [entry.drawn[parameter.name] for entry in entries]
    if not parameter.is_number:
        return np.array([parameter.options.index(value) for value in values], dtype=int)
    if not values:
        return np.zeros(0, dtype=int)
    edges = np.quantile(np.array(values, dtype=float), np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, np.array(values, dtype=float), side="left")


def _eta_squared(ranks: np.ndarray, groups: np.ndarray) -> float:
    total = ((ranks - ranks.mean()) ** 2).sum()
    if total == 0:
        return 0.0
    masks = [groups == group for group in np.unique(groups)]
    return float(sum(mask.sum() * (ranks[mask].mean() - ranks.mean()) ** 2 for mask in masks) / total)
