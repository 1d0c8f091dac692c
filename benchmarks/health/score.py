"""Compares the verdicts of the detectors with the ground truth of the recorded runs.

The ground truth does not depend on the verdicts. A run with a fault is unhealthy if its last evaluation is worse than
those of the healthy runs of the same setup: not finite, fewer modes than their minimum, or more than `WORSE` times
their largest Frechet distance. Otherwise the fault had no effect and the run is not counted. A run without a fault is
healthy if its last Frechet distance is less than half that of the untrained generator; otherwise it is not counted.

Each setup is judged by limits that were chosen without its runs (leave one setup out), or also without the rounds that
are judged.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from benchmarks.health.fit import Fitter, seen
from benchmarks.health.plan import FIRST_FAULTY
from benchmarks.health.record import Record
from ganscale.config import DETECTORS
from ganscale.health import detectors as health
from ganscale.health.limits import LIMITS
from ganscale.health.signals import Limit
from ganscale.sweep.score import wilson

WORSE = 1.5
LEAST_RECALL, LEAST_PRECISION = 0.9, 0.95
CONFIDENCE = 0.95

Truth = Literal["unhealthy", "healthy", "unclear"]


class ScoredRun(NamedTuple):
    """A run with its ground truth and its verdicts.

    Attributes:
        record: the run.
        truth: the ground truth.
        kinds: of its verdicts, in the order of their first occurrence.
    """

    record: Record
    truth: Truth
    kinds: tuple[str, ...]


class Rates(NamedTuple):
    """Counts of verdicts over runs of known ground truth.

    Attributes:
        unhealthy: number of unhealthy runs.
        healthy: number of healthy runs.
        found: unhealthy runs with a verdict.
        false: healthy runs with a verdict.
    """

    unhealthy: int
    healthy: int
    found: int
    false: int

    @property
    def recall(self) -> float:
        """Share of unhealthy runs that have a verdict."""
        return self.found / self.unhealthy if self.unhealthy else math.nan

    @property
    def precision(self) -> float:
        """Share of runs with a verdict that are unhealthy."""
        given = self.found + self.false
        return self.found / given if given else math.nan


def score_all(records: Sequence[Record], *, since: int = 0) -> list[ScoredRun]:
    """Ground truth and verdicts of runs, by limits from the other setups.

    Args:
        records: of the runs; those of one setup are compared with each other.
        since: first round that is judged; from 1 on the limits are those of the rounds before.
    """
    healthy = healthy_runs(records)
    fitter = Fitter(healthy_runs([record for record in records if round_of(record) < since]) if since else healthy)
    limits = {setup: fitter.limits(setup) for setup in {record.setup for record in records}}
    return [
        ScoredRun(record, truth(record, healthy.get(record.setup, ())), verdicts(record, limits[record.setup]))
        for record in records
        if not since or round_of(record) >= since
    ]


def round_of(record: Record) -> int:
    """Round of the plan that a run is from.

    Args:
        record: of the run.
    """
    return record.seed - (FIRST_FAULTY if record.fault else 0)


def truth(record: Record, healthy: Sequence[Record]) -> Truth:
    """Ground truth of a run.

    Args:
        record: of the run.
        healthy: the healthy runs of its setup.
    """
    if not record.fault:
        return "healthy" if _has_learned(record) else "unclear"
    return "unclear" if not healthy or is_good(record.evaluations[-1], healthy) else "unhealthy"


def is_good(scores: Mapping[str, float], healthy: Sequence[Record]) -> bool:
    """Whether an evaluation is as good as the last evaluations of healthy runs, within `WORSE`.

    Args:
        scores: `frechet` and `modes` of the evaluation.
        healthy: the healthy runs of the same setup.
    """
    others = [run.evaluations[-1] for run in healthy]
    fewest, worst = min(other["modes"] for other in others), max(other["frechet"] for other in others)
    return scores["modes"] >= fewest and scores["frechet"] <= WORSE * worst  # False for NaN


def healthy_runs(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The healthy runs by setup.

    Args:
        records: of all runs.
    """
    healthy: dict[str, list[Record]] = {}
    for record in records:
        if not record.fault and _has_learned(record):
            healthy.setdefault(record.setup, []).append(record)
    return healthy


def _has_learned(record: Record) -> bool:
    return record.evaluations[-1]["frechet"] < 0.5 * record.evaluations[0]["frechet"]


def is_learning(record: Record) -> bool:
    """Whether a run has learned by the measure of healthy ones, and its last evaluation is its best.

    Such a run with a fault may be slow rather than ruined: nothing but runs without the fault tell.

    Args:
        record: of the run.
    """
    distances = [row["frechet"] for row in record.evaluations]
    return _has_learned(record) and distances[-1] <= min(distances)


def verdicts(record: Record, limits: Mapping[str, Limit] = LIMITS) -> tuple[str, ...]:
    """Kinds of the verdicts of a run, in the order of their first occurrence.

    Args:
        record: of the run; the detectors see its rows one after the other, as in training.
        limits: of the signals.
    """
    found: dict[str, None] = {}
    for count in range(1, len(record.rows) + 1):
        rows = record.rows[:count]
        verdict = health.diagnose(rows, seen(record, rows[-1]["images"]), loss=record.loss, limits=limits)
        if verdict:
            found[verdict.kind] = None
    return tuple(found)


def rates(scored: Sequence[ScoredRun]) -> Rates:
    """Count verdicts, ignoring runs of unclear ground truth.

    Args:
        scored: runs with their verdicts.
    """
    unhealthy, healthy = ([run for run in scored if run.truth == truth] for truth in _TRUTHS)
    found, false = (sum(bool(run.kinds) for run in runs) for runs in (unhealthy, healthy))
    return Rates(len(unhealthy), len(healthy), found, false)


def report(records: Sequence[Record], *, since: int = 0) -> tuple[str, bool]:
    """Describe precision and recall, each setup judged by limits from the others.

    Args:
        records: of the runs.
        since: first round that is judged, as in `score_all`.

    Returns:
        Tables, and whether precision and recall are those required.
    """
    scored = score_all(records, since=since)
    total = rates(scored)
    seconds = sum(run.record.seconds for run in scored)
    parts = [*_totals(scored), "", *_by_fault(scored), "", *_by_kind(scored), "", *_by_setup(scored), ""]
    parts.append(f"{len(scored)} runs, {seconds / 60:.0f} core-minutes")
    return "\n".join(parts), total.recall >= LEAST_RECALL and total.precision >= LEAST_PRECISION


def _totals(scored: Sequence[ScoredRun]) -> list[str]:
    def interval(part: int, whole: int) -> str:
        return "{:.2f} to {:.2f}".format(*wilson(part, whole, CONFIDENCE))

    total, ended = rates(scored), rates([run for run in scored if not is_learning(run.record)])
    found, false = total.found, total.false
    return [
        f"recall    {total.recall:.3f}  ({found} of {total.unhealthy} unhealthy runs have a verdict; "
        f"{interval(found, total.unhealthy)})",
        f"          {ended.recall:.3f}  ({ended.found} of {ended.unhealthy} of them that had stopped learning; "
        f"{interval(ended.found, ended.unhealthy)})",
        f"precision {total.precision:.3f}  ({false} of {total.healthy} healthy runs have one; "
        f"{interval(found, found + false)})",
    ]


def _by_setup(runs: Sequence[ScoredRun]) -> list[str]:
    lines = [f"{'setup':<28}{'healthy':>9}{'false':>7}{'unhealthy':>11}{'found':>7}"]
    for setup in dict.fromkeys(run.record.setup for run in runs):
        total = rates([run for run in runs if run.record.setup == setup])
        lines.append(f"{setup:<28}{total.healthy:>9}{total.false:>7}{total.unhealthy:>11}{total.found:>7}")
    return lines


def _by_fault(runs: Sequence[ScoredRun]) -> list[str]:
    lines = [f"{'fault':<18}{'unhealthy':>11}{'found':>7}{'recall':>8}{'no effect':>11}  first verdict"]
    for fault in dict.fromkeys(run.record.fault for run in runs):
        mine = [run for run in runs if run.record.fault == fault]
        total = rates(mine)
        unclear = sum(run.truth == "unclear" for run in mine)
        if fault:
            first = Counter(run.kinds[0] for run in mine if run.truth == "unhealthy" and run.kinds)
            lines.append(
                f"{fault:<18}{total.unhealthy:>11}{total.found:>7}{total.recall:>8.2f}{unclear:>11}  {_counts(first)}"
            )
    return lines


def _by_kind(runs: Sequence[ScoredRun]) -> list[str]:
    lines = [f"{'verdict':<22}{'unhealthy':>11}{'healthy':>9}{'precision':>11}"]
    counts = {truth: Counter(kind for run in runs if run.truth == truth for kind in run.kinds) for truth in _TRUTHS}
    for kind in (kind for kind, detector in DETECTORS.items() if detector.rule is not None):
        right, wrong = counts["unhealthy"][kind], counts["healthy"][kind]
        share = f"{right / (right + wrong):.2f}" if right + wrong else "-"
        lines.append(f"{kind:<22}{right:>11}{wrong:>9}{share:>11}")
    return lines


_TRUTHS: tuple[Truth, ...] = ("unhealthy", "healthy")


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items(), key=lambda pair: -pair[1]))
