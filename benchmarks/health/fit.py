"""Chooses the limits of the signals from healthy runs, for a wanted rate of false alarms in setups not seen."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

from benchmarks.health.record import Record
from ganscale.health.signals import SIGNALS, Evidence, Limit, read

DEVIATIONS = 4.0
"""Standard deviations, over setups, from the mean of what they reach to the limit."""
MARGIN = 1.0
"""Standard deviations from the largest that any setup reaches to the limit: they are not quite normal."""
LEAST_SPREAD = 0.05
BELOW = 1.0
"""What lies farther below a signal's floor counts as this far: how far does not matter there."""

Maxima = Mapping[str, float]
"""The largest badness of each signal over a run, at any tick."""


def maxima(record: Record, *, streak: int = 0) -> Maxima:
    """The largest badness of each signal over a run.

    Args:
        record: of the run.
        streak: rows in a row that must agree; 0 for the patience.
    """
    found = dict.fromkeys(SIGNALS, -math.inf)
    for count in range(1, len(record.rows) + 1):
        rows = record.rows[:count]
        evidence = Evidence(rows, seen(record, rows[-1]["images"]), record.loss, streak=streak)
        for name, signal in SIGNALS.items():
            found[name] = max(found[name], read(signal, evidence).value)
    return found


def seen(record: Record, images: float) -> list[dict[str, float]]:
    """The evaluations of a run that were made by then.

    Args:
        record: of the run.
        images: reached.
    """
    return [row for row in record.evaluations if 0 < row["images"] <= images]


class Fitter:
    """Limits from healthy runs, of all setups or of all but one.

    Args:
        healthy: healthy runs by setup.
    """

    def __init__(self, healthy: Mapping[str, Sequence[Record]]) -> None:
        self._maxima = {
            streak: {setup: [maxima(run, streak=streak) for run in runs] for setup, runs in healthy.items()}
            for streak in (0, 1)
        }

    def limits(self, without: str = "") -> dict[str, Limit]:
        """The limit of each signal.

        Args:
            without: setup that is left out.
        """
        limits = {}
        for name, signal in SIGNALS.items():
            bounds, spread = {}, 1.0
            for streak in (1, 0):
                reached = [
                    max(signal.floor - BELOW, *(each[name] for each in runs))
                    for setup, runs in self._maxima[streak].items()
                    if setup != without
                ]
                spread = pstdev(reached)
                margin = max(fmean(reached) + DEVIATIONS * spread, max(reached) + MARGIN * spread)
                bounds[streak] = max(signal.floor, margin)
            limits[name] = Limit(
                round(bounds[0], 3), round(max(bounds.values()), 3), round(max(spread, LEAST_SPREAD), 3)
            )
        return limits


def store(limits: Mapping[str, Limit], path: Path) -> None:
    """Write limits as the module `ganscale.health.limits`.

    Args:
        limits: to write.
        path: of the module.
    """
    lines = [f'    "{name}": Limit({each.value}, {each.single}, {each.spread}),' for name, each in limits.items()]
    text = (
        '"""Limits of the signals; `python -m benchmarks.health --score FILE --fit` writes this file."""',
        "",
        "from ganscale.health.signals import Limit",
        "",
        "LIMITS: dict[str, Limit] = {",
        *lines,
        "}",
        '"""Of every signal of `ganscale.health.signals.SIGNALS`."""',
    )
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
