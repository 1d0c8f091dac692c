"""The faults that a run survived, and what its budget for them says: pure functions and one file, `faults.jsonl`."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ganscale.storage.checkpoint import write_atomically
from ganscale.storage.run_dir import read_objects

LONGEST = 600.0
"""Seconds of a pause between two restarts, at most."""


@dataclass(frozen=True)
class Failure:
    """A life of a run that did not end in order, as the next one found it.

    Attributes:
        time: seconds since the epoch of its last sign of life.
        what: what is known of the cause.
        workers: number of workers of that life.
        reached: images of its last sign of life.
        resumed: images at which the next life went on.
        seconds_lost: from the checkpoint at which the next life went on, or without one from the last sign of life,
            until that life trained: lost work and the time without any.
    """

    time: float
    what: str
    workers: int
    reached: int
    resumed: int
    seconds_lost: float

    @property
    def images_lost(self) -> int:
        """Images that were trained and have to be trained again."""
        return max(0, self.reached - self.resumed)


def read_failures(path: Path) -> list[Failure]:
    """All faults of a run, oldest first; rows that are damaged are left out."""
    found = []
    with suppress(OSError):
        for row in read_objects(path):
            row.pop("images_lost", None)
            with suppress(TypeError):
                found.append(Failure(**row))
    return found


def note(path: Path, fault: Failure) -> None:
    """Add a fault to a run's.

    Raises:
        OSError: the storage refuses.
    """
    rows = [asdict(each) | {"images_lost": each.images_lost} for each in (*read_failures(path), fault)]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def pause(failures: int, first: float) -> float:
    """Seconds to wait before the next start: none after the first failure in a row, then doubling.

    Args:
        failures: in a row, without a new checkpoint in between; at least 1.
        first: seconds of the first pause, after the second failure.
    """
    return 0.0 if failures < 2 else min(LONGEST, first * 2.0 ** min(failures - 2, 60))


@dataclass
class RestartBudget:
    """Failures in a row, which a new checkpoint forgives.

    Attributes:
        most: restarts without a new checkpoint in between, at most.
        first: seconds of the first pause.
        failures: in a row so far.
        images: of the newest checkpoint at the last failure.
    """

    most: int
    first: float
    failures: int = 0
    images: int = -1

    def failed(self, images: int) -> float | None:
        """Count a failure; the seconds to wait before the next start, or None when the budget is spent.

        Args:
            images: of the newest checkpoint now.
        """
        self.failures = self.failures + 1 if images <= self.images else 1
        self.images = max(images, self.images)
        return pause(self.failures, self.first) if self.failures <= self.most else None


def optimal_interval(cost: float, mean_time: float) -> float:
    """Seconds of work between two checkpoints for which least time is lost to saving and to faults.

    Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equation 37; its first
    term is Young's sqrt(2 C M) of 1974. Where saving takes twice as long as the machines live, it is the mean time.

    Args:
        cost: C, seconds that saving takes, above 0.
        mean_time: M, seconds between two faults, above 0.
    """
    if cost >= 2.0 * mean_time:
        return mean_time
    share = cost / (2.0 * mean_time)
    return math.sqrt(2.0 * cost * mean_time) * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - cost


def history(faults: Sequence[Failure], last: int = 5) -> str:
    """The newest faults in a line each, for people."""
    rows = []
    for fault in faults[-last:]:
        lost = f"{fault.images_lost:,} images and {fault.seconds_lost:.0f} s lost"
        rows.append(f"\n    at {fault.reached:,} images: {fault.what}, {lost}")
    return f"\n  faults of this run so far: {len(faults)}{''.join(rows)}" if faults else ""
