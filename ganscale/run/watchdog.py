"""Signs of life of every worker, and a watchdog that says which one hangs and where, then ends the process.

Each worker's thread writes `<run>/.alive/<rank>.json` every few seconds. A worker whose iteration lasts longer than
`cluster.timeout` reads what the others wrote, names the one that did not arrive, and exits, so that the group is
started again. What the training thread does is read off its stack: that costs the training nothing.
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

from ganscale.parallel.collectives import Replica
from ganscale.training.state import TrainState

EVERY = 2.0
"""Seconds between two signs of life."""
HEARTBEAT_TIMEOUT = 5 * EVERY
"""Seconds after which a worker without them is taken to be stopped, dead or cut off."""
EXIT_HANG = 76
"""Exit code of a worker that the watchdog ends."""

_FUNCTIONS = {
    "batches": "reading data",
    "_update_discriminator": "D",
    "_update_generator": "G",
    "_fakes_with_graph": "G",
    "_build_ddp_buckets": "D",
    "evaluate": "evaluation",
    "save": "saving",
    "show": "sample grid",
    "_each": "tracking",
}
"""Functions of this package by which a stack tells what is done; the innermost counts."""

_ORDER = ("reading data", "forward", "backward", "optimizer", "reduction")
"""Within an update, what comes first."""


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life.

    Attributes:
        rank: whose.
        host: name of its machine.
        pid: of its process.
        born: when that process started, in clock ticks since boot.
        time: seconds since the epoch by the storage's clock.
        images: reached.
        iteration: reached.
        phase: what its training thread does.
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


def phase(frame: FrameType | None) -> str:
    """What a thread does, by its stack, e.g. "D backward" or "saving, in a reduction"."""
    doing, where = "", ""
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.startswith(("torch.distributed", "ganscale.parallel.shared_memory")) and not doing:
            doing = "reduction"
        elif module.startswith("torch.autograd") and "backward" in name and doing != "reduction":
            doing = "backward"
        elif module.startswith("torch.optim") and not doing:
            doing = "optimizer"
        elif module.startswith("ganscale.") and name in _FUNCTIONS and not where:
            where = _FUNCTIONS[name]
        frame = frame.f_back
    if where in ("D", "G"):
        return f"{where} {doing or 'forward'}"
    where = where or "between iterations"
    return f"{where}, in a reduction" if doing == "reduction" else where


def waits(phase: str) -> bool:
    """Whether a worker in this phase should not be there for long: an iteration, or a reduction."""
    return phase.endswith("reduction") or phase.startswith(("D ", "G ", "reading"))


def _progress(heartbeat: Heartbeat) -> tuple[int, int, int]:
    """How far a worker came: iterations, network, part of the update; one that waits for others has come farthest."""
    part = next((index for index, name in enumerate(_ORDER) if name in heartbeat.phase), -1)
    return heartbeat.iteration, {"D": 0, "G": 1}.get(heartbeat.phase[:1], 0), part


def missing(heartbeats: Sequence[Heartbeat], now: float, world_size: int) -> tuple[list[Heartbeat], list[int]]:
    """The workers for which the others wait, and the ranks of which nothing was ever heard.

    Args:
        beats: of all workers that gave a sign of life.
        now: seconds since the epoch by the storage's clock.
        world_size: number of workers.
    """
    unheard = sorted(set(range(world_size)) - {heartbeat.rank for heartbeat in heartbeats})
    silent = [heartbeat for heartbeat in heartbeats if now - heartbeat.time > HEARTBEAT_TIMEOUT]
    if silent or unheard or not heartbeats:
        return silent, unheard
    last = max(_progress(heartbeat) for heartbeat in heartbeats)
    return [heartbeat for heartbeat in heartbeats if _progress(heartbeat) < last], []


def sentence(heartbeats: Sequence[Heartbeat], now: float, world_size: int) -> str:
    """Who hangs where, for people."""
    behind, unheard = missing(heartbeats, now, world_size)
    said = [
        f"worker {each.rank} on {each.host} hangs in iteration {each.iteration + 1:,} ({each.phase}), "
        + (f"silent for {now - each.time:.0f} s" if now - each.time > HEARTBEAT_TIMEOUT else f"for {each.lasts:.0f} s")
        for each in behind
    ]
    said += [f"worker {rank} gave no sign of life" for rank in unheard]
    return "; ".join(said) or "all workers wait for each other: the network between them is broken"


def born(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if that cannot be told."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return 0


def read_heartbeats(folder: Path) -> list[Heartbeat]:
    """The last signs of life of all workers, with the storage's time of each; damaged ones are left out."""
    found = []
    for path in sorted(folder.glob("[0-9]*.json")):
        with suppress(OSError, ValueError, TypeError):
            heartbeat = Heartbeat(**json.loads(path.read_text(encoding="utf-8")))
            found.append(replace(heartbeat, time=path.stat().st_mtime))
    return found


class Watchdog:
    """Gives signs of life while the block runs, and ends the process when it hangs with others.

    Args:
        folder: for the signs of life, shared by all workers.
        state: the run's, for how far it is.
        timeout: seconds that an iteration may last; none for a worker alone.
        say: takes a sentence.
        end: what ends the process.
    """

    def __init__(
        self,
        folder: Path,
        state: TrainState,
        *,
        timeout: float,
        info: Callable[[str], None],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._folder, self._state, self._timeout, self._info, self._end = folder, state, timeout, info, end
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
        """Write a sign of life; storage that refuses is no reason to end."""
        now = time.monotonic()
        if self._state.iteration != self._seen:
            self._seen, self._since = self._state.iteration, now
        host, pid, start = self._own
        doing = phase(sys._current_frames().get(self._thread_id))
        images, lasts = self._state.images, now - self._since
        heartbeat = Heartbeat(self._replica.rank, host, pid, start, time.time(), images, self._seen, doing, lasts)
        with suppress(OSError):
            aside = self._folder / f".{heartbeat.rank}"
            aside.write_text(json.dumps(asdict(heartbeat)), encoding="utf-8")
            aside.replace(self._folder / f"{heartbeat.rank}.json")
        return heartbeat

    def _give_up(self) -> None:
        """Say who hangs, end that process if it is on this machine, then this one."""
        heartbeats = read_heartbeats(self._folder)
        now = next((heartbeat.time for heartbeat in heartbeats if heartbeat.rank == self._replica.rank), time.time())
        behind, _ = missing(heartbeats, now, self._replica.world_size)
        text = sentence(heartbeats, now, self._replica.world_size)
        self._info(f"no iteration for {self._timeout:.0f} s: {text}")
        with suppress(OSError):
            (self._folder / "hang.txt").write_text(text, encoding="utf-8")
        host, own, _ = self._own
        for heartbeat in behind:
            if (
                heartbeat.host == host
                and heartbeat.pid != own
                and heartbeat.born
                and born(heartbeat.pid) == heartbeat.born
            ):
                with suppress(OSError):
                    os.kill(heartbeat.pid, signal.SIGKILL)
        self._end(EXIT_HANG)
