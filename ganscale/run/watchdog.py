"""Heartbeats of every worker, and a watchdog that names the one that hangs and its phase, then ends the process.

A thread of each worker sends one every two seconds (`ganscale.run.heartbeats`). A worker whose iteration lasts longer
than `cluster.timeout` reads what the others sent, names the one that is behind, and exits, so that the group restarts.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from ganscale.parallel.phase import PHASE, WAITING
from ganscale.parallel.replica import Replica
from ganscale.run.heartbeats import EVERY, HEARTBEAT_TIMEOUT, MISSED, Heartbeat, HeartbeatChannel
from ganscale.storage.lease import born
from ganscale.training.state import TrainState

EXIT_HANG = 76
"""Exit code of a worker that the watchdog ends."""

_ORDER = ("reading data", "forward", "backward", "optimizer", "reduction")
"""Within an update, what comes first."""


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


def missing(
    heartbeats: Sequence[Heartbeat], now: float, world_size: int, *, silent: float = HEARTBEAT_TIMEOUT
) -> tuple[list[Heartbeat], list[int]]:
    """The workers for which the others wait, and the ranks without any heartbeat.

    Args:
        heartbeats: of all workers that have one.
        now: seconds since the epoch by the heartbeats' clock.
        world_size: number of workers.
        silent: seconds after which a worker without a heartbeat is declared dead.
    """
    absent = sorted(set(range(world_size)) - {heartbeat.rank for heartbeat in heartbeats})
    dead = [heartbeat for heartbeat in heartbeats if now - heartbeat.time > silent]
    if dead or absent or not heartbeats:
        return dead, absent
    last = max(_progress(heartbeat) for heartbeat in heartbeats)
    return [heartbeat for heartbeat in heartbeats if _progress(heartbeat) < last], []


def sentence(heartbeats: Sequence[Heartbeat], now: float, world_size: int, *, silent: float = HEARTBEAT_TIMEOUT) -> str:
    """Which workers hang, and where.

    Args:
        heartbeats: of all workers that have one.
        now: seconds since the epoch by the heartbeats' clock.
        world_size: number of workers.
        silent: seconds after which a worker without a heartbeat is declared dead.
    """
    behind, absent = missing(heartbeats, now, world_size, silent=silent)
    parts = [
        f"worker {each.rank} on {each.host} hangs in iteration {each.iteration + 1:,} ({each.phase}), "
        + (f"silent for {now - each.time:.0f} s" if now - each.time > silent else f"for {each.lasts:.0f} s")
        for each in behind
    ]
    parts += [f"worker {rank} has no heartbeat" for rank in absent]
    return "; ".join(parts) or "all workers wait for each other: the network between them is broken"


class Watchdog:
    """Sends heartbeats while the block runs, and ends the process when the group hangs.

    Args:
        channel: for the heartbeats.
        state: the run's, for its progress.
        timeout: seconds that an iteration may last; a single worker has no limit.
        info: takes a line for the log.
        end: ends the process.
        abort: lets this worker's collective calls fail instead, where it is not the one that hangs; None for `end`.
    """

    def __init__(
        self,
        channel: HeartbeatChannel,
        state: TrainState,
        *,
        timeout: float,
        info: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self._channel = channel
        self._state, self._timeout, self._info, self._end = state, timeout, info, end
        self._abort = abort
        self._replica = Replica.current()
        self._thread_id = threading.get_ident()
        self._own = (socket.gethostname(), os.getpid(), born(os.getpid()))
        self._seen, self._since = -1, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._channel.open(self._replica.rank, self._replica.world_size)
        self._send_heartbeat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(EVERY)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            heartbeat = self._send_heartbeat()
            hangs = heartbeat.lasts > self._timeout and waits(heartbeat.phase)
            if hangs and self._replica.world_size > 1 and not self._stop.is_set():
                self._give_up()

    def _send_heartbeat(self) -> Heartbeat:
        """Send a heartbeat."""
        now = time.monotonic()
        if self._state.iteration != self._seen:
            self._seen, self._since = self._state.iteration, now
        host, pid, start = self._own
        name = current_phase(sys._current_frames().get(self._thread_id))
        images, lasts = self._state.images, now - self._since
        heartbeat = Heartbeat(self._replica.rank, host, pid, start, time.time(), images, self._seen, name, lasts)
        self._channel.send(heartbeat)
        return heartbeat

    def _give_up(self) -> None:
        """Log who hangs, end that process if it is on this machine, then this one, or its part in the group."""
        heartbeats, silent = self._channel.read(), MISSED * self._channel.every
        now = next((heartbeat.time for heartbeat in heartbeats if heartbeat.rank == self._replica.rank), time.time())
        behind, _ = missing(heartbeats, now, self._replica.world_size, silent=silent)
        text = sentence(heartbeats, now, self._replica.world_size, silent=silent)
        self._info(f"no iteration for {self._timeout:.0f} s: {text}")
        self._channel.record_hang(text)
        host, own, _ = self._own
        for each in behind:
            if each.host == host and each.pid != own and each.born and born(each.pid) == each.born:
                with suppress(OSError):
                    os.kill(each.pid, signal.SIGKILL)
        if self._abort and all((each.host, each.pid) != (host, own) for each in behind):
            self._abort()
        else:
            self._end(EXIT_HANG)
