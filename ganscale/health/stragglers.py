"""Which worker the others wait for: pure functions of the times that ranks have measured.

In lock step all ranks take equally long for an iteration. The slowest waits least, so ranks are compared by what they
need for themselves: computation and data. All numbers are the same on all ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ganscale.parallel.clock import RankTimes

METRICS = (
    *("compute_seconds", "compute_seconds_max", "data_seconds", "data_seconds_max"),
    *("waiting_seconds", "slowest_rank"),
)
"""Names of `time_metrics`; those of one worker are a part of them."""
LEAST = 1.0
"""Seconds that a straggler must have cost: short runs on a busy machine show larger ratios by chance."""


def time_metrics(ranks: Sequence[RankTimes], iterations: int, *, waits: bool) -> dict[str, float]:
    """Medians and maxima over ranks, in seconds per iteration, and the rank that needs most for itself.

    Args:
        ranks: times between two ticks, by rank.
        iterations: between the ticks.
        waits: whether the host waits in collectives, as on CPUs; else only the times of data are known.
    """
    compute, waiting, data = ([each[part] / iterations for each in ranks] for part in range(3))
    metrics = {"data_seconds": median(data)} | ({"compute_seconds": median(compute)} if waits else {})
    if len(ranks) == 1:
        return metrics
    metrics["data_seconds_max"] = max(data)
    if waits:
        slowest = max(range(len(ranks)), key=lambda rank: compute[rank] + data[rank])
        metrics |= {"compute_seconds_max": max(compute), "waiting_seconds": median(waiting)}
        metrics["slowest_rank"] = float(slowest)
    return metrics


@dataclass(frozen=True)
class Straggler:
    """A rank that the others wait for.

    Attributes:
        rank: of the worker.
        phase: in which it loses most: "compute" or "data".
        ratio: the time that it needs for itself, by the median rank's.
        lost: seconds by which it exceeds that.
    """

    rank: int
    phase: str
    ratio: float
    lost: float


def find_straggler(ticks: Sequence[Sequence[RankTimes]], *, factor: float) -> Straggler | None:
    """The rank that needed `factor` times the median rank's time for itself in each of the ticks; of several the worst.

    Of an even number of ranks the lower middle one is the median, so that one of two may be slow. A rank with more rows
    than that one may take longer in proportion.

    Args:
        ticks: times by rank, of the ticks to judge, at least one.
        factor: above 1.
    """
    found = []
    for rank in range(len(ticks[0])):
        pairs = [(tick[rank], _expected(tick, rank)) for tick in ticks]
        if all(own.compute + own.data >= factor * (usual.compute + usual.data) for own, usual in pairs):
            compute = sum(own.compute - usual.compute for own, usual in pairs)
            data = sum(own.data - usual.data for own, usual in pairs)
            needed = sum(usual.compute + usual.data for _, usual in pairs)
            phase, lost = "data" if data > compute else "compute", compute + data
            found.append(Straggler(rank, phase, (needed + lost) / max(needed, 1e-9), lost))
    worst = max(found, key=lambda each: each.lost, default=None)
    return worst if worst and worst.lost >= LEAST else None


def _expected(tick: Sequence[RankTimes], rank: int) -> RankTimes:
    """The times of the median rank, with this one's rows if it has more."""
    usual = sorted(tick, key=lambda each: each.compute + each.data)[(len(tick) - 1) // 2]
    more = max(1.0, tick[rank].rows / usual.rows)
    return RankTimes(more * usual.compute, usual.waiting, more * usual.data, more * usual.rows)
