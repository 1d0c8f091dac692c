"""Heartbeats of every worker, and a watchdog that names the one that hangs and its phase, then ends the process.

A thread of each worker writes `<run>/.heartbeats/<rank>.json` every few seconds. A worker whose iteration lasts longer
than `cluster.timeout` reads what the others wrote, names the one that is behind, and exits, so that the group restarts.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType

from ganscale.parallel.phase import PHASE, WAITING
from ganscale.parallel.replica import Replica
from ganscale.storage.lease import born
from ganscale.storage.store import Place, modified
from ganscale.training.state import TrainState

EVERY = 2.0
"""Seconds between two heartbeats."""
HEARTBEAT_TIMEOUT = 5 * EVERY
"""Seconds after which a worker without one is declared dead."""
EXIT_HANG = 76
"""Exit code of a worker that the watchdog ends."""

_ORDER = ("reading data", "forward", "backward", "optimizer", "reduction")
"""Within an update, what comes first."""


@dataclass(frozen=True)
class Heartbeat:
    """What a worker writes of itself.

    Attributes:
        rank: of the worker.
        host: name of its machine.
        pid: of its process.
        born: start of that process, in clock ticks since boot.
        time: seconds since the epoch by the storage's clock.
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


def current_phase(frame: FrameType | None) -> str:
    """The training thread's phase, e.g. "D reduction" or "saving, in a reduction".

    Args:
        frame: innermost frame of the thread's stack, which shows whether it waits for other workers.
    """
    name = PHASE.name
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("torch.distributed", "ganscale.parallel.shared_memory")):
            return f"{name[:2]}reduction" if name.startswith(("D ", "G ")) else f"{name}, in a reduction"
        frame = frame.f_back
    return name


def waits(phase: str) -> bool:
    """Whether a worker stays in this phase for less than `cluster.timeout` unless it hangs.

    Args:
        phase: an update, reading data, or a reduction.
    """
    if phase.startswith(WAITING):  # as long as it takes; the reductions on the way have a time limit of their own
        return False
    return phase.endswith("reduction") or phase.startswith(("D ", "G ", "reading"))


def _progress(heartbeat: Heartbeat) -> tuple[int, int, int]:
    """How far a worker is: iterations, network, part of the update; one that waits for others is farthest."""
    part = next((index for index, name in enumerate(_ORDER) if name in heartbeat.phase), -1)
    return heartbeat.iteration, {"D": 0, "G": 1}.get(heartbeat.phase[:1], 0), part


def missing(heartbeats: Sequence[Heartbeat], now: float, world_size: int) -> tuple[list[Heartbeat], list[int]]:
    """The workers for which the others wait, and the ranks without any heartbeat.

    Args:
        heartbeats: of all workers that have one.
        now: seconds since the epoch by the storage's clock.
        world_size: number of workers.
    """
    absent = sorted(set(range(world_size)) - {heartbeat.rank for heartbeat in heartbeats})
    silent = [heartbeat for heartbeat in heartbeats if now - heartbeat.time > HEARTBEAT_TIMEOUT]
    if silent or absent or not heartbeats:
        return silent, absent
    last = max(_progress(heartbeat) for heartbeat in heartbeats)
    return [heartbeat for heartbeat in heartbeats if _progress(heartbeat) < last], []


def sentence(heartbeats: Sequence[Heartbeat], now: float, world_size: int) -> str:
    """Which workers hang, and where.

    Args:
        heartbeats: of all workers that have one.
        now: seconds since the epoch by the storage's clock.
        world_size: number of workers.
    """
    behind, absent = missing(heartbeats, now, world_size)
    parts = [
        f"worker {each.rank} on {each.host} hangs in iteration {each.iteration + 1:,} ({each.phase}), "
        + (f"silent for {now - each.time:.0f} s" if now - each.time > HEARTBEAT_TIMEOUT else f"for {each.lasts:.0f} s")
        for each in behind
    ]
    parts += [f"worker {rank} has no heartbeat" for rank in absent]
    return "; ".join(parts) or "all workers wait for each other: the network between them is broken"


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


class Watchdog:
    """Writes heartbeats while the block runs, and ends the process when the group hangs.

    Args:
        folder: for the heartbeats, shared by all workers.
        state: the run's, for its progress.
        timeout: seconds that an iteration may last; a single worker has no limit.
        info: takes a line for the log.
        end: ends the process.
    """

    def __init__(
        self,
        folder: Place,
        state: TrainState,
        *,
        timeout: float,
        info: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._folder = folder if isinstance(folder, Path) else folder.quick
        self._state, self._timeout, self._info, self._end = state, timeout, info, end
        self._replica = Replica.current()
        self._thread_id = threading.get_ident()
        self._own = (socket.gethostname(), os.getpid(), born(os.getpid()))
        self._seen, self._since = -1, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Watchdog":
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._replica.is_rank_zero:
                for heartbeat in read_heartbeats(self._folder):
                    if heartbeat.rank >= self._replica.world_size:
                        (self._folder / f"{heartbeat.rank}.json").unlink(missing_ok=True)
        self._write_heartbeat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(EVERY)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            heartbeat = self._write_heartbeat()
            hangs = heartbeat.lasts > self._timeout and waits(heartbeat.phase)
            if hangs and self._replica.world_size > 1 and not self._stop.is_set():
                self._give_up()

    def _write_heartbeat(self) -> Heartbeat:
        """Write a heartbeat; storage that refuses ends nothing."""
        now = time.monotonic()
        if self._state.iteration != self._seen:
            self._seen, self._since = self._state.iteration, now
        host, pid, start = self._own
        name = current_phase(sys._current_frames().get(self._thread_id))
        images, lasts = self._state.images, now - self._since
        heartbeat = Heartbeat(self._replica.rank, host, pid, start, time.time(), images, self._seen, name, lasts)
        with suppress(OSError):
            path, text = self._folder / f"{heartbeat.rank}.json", json.dumps(asdict(heartbeat))
            if isinstance(path, Path):  # unlike by `write_atomically`, nothing waits for the disk
                aside = path.with_name(f".{heartbeat.rank}")
                aside.write_text(text, encoding="utf-8")
                aside.replace(path)
            else:
                path.write_text(text)
        return heartbeat

    def _give_up(self) -> None:
        """Log who hangs, end that process if it is on this machine, then this one."""
        heartbeats = read_heartbeats(self._folder)
        now = next((heartbeat.time for heartbeat in heartbeats if heartbeat.rank == self._replica.rank), time.time())
        behind, _ = missing(heartbeats, now, self._replica.world_size)
        text = sentence(heartbeats, now, self._replica.world_size)
        self._info(f"no iteration for {self._timeout:.0f} s: {text}")
        with suppress(OSError):
            (self._folder / "hang.txt").write_text(text, encoding="utf-8")
        host, own, _ = self._own
        for each in behind:
            if each.host == host and each.pid != own and each.born and born(each.pid) == each.born:
                with suppress(OSError):
                    os.kill(each.pid, signal.SIGKILL)
        self._end(EXIT_HANG)
