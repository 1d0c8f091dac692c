"""Heartbeats of the workers, and how they travel: as files or objects of the run, or another way of a launcher."""

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from ganscale.config import Config
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, modified, remove

EVERY = 2.0
"""Seconds between two heartbeats."""
OBJECT_EVERY = 10.0
"""Seconds between two heartbeats as objects of a bucket, where each one is a request."""
MISSED = 5
"""Heartbeats that a worker may miss before it is declared dead."""
HEARTBEAT_TIMEOUT = MISSED * EVERY
"""Seconds after which that is, where no heartbeat is left out."""


@dataclass(frozen=True)
class Heartbeat:
    """What a worker writes of itself.

    Attributes:
        rank: of the worker.
        host: name of its machine.
        pid: of its process.
        born: start of that process, in clock ticks since boot.
        time: seconds since the epoch, by the clock of the storage or actor that keeps it.
        images: reached.
        iteration: reached.
        phase: of its training thread.
        lasts: seconds since its last iteration ended.
    """

    rank: int
    host: str
    pid: int
    born: int
    time: float
    images: int
    iteration: int
    phase: str
    lasts: float


class HeartbeatChannel(Protocol):
    """Where a worker's heartbeats go, and those of all are read. No method raises, or takes longer than seconds."""

    every: float
    """Seconds between two heartbeats where the last `read` found them."""

    def open(self, rank: int, world_size: int) -> None:
        """Prepare for the heartbeats of an attempt.

        Args:
            rank: of this worker.
            world_size: number of workers.
        """
        ...

    def send(self, heartbeat: Heartbeat) -> None:
        """Pass a heartbeat on; a channel may leave some out.

        Args:
            heartbeat: of this worker.
        """
        ...

    def read(self) -> list[Heartbeat]:
        """The last heartbeats of all workers, with the time of each by one clock."""
        ...

    def record_hang(self, text: str) -> None:
        """Keep for the next attempt why this one ends.

        Args:
            text: who hangs.
        """
        ...


class PlaceChannel:
    """Heartbeats as `<rank>.json` where the run lies (a `HeartbeatChannel`); they outlive all processes.

    Args:
        folder: for the heartbeats, shared by all workers.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder if isinstance(folder, Path) else folder.quick
        self.every = EVERY if isinstance(folder, Path) else OBJECT_EVERY
        self._sent = -float("inf")

    def open(self, rank: int, world_size: int) -> None:
        """Remove heartbeats of workers that there are no more (part of `HeartbeatChannel`)."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            for heartbeat in self.read() if rank == 0 else ():
                if heartbeat.rank >= world_size:
                    (self._folder / f"{heartbeat.rank}.json").unlink(missing_ok=True)

    def send(self, heartbeat: Heartbeat) -> None:
        """Write a heartbeat if one is due (part of `HeartbeatChannel`); storage that refuses ends nothing."""
        now = time.monotonic()
        if now - self._sent < self.every - EVERY / 2:
            return
        with suppress(OSError):
            self._sent = now
            path, text = self._folder / f"{heartbeat.rank}.json", json.dumps(asdict(heartbeat))
            if isinstance(path, Path):  # unlike by `write_atomically`, nothing waits for the disk
                aside = path.with_name(f".{heartbeat.rank}")
                aside.write_text(text, encoding="utf-8")
                aside.replace(path)
            else:
                path.write_text(text)

    def read(self) -> list[Heartbeat]:
        """Read all heartbeats (part of `HeartbeatChannel`)."""
        return read_heartbeats(self._folder)

    def record_hang(self, text: str) -> None:
        """Write `hang.txt` (part of `HeartbeatChannel`)."""
        with suppress(OSError):
            (self._folder / "hang.txt").write_text(text, encoding="utf-8")


def read_heartbeats(folder: Place) -> list[Heartbeat]:
    """The last heartbeats of all workers, with the storage's time of each; damaged ones are skipped.

    Args:
        folder: in which they are.
    """
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            with suppress(OSError, ValueError, TypeError):
                if path.name[:1].isdigit() and path.name.endswith(".json"):
                    heartbeat = Heartbeat(**json.loads(path.read_text(encoding="utf-8")))
                    found.append(replace(heartbeat, time=modified(path)))
    return found


def clear_heartbeats(folder: RunDir) -> None:
    """Remove the heartbeats of a run that ended in order: heartbeats that stay mean a failure.

    Args:
        folder: the run's.
    """
    remove(folder.heartbeats)


def collective_timeout(config: Config) -> float:
    """Seconds after which a collective of the workers fails: later than the watchdog, whose message is better.

    Args:
        config: the run.
    """
    return 1.25 * config.cluster.timeout + 2 * EVERY
