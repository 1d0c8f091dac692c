"""The failed attempts of a run (`failures.jsonl`), and the budget for restarts."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import read_objects

LONGEST = 600.0
"""Seconds of a pause between two restarts, at most."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt of a run, as the next one found it.

    Attributes:
        time: seconds since the epoch of its last heartbeat.
        what: what is known of the cause.
        workers: number of its workers.
        reached: images of its last heartbeat.
        resumed: images at which the next attempt resumed.
        seconds_lost: of work, from the checkpoint at which the next attempt resumed, or from this one's start where
            that is later, until its last heartbeat; where the launcher restarted it, also from there until it trained.
    """

    time: float
    what: str
    workers: int
    reached: int
    resumed: int
    seconds_lost: float

    @property
    def images_lost(self) -> int:
        """Images that have to be trained again."""
        return max(0, self.reached - self.resumed)


def read_failures(path: Path) -> list[Failure]:
    """All failures of a run, oldest first; damaged rows are skipped.

    Args:
        path: of the file.
    """
    found = []
    with suppress(OSError):
        for row in read_objects(path):
            row.pop("images_lost", None)
            with suppress(TypeError):
                found.append(Failure(**row))
    return found


def append_failure(path: Path, failure: Failure) -> None:
    """Add a failure to a run's.

    Args:
        path: of the file.
        failure: the newest.

    Raises:
        OSError: the storage refuses.
    """
    rows = [asdict(each) | {"images_lost": each.images_lost} for each in (*read_failures(path), failure)]
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
    """Failures in a row; a new checkpoint resets their number.

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
    """Seconds of work between two checkpoints for which least time is lost to saving and to failures.

    Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", equation 37; its first
    term is Young's sqrt(2 C M) of 1974. Where saving takes at least twice the mean time, it is the mean time.

    Args:
        cost: C, seconds that saving takes, above 0.
        mean_time: M, seconds between two failures, above 0.
    """
    if cost >= 2.0 * mean_time:
        return mean_time
    share = cost / (2.0 * mean_time)
    return math.sqrt(2.0 * cost * mean_time) * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - cost


def history(failures: Sequence[Failure], last: int = 5) -> str:
    """The newest failures, one per line.

    Args:
        failures: oldest first.
        last: how many to list.
    """
    rows = []
    for each in failures[-last:]:
        lost = f"{each.images_lost:,} images and {each.seconds_lost:.0f} s lost"
        rows.append(f"\n    at {each.reached:,} images: {each.what}, {lost}")
    return f"\n  failures of this run so far: {len(failures)}{''.join(rows)}" if failures else ""
