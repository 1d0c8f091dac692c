"""The time line of a run: failed attempts, changes of the number of workers, verdicts, rollbacks, and the goodput."""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ganscale.storage.failures import read_failures
from ganscale.storage.run_dir import RunDir, read_objects
from ganscale.tracking.jsonl import LATE, read_attempts, read_events, read_metrics, read_rollbacks


class Incident(NamedTuple):
    """Something that happened to a run.

    Attributes:
        images: at which it happened.
        kind: fault, resize, verdict or rollback.
        resumed: images at which training resumed; None where it was not interrupted.
        time: in seconds since the epoch; None where the record has none.
        seconds_lost: of work that was done again or not at all; None where nothing was lost.
        workers: number of workers afterwards (a resize) or before (a fault); None for others.
        text: a sentence.
    """

    images: int
    kind: str
    resumed: int | None
    time: float | None
    seconds_lost: float | None
    workers: int | None
    text: str


def timeline(folder: RunDir) -> list[Incident]:
    """What happened to a run, by images and then in the order of the records.

    Args:
        folder: the run's.
    """
    found = [
        Incident(each.reached, "fault", each.resumed, each.time, each.seconds_lost, each.workers, each.what)
        for each in read_failures(folder.failures)
    ]
    for before, after in pairwise(read_attempts(folder)):
        if before["workers"] != after["workers"]:
            text = f"{before['workers']} to {after['workers']} workers"
            found.append(
                Incident(after["images"], "resize", after["images"], after["time"], None, after["workers"], text)
            )
    found += _verdicts(folder)
    return sorted(found, key=lambda each: each.images)


def _verdicts(folder: RunDir) -> list[Incident]:
    """Health events; those that led to a rollback have its target and its cost."""
    open_rollbacks = _rollbacks(folder)
    found = []
    for event in read_events(folder):
        images, kind = event.get("images"), str(event.get("kind", ""))
        if not isinstance(images, int):
            continue
        text = f"{kind.removesuffix(', rollback')}: {event.get('text', '')}"
        match = next((each for each in open_rollbacks if each[0]["at"] == images), None)
        if kind.endswith(", rollback") and match:
            open_rollbacks.remove(match)
            found.append(Incident(images, "rollback", match[0]["to"], None, match[1], None, text))
        else:
            found.append(Incident(images, "verdict", None, None, None, None, text))
    found += [
        Incident(each["at"], "rollback", each["to"], None, seconds, None, str(each.get("reason", "")))
        for each, seconds in open_rollbacks
    ]
    return found


def _rollbacks(folder: RunDir) -> list[tuple[Mapping[str, Any], float]]:
    """All rollbacks with the seconds that each threw away: those on record, then those that only left rows (drift)."""
    rows = [row for row in read_objects(folder.abandoned) if isinstance(row.get("images"), int) and LATE not in row]
    recorded = [each for each in read_rollbacks(folder) if _is_rollback(each)]
    found: list[tuple[Mapping[str, Any], float]]
    found = [(each, seconds(_take(rows, each), start=each["to"])) for each in recorded]
    rows = [row for row in rows if _is_rollback(row)]
    while rows:
        rollback = {name: rows[0][name] for name in ("at", "to")}
        found.append((rollback, seconds([rows.pop(0), *_take(rows, rollback)], start=rollback["to"])))
    return found


def _is_rollback(row: Mapping[str, Any]) -> bool:
    """Whether it says from where to where the run was rolled back."""
    return isinstance(row.get("at"), int) and isinstance(row.get("to"), int)


def _take(rows: list[dict[str, Any]], rollback: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Remove a rollback's rows: the first that rise and name it, or are in its range and name none."""
    at, to = rollback["at"], rollback["to"]

    def fits(row: Mapping[str, Any]) -> bool:
        return (row["at"], row["to"]) == (at, to) if _is_rollback(row) else to < row["images"] <= at

    first = next((place for place, row in enumerate(rows) if fits(row)), len(rows))
    end = first
    while end < len(rows) and fits(rows[end]) and (end == first or rows[end]["images"] > rows[end - 1]["images"]):
        end += 1
    taken = rows[first:end]
    del rows[first:end]
    return taken


def seconds(rows: Iterable[Mapping[str, Any]], *, start: int = 0) -> float:
    """Seconds of training of some rows: their images by their speeds.

    Args:
        rows: of `metrics.jsonl`, by images; those without a speed count nothing.
        start: images before the first one.
    """
    before, found = start, 0.0
    for row in rows:
        speed = row.get("images_per_second")
        if isinstance(speed, int | float) and speed > 0 and math.isfinite(speed):
            found += max(0, row["images"] - before) / speed
        before = row["images"]
    return found


class Goodput(NamedTuple):
    """How a run spent its time.

    Attributes:
        kept: seconds of training whose work is in the run.
        lost: seconds of work that faults and rollbacks threw away, and of waiting for the next attempt after a fault.
    """

    kept: float
    lost: float

    @property
    def share(self) -> float | None:
        """Share of the time whose work was kept, in [0, 1]; None before any training."""
        return self.kept / (self.kept + self.lost) if self.kept else None


def goodput(folder: RunDir, incidents: Iterable[Incident] | None = None) -> Goodput:
    """How a run spent its time so far, without pauses between commands and the start-up of attempts that did not fail.

    Args:
        folder: the run's.
        incidents: its time line; None to read it.
    """
    lost = sum(each.seconds_lost or 0.0 for each in (timeline(folder) if incidents is None else incidents))
    return Goodput(seconds(read_metrics(folder)), lost)
