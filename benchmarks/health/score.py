"""What is true of the benchmark's runs, what the verdicts said of them, and how well the two agree.

Truth knows nothing of the verdicts. A run with a fault is sick if its last evaluation is bad beside those of the sound
runs of the same setup: not finite, fewer modes than the worst of them, or `WORSE` times the largest Frechet distance of
them. If it is not, the fault had no effect, and the run counts neither way. A run without a fault is sound if its last
Frechet distance is less than half that of the untrained generator; otherwise it counts neither way.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from benchmarks.health.plan import half_of
from benchmarks.health.record import Record
from ganscale.config import DETECTORS
from ganscale.health import detectors as health

WORSE = 1.5
LEAST_RECALL, LEAST_PRECISION = 0.9, 0.95
"""The bars."""

Truth = Literal["sick", "sound", "unclear"]


class Judged(NamedTuple):
    """A run with its truth and its verdicts.

    Attributes:
        record: the run.
        truth: what it is.
        kinds: of the verdicts given during it, in the order of their first time.
    """

    record: Record
    truth: Truth
    kinds: tuple[str, ...]


class Rates(NamedTuple):
    """How well verdicts and truth agree.

    Attributes:
        sick: number of sick runs.
        sound: number of sound ones.
        found: number of sick runs with a verdict.
        false: number of sound runs with a verdict.
    """

    sick: int
    sound: int
    found: int
    false: int

    @property
    def recall(self) -> float:
        """Share of sick runs that got a verdict."""
        return self.found / self.sick if self.sick else math.nan

    @property
    def precision(self) -> float:
        """Share of runs with a verdict that are sick."""
        given = self.found + self.false
        return self.found / given if given else math.nan


def judge_all(records: Sequence[Record]) -> list[Judged]:
    """Truth and verdicts of all runs; sound ones are compared within a setup."""
    twins = sound_twins(records)
    return [Judged(record, truth(record, twins.get(record.setup, ())), verdicts(record)) for record in records]


def truth(record: Record, twins: Sequence[Record]) -> Truth:
    """What a run is, by its last evaluation and those of the sound runs of its setup."""
    if not record.fault:
        return "sound" if _has_learned(record) else "unclear"
    return "unclear" if not twins or is_good(record.evaluations[-1], twins) else "sick"


def is_good(scores: Mapping[str, float], twins: Sequence[Record]) -> bool:
    """Whether an evaluation is not bad beside the last ones of sound runs of the same setup."""
    others = [twin.evaluations[-1] for twin in twins]
    fewest, worst = min(other["modes"] for other in others), max(other["frechet"] for other in others)
    return scores["modes"] >= fewest and scores["frechet"] <= WORSE * worst  # NaN is not


def sound_twins(records: Sequence[Record]) -> dict[str, list[Record]]:
    """By setup its runs without a fault that have learned."""
    twins: dict[str, list[Record]] = {}
    for record in records:
        if not record.fault and _has_learned(record):
            twins.setdefault(record.setup, []).append(record)
    return twins


def _has_learned(record: Record) -> bool:
    return record.evaluations[-1]["frechet"] < 0.5 * record.evaluations[0]["frechet"]


def verdicts(record: Record) -> tuple[str, ...]:
    """Kinds of the verdicts that the run would have been given, tick by tick, in the order of their first time."""
    found: dict[str, None] = {}
    for count in range(1, len(record.rows) + 1):
        rows = record.rows[:count]
        seen = [row for row in record.evaluations if 0 < row["images"] <= rows[-1]["images"]]
        verdict = health.diagnose(rows, seen, loss=record.loss)
        if verdict:
            found[verdict.kind] = None
    return tuple(found)


def rates(judged: Sequence[Judged]) -> Rates:
    """Counts over runs; those of unclear truth do not count."""
    sick = [run for run in judged if run.truth == "sick"]
    sound = [run for run in judged if run.truth == "sound"]
    return Rates(len(sick), len(sound), sum(bool(run.kinds) for run in sick), sum(bool(run.kinds) for run in sound))


def report(records: Sequence[Record]) -> tuple[str, bool]:
    """Tables of both halves as text, and whether the scored half passes the bars."""
    judged = judge_all(records)
    parts, passed = [], False
    for half in ("chosen", "scored"):
        runs = [run for run in judged if half_of(run.record.seed) == half]
        if not runs:
            continue
        total = rates(runs)
        parts += [f"half '{half}': {len(runs)} runs", *_totals(total), "", *_by_fault(runs), "", *_by_kind(runs), ""]
        if half == "scored":
            passed = total.recall >= LEAST_RECALL and total.precision >= LEAST_PRECISION
    seconds = sum(record.seconds for record in records)
    return "\n".join([*parts, f"{len(records)} runs, {seconds / 60:.0f} core-minutes"]), passed


def _totals(total: Rates) -> list[str]:
    return [
        f"recall    {total.recall:.3f}  ({total.found} of {total.sick} sick runs got a verdict)",
        f"precision {total.precision:.3f}  ({total.false} of {total.sound} sound runs got one)",
    ]


def _by_fault(runs: Sequence[Judged]) -> list[str]:
    lines = [f"{'fault':<18}{'sick':>6}{'found':>7}{'recall':>8}{'no effect':>11}  first verdict"]
    for fault in dict.fromkeys(run.record.fault for run in runs):
        mine = [run for run in runs if run.record.fault == fault]
        total = rates(mine)
        unclear = sum(run.truth == "unclear" for run in mine)
        if fault:
            first = Counter(run.kinds[0] for run in mine if run.truth == "sick" and run.kinds)
            lines.append(
                f"{fault:<18}{total.sick:>6}{total.found:>7}{total.recall:>8.2f}{unclear:>11}  {_counts(first)}"
            )
    return lines


def _by_kind(runs: Sequence[Judged]) -> list[str]:
    lines = [f"{'verdict':<22}{'on sick':>8}{'on sound':>10}{'precision':>11}"]
    counts = {truth: Counter(kind for run in runs if run.truth == truth for kind in run.kinds) for truth in _TRUTHS}
    for kind in (kind for kind, detector in DETECTORS.items() if detector.rule is not None):
        right, wrong = counts["sick"][kind], counts["sound"][kind]
        share = f"{right / (right + wrong):.2f}" if right + wrong else "-"
        lines.append(f"{kind:<22}{right:>8}{wrong:>10}{share:>11}")
    return lines


_TRUTHS: tuple[Truth, ...] = ("sick", "sound")


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items(), key=lambda pair: -pair[1]))
