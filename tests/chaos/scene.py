"""A run that is going on in a campaign of faults: how far it is, what it runs on, and what was done to it."""

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

PATIENCE = 300.0
"""Seconds that anything awaited may take on a busy machine."""
STARTS = 20
"""Times that a run's command is given, at most."""
_RESUMED = re.compile(r"resuming at ([\d,]+) images")


class MissedError(RuntimeError):
    """The moment for a fault did not come: the run was over, or what was awaited did not happen."""


class LostError(RuntimeError):
    """The run did not go on after a fault."""


@dataclass
class Strike:
    """Something that was done to the run.

    Attributes:
        time: by the monotonic clock.
        images: that the run had reached.
        lives: of the run that had gone on from a checkpoint by then.
        back: images from which it went on, where that was in the same life.
    """

    time: float
    images: int
    lives: int
    back: int | None = None


@dataclass
class Scene:
    """A run that is going on, and the cluster that it runs on.

    Attributes:
        cluster: with a head and two more nodes.
        run: its folder.
        start: starts the run's command.
        driver: that command's process.
        draw: random numbers of this run's faults.
        interval: images between two checkpoints.
        tick: images between two rows of metrics.
        slow: the file that makes storage slow, see slow_storage/sitecustomize.py.
        window: images between which the next fault is to happen.
        codes: exit codes of the commands that ended.
        asked: commands that faults themselves ended.
        strikes: of the fault that happens now.
        later: what is done a while after the fault, such as mending a link.
        leaving: nodes that are to go once the run has left them.
    """

    cluster: LocalCluster
    run: RunDir
    start: Callable[[], subprocess.Popen[bytes]]
    driver: subprocess.Popen[bytes]
    draw: random.Random
    interval: int
    tick: int
    slow: Path = Path(os.devnull)
    window: tuple[float, float] = (0.0, 0.0)
    codes: list[int] = field(default_factory=list)
    asked: int = 0
    strikes: list[Strike] = field(default_factory=list)
    later: list[threading.Timer] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)

    def reached(self) -> int:
        """Images of the newest row of metrics."""
        return max((row["images"] for row in read_metrics(self.run)), default=0)

    def saved(self) -> int:
        """Images of the newest checkpoint."""
        with suppress(OSError):
            return max((int(path.name) for path in self.run.checkpoints.iterdir() if path.name.isdigit()), default=0)
        return 0

    def resumed(self) -> list[int]:
        """Images from which each life of the run went on that had a checkpoint."""
        with suppress(OSError):
            text = self.run.log.read_text(encoding="utf-8", errors="replace")
            return [int(images.replace(",", "")) for images in _RESUMED.findall(text)]
        return []

    def strike(self) -> None:
        """Note that something is done to the run now."""
        self.strikes.append(Strike(time.monotonic(), self.reached(), len(self.resumed())))

    def until(self, ready: Callable[[], object], *, pause: float = 0.05) -> None:
        """Wait while the command runs.

        Raises:
            MissedError: it ended, or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self.driver.poll() is not None or time.monotonic() > deadline:
                raise MissedError(
                    f"the command ended with {self.driver.poll()}, or nothing happened in {PATIENCE:.0f} s"
                )
            time.sleep(pause)

    def a_moment(self, *, checkpoints: int = 1) -> None:
        """Wait until the run is somewhere in its window, further than now, and has so many checkpoints."""
        further = self.reached() + self.draw.uniform(0.0, self.interval)
        wanted = max(self.draw.uniform(*self.window), (checkpoints + 0.1) * self.interval, further)
        self.until(lambda: self.reached() >= wanted)

    def workers(self) -> list[int]:
        """Process ids of the training workers on living nodes."""
        found = {pid for node in self.nodes() for pid in self.cluster.pids(node.name)}
        return sorted(pid for pid in found if title(pid).startswith("ray::RayTrainWorker"))

    def a_worker(self) -> int:
        """One of the workers.

        Raises:
            MissedError: there is none.
        """
        workers = self.workers()
        if not workers:
            raise MissedError("no worker runs")
        return self.draw.choice(workers)

    def kill_a_worker(self) -> None:
        """Do so, and note it."""
        victim = self.a_worker()
        self.strike()
        send([victim])

    def nodes(self) -> list[Node]:
        """The living nodes that run workers."""
        state = self.cluster.state
        assert state is not None
        return [node for node in state.nodes.values() if not node.killed and node.name != HEAD]

    def busy_node(self) -> str:
        """A node on which a worker runs."""
        busy = [n.name for n in self.nodes() if any("RayTrainWorker" in title(p) for p in self.cluster.pids(n.name))]
        if not busy:
            raise MissedError("no worker runs")
        return self.draw.choice(busy)

    def command_pids(self) -> list[int]:
        """Of the command itself. On a machine of its own a helper that entered it is its parent, and comes last."""
        pid, state = self.driver.pid, self.cluster.state
        return [*(_children(pid) if state is not None and state.mode == "namespaces" else []), pid]

    def kill_command(self) -> None:
        """SIGKILL for the command."""
        send(self.command_pids())
        self.driver.wait(30)

    def start_again(self) -> None:
        """The same command, once the one before has ended, as a fault ended it."""
        self.asked += 1
        self.codes.append(self.driver.wait(PATIENCE))
        self.driver = self.start()

    def do_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something after a while; `calm` waits for it."""
        timer = threading.Timer(seconds, action)
        timer.start()
        self.later.append(timer)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """While the block runs the run hardly gets on, as saving takes it long: there is work left for later faults."""
        self.slow.write_text("2", encoding="utf-8")
        try:
            yield
        finally:
            self.slow.unlink()

    def calm(self) -> None:
        """Wait for what is to be done later."""
        for timer in self.later:
            timer.join()
        self.later.clear()


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def send(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes that may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
