"""Values of a grid compared at the same draws of everything else: which one succeeds more often, with an interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from ganscale.sweep.config import SweepSettings
from ganscale.sweep.score import succeeded
from ganscale.sweep.space import Parameter
from ganscale.sweep.statistics import mean_bound
from ganscale.sweep.table import Entry


@dataclass(frozen=True)
class Difference:
    """How much more often the seeds of one value succeed than those of another.

    Attributes:
        better: the value whose seeds succeed more often.
        worse: the other.
        share: mean difference of the shares over the draws, in [0, 1].
        interval: of the mean, by Student's t over the draws, in [-1, 1]; None where all draws differ alike.
        draws: in which both were tried.
    """

    better: str
    worse: str
    share: float
    interval: tuple[float, float] | None
    draws: int

    def as_json(self) -> dict[str, Any]:
        """Plain mappings."""
        return asdict(self)

    def __str__(self) -> str:
        between = "" if self.interval is None else f" ({self.interval[0]:+.2f} to {self.interval[1]:+.2f})"
        return f"{self.better} over {self.worse}: {self.share:+.2f}{between} on {self.draws} draws"


def differences(
    entries: Sequence[Entry], parameter: Parameter, metrics: Sequence[str], settings: SweepSettings, *, cells: int
) -> list[Difference]:
    """All pairs of a grid's values, each compared within the draws that both were tried with.

    A draw's difficulty, which both values share, does not widen the interval, as it does those of the rates themselves.

    Args:
        entries: configurations; those without a row are left out.
        parameter: the grid.
        metrics: that are optimized, the first leads.
        settings: section `sweep`.
        cells: combinations of all grids, each of which every draw is tried with.
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
        found.append(Difference(str(better), str(worse), fmean(each), _interval(each, settings), len(common)))
    return sorted(found, key=lambda difference: -difference.share)


def _interval(each: Sequence[float], settings: SweepSettings) -> tuple[float, float] | None:
    if stdev(each) == 0.0:
        return None
    low, high = (mean_bound(each, settings.confidence, upper=upper) for upper in (False, True))
    return max(-1.0, low), min(1.0, high)
