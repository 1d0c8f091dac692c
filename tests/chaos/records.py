"""Plan, records and summary of a campaign: pure functions."""

import json
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ganscale.storage.failures import optimal_interval
from ganscale.storage.run_dir import read_objects
from tests.chaos.kinds import KINDS

HOURS = (1.0, 6.0, 24.0, 168.0)
"""Mean hours between two faults for which the best interval is computed."""


def append_record(path: Path, record: Any) -> None:
    """Add a line to a campaign's file of records.

    Args:
        path: of the file.
        record: a dataclass of plain values.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


@dataclass(frozen=True)
class Planned:
    """A run with the kinds of its faults, in order."""

    seed: int
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class FaultRecord:
    """A fault injected into a run.

    Attributes:
        kind: its kind.
        images_lost: images trained twice.
        bound: most images it may cost.
        seconds_to_recover: from the fault until the run was further than before; None if it never was.
        seconds_before: of work since the recovery from the previous fault.
        commands: starts of the command beyond those that the fault itself makes necessary.
    """

    kind: str
    images_lost: int
    bound: int
    seconds_to_recover: float | None
    seconds_before: float
    commands: int = 0

    @property
    def good(self) -> bool:
        """Whether the run recovered by itself and lost no more than it may."""
        return self.seconds_to_recover is not None and self.images_lost <= self.bound and not self.commands

    @property
    def goodput(self) -> float:
        """Share of the time up to the recovery whose work is kept."""
        if self.seconds_to_recover is None:
            return 0.0
        return self.seconds_before / (self.seconds_before + self.seconds_to_recover)


@dataclass(frozen=True)
class Record:
    """A run with faults.

    Attributes:
        seed: of moments and victims.
        survived: whether the run completed.
        exact: whether its last state equals that of the undisturbed run bit by bit.
        seconds: of the whole run, all starts together.
        starts: number of starts of the command.
        faults: in order.
        problem: why the run was lost, if it was.
    """

    seed: int
    survived: bool
    exact: bool
    seconds: float
    starts: int
    faults: tuple[FaultRecord, ...] = field(default=())
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether the faults cost time alone."""
        return self.survived and self.exact and not self.problem and all(fault.good for fault in self.faults)


def plan(kinds: Sequence[str], faults: int, seed: int, per_run: int) -> list[Planned]:
    """The runs of a campaign: rounds of all kinds, each in a random order, cut into runs.

    Args:
        kinds: of faults.
        faults: number of them, rounded up to whole runs.
        seed: of all that is drawn.
        per_run: faults in a run.
    """
    draw = random.Random(seed)
    runs: list[Planned] = []
    names: list[str] = []
    while len(runs) * per_run < faults:
        while len(names) < per_run:
            names += draw.sample(list(kinds), len(kinds))
        chosen, names = names[:per_run], names[per_run:]
        runs.append(Planned(draw.randrange(1 << 30), tuple(sorted(chosen, key=lambda name: KINDS[name].turn))))
    return runs


def read_records(path: Path) -> list[Record]:
    """Records of an earlier campaign without damaged rows."""
    found = []
    with suppress(OSError):
        for row in read_objects(path):
            with suppress(TypeError, KeyError):
                faults = tuple(FaultRecord(**fault) for fault in row.pop("faults"))
                found.append(Record(**row, faults=faults))
    return found


def _of_kind(records: Sequence[Record], kind: str) -> Iterator[tuple[Record, FaultRecord]]:
    return ((record, fault) for record in records for fault in record.faults if fault.kind == kind)


def table(records: Sequence[Record]) -> str:
    """Results by kind of fault, as a Markdown table."""
    lines = [
        "| fault | times | runs lost | wrong weights | images lost, median, most (allowed) "
        "| seconds to recover, median, most | goodput |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        rows = list(_of_kind(records, kind))
        if not rows:
            continue
        runs = {record.seed: record for record, _ in rows}.values()
        faults = [fault for _, fault in rows]
        lost = [fault.images_lost for fault in faults]
        took = [fault.seconds_to_recover for fault in faults if fault.seconds_to_recover is not None]
        lines.append(
            f"| {kind} | {len(faults)} | {sum(not run.survived for run in runs)} "
            f"| {sum(run.survived and not run.exact for run in runs)} "
            f"| {statistics.median(lost):,.0f}, {max(lost):,} ({max(fault.bound for fault in faults):,}) "
            f"| {f'{statistics.median(took):.1f}, {max(took):.1f}' if took else 'none'} "
            f"| {statistics.median(fault.goodput for fault in faults):.2f} |"
        )
    return "\n".join(lines)


def summary(records: Sequence[Record], cost: float) -> dict[str, Any]:
    """Totals of the campaign, and how often to save.

    Args:
        records: of its runs.
        cost: seconds that saving takes.
    """
    faults = [fault for record in records for fault in record.faults]
    took = [fault.seconds_to_recover for fault in faults if fault.seconds_to_recover is not None]
    recovery = statistics.median(took) if took else 0.0
    return {
        "runs": len(records),
        "faults": len(faults),
        "runs_lost": sum(not record.survived for record in records),
        "wrong_weights": sum(record.survived and not record.exact for record in records),
        "beyond_bound": sum(fault.images_lost > fault.bound for fault in faults),
        "not_by_themselves": sum(fault.commands > 0 for fault in faults),
        "problems": [record.problem for record in records if record.problem],
        "seconds_to_recover": recovery,
        "seconds_to_save": cost,
        "by_hours_between_faults": {f"{hours:g}": _advice(cost, recovery, hours) for hours in HOURS},
    }


def _advice(cost: float, recovery: float, hours: float) -> dict[str, float]:
    """Best interval in seconds, and the share of the time whose work is then kept."""
    mean = 3600.0 * hours
    interval = optimal_interval(cost, mean)
    wasted = cost / interval + ((interval + cost) / 2.0 + recovery) / mean
    return {"interval_seconds": interval, "goodput": max(0.0, 1.0 - wasted)}
