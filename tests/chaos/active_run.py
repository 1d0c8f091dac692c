"""A run under test: its progress, the cluster it runs on, and the faults injected into it."""

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster.nodes import HEAD, LocalCluster
from cluster.state import Node, title
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics

TIMEOUT = 300.0
"""Seconds to wait for any event on a busy machine."""
MAX_STARTS = 20
"""Most starts of a run's command."""
_RESUMED = re.compile(r"resum\w+ (?:at|from) ([\d,]+) images")


class MissedError(RuntimeError):
    """The fault could not be injected: the run ended first, or an awaited event did not happen."""


class LostError(RuntimeError):
    """The run did not recover from a fault."""


@dataclass
class Injection:
    """A fault at the moment it is injected.

    Attributes:
        time: of the monotonic clock, in seconds.
        images: progress of the run.
        num_resumes: attempts of the run that had resumed from a checkpoint.
        resumed_from: images of the checkpoint to which the same attempt rolled back, if it did.
    """

    time: float
    images: int
    num_resumes: int
    resumed_from: int | None = None


@dataclass
class ActiveRun:
    """A run in progress and the cluster it runs on.

    Attributes:
        cluster: a head and two more nodes.
        folder: the run folder.
        start: starts the run's command.
        driver: process of that command.
        draw: random numbers of this run's faults.
        interval: images between two checkpoints.
        tick: images between two rows of metrics.
        slow: file that slows the storage down, see slow_storage/sitecustomize.py.
        window: range of images in which the next fault is injected.
        codes: exit codes of the commands that have ended.
        expected_ends: how many of these a fault ended itself.
        injections: of the current fault.
        timers: actions scheduled after the fault, such as restoring a link.
        draining: nodes to kill once the workers have stopped on them.
    """

    cluster: LocalCluster
    folder: RunDir
    start: Callable[[], subprocess.Popen[bytes]]
    driver: subprocess.Popen[bytes]
    draw: random.Random
    interval: int
    tick: int
    slow: Path = Path(os.devnull)
    window: tuple[float, float] = (0.0, 0.0)
    codes: list[int] = field(default_factory=list)
    expected_ends: int = 0
    injections: list[Injection] = field(default_factory=list)
    timers: list[threading.Timer] = field(default_factory=list)
    draining: list[str] = field(default_factory=list)

    def reached(self) -> int:
        """Images of the newest row of metrics."""
        return max((row["images"] for row in read_metrics(self.folder)), default=0)

    def saved(self) -> int:
        """Images of the newest checkpoint."""
        with suppress(OSError):
            return max(
                (int(path.name) for path in (self.folder.path / "checkpoints").iterdir() if path.name.isdigit()),
                default=0,
            )
        return 0

    def resumed(self) -> list[int]:
        """Images of the checkpoint from which each attempt resumed that had one."""
        with suppress(OSError):
            text = self.folder.log.read_text(encoding="utf-8", errors="replace")
            return [int(images.replace(",", "")) for images in _RESUMED.findall(text)]
        return []

    def record_injection(self) -> None:
        """Record that a fault is injected now."""
        self.injections.append(Injection(time.monotonic(), self.reached(), len(self.resumed())))

    def until(self, ready: Callable[[], object], *, pause: float = 0.05) -> None:
        """Wait for an event while the command runs.

        Raises:
            MissedError: the command ended, or the event takes too long.
        """
        deadline = time.monotonic() + TIMEOUT
        while not ready():
            if self.driver.poll() is not None or time.monotonic() > deadline:
                raise MissedError(
                    f"the command ended with {self.driver.poll()}, or nothing happened in {TIMEOUT:.0f} s"
                )
            time.sleep(pause)

    def wait_for_moment(self, *, checkpoints: int = 1) -> None:
        """Wait for a random point of the window, ahead of now, with at least so many checkpoints."""
        further = self.reached() + self.draw.uniform(0.0, self.interval)
        wanted = max(self.draw.uniform(*self.window), (checkpoints + 0.1) * self.interval, further)
        self.until(lambda: self.reached() >= wanted)

    def workers(self) -> list[int]:
        """Process ids of the training workers."""
        found = {pid for node in self.nodes() for pid in self.cluster.pids(node.name)}
        return sorted(pid for pid in found if title(pid).startswith("ray::RayTrainWorker"))

    def pick_worker(self) -> int:
        """Draw a worker's process id.

        Raises:
            MissedError: no worker runs.
        """
        workers = self.workers()
        if not workers:
            raise MissedError("no worker runs")
        return self.draw.choice(workers)

    def kill_worker(self) -> None:
        """Kill a random worker and record the injection."""
        victim = self.pick_worker()
        self.record_injection()
        send([victim])

    def nodes(self) -> list[Node]:
        """Nodes that are up and may run workers."""
        state = self.cluster.state
        assert state is not None
        return [node for node in state.nodes.values() if not node.killed and node.name != HEAD]

    def pick_busy_node(self) -> str:
        """Draw a node on which a worker runs."""
        busy = [n.name for n in self.nodes() if any("RayTrainWorker" in title(p) for p in self.cluster.pids(n.name))]
        if not busy:
            raise MissedError("no worker runs")
        return self.draw.choice(busy)

    def command_pids(self) -> list[int]:
        """Process ids of the command. In a namespace its parent, which entered the namespace, comes last."""
        pid, state = self.driver.pid, self.cluster.state
        return [*(_children(pid) if state is not None and state.mode == "namespaces" else []), pid]

    def kill_command(self) -> None:
        """Send SIGKILL to the command and wait for its end."""
        send(self.command_pids())
        self.driver.wait(30)

    def restart(self) -> None:
        """Wait until the fault has ended the command, then start it again."""
        self.expected_ends += 1
        self.codes.append(self.driver.wait(TIMEOUT))
        self.driver = self.start()

    def schedule(self, seconds: float, action: Callable[[], None]) -> None:
        """Run an action after some seconds; `join_timers` waits for it."""
        timer = threading.Timer(seconds, action)
        timer.start()
        self.timers.append(timer)

    @contextmanager
    def slow_saving(self) -> Iterator[None]:
        """Slow the run down by slow storage, so that work is left for later faults."""
        self.slow.write_text("2", encoding="utf-8")
        try:
            yield
        finally:
            self.slow.unlink()

    def join_timers(self) -> None:
        """Wait for all scheduled actions."""
        for timer in self.timers:
            timer.join()
        self.timers.clear()


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def send(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
