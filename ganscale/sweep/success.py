"""How often runs succeed, value by value of a setting, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganscale.config.evaluation import METRICS
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.importance import BINS
from ganscale.sweep.score import SeedResult, has_failed, succeeded
from ganscale.sweep.space import Parameter
from ganscale.sweep.statistics import wilson
from ganscale.sweep.table import Entry


@dataclass(frozen=True)
class Rate:
    """The runs at one value of a setting.

    Attributes:
        value: as a text; of a range, a part of it.
        successes: runs that reached the threshold, or without one did not fail.
        runs: all seeds of all configurations.
        configs: configurations.
        interval: Wilson's, as if each configuration were one trial: its seeds are not independent, and to count them as
            such would make the interval too narrow.
    """

    value: str
    successes: int
    runs: int
    configs: int
    interval: tuple[float, float]

    @property
    def share(self) -> float:
        """Of the runs."""
        return self.successes / self.runs

    def as_json(self) -> dict[str, Any]:
        """Plain mappings."""
        return {**self.__dict__, "share": self.share}


def success_rates(
    entries: Sequence[Entry], parameter: Parameter, metrics: Sequence[str], settings: SweepSettings
) -> list[Rate]:
    """Success by the value of a setting, in the order of its options or from low to high.

    Args:
        entries: configurations with at least one row.
        parameter: the setting; configurations that it does not apply to are left out.
        metrics: that are optimized, the first leads.
        settings: section `sweep`.
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
        results: of all seeds; failed ones reach no threshold.
        metric: that is compared.

    Returns:
        Values at which the share changes, the strictest threshold first, and the share from each of them on.
    """
    sound = [result.values[metric] for result in results if not has_failed(result, (metric,))]
    values = sorted(sound, reverse=METRICS[metric].higher_is_better)
    return values, [(i + 1) / len(results) for i in range(len(values))]


def value_groups(entries: Sequence[Entry], parameter: Parameter) -> list[tuple[str, list[Entry]]]:
    """Entries by the value of a setting: each option, or parts of a range with equally many entries."""
    own = [entry for entry in entries if parameter.name in entry.drawn]
    if not parameter.is_number:
        groups = [(str(o), [e for e in own if e.drawn[parameter.name] == o]) for o in parameter.options]
        return [(label, group) for label, group in groups if group]
    own.sort(key=lambda entry: entry.drawn[parameter.name])
    size = max(1, math.ceil(len(own) / BINS))
    parts = [own[i : i + size] for i in range(0, len(own), size)]
    return [(f"{part[0].drawn[parameter.name]:.2g} to {part[-1].drawn[parameter.name]:.2g}", part) for part in parts]
