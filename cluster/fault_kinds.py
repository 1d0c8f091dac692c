"""What can happen to a run on a local cluster: each kind of fault as a function that does it at the right moment."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster.nodes import HEAD, LocalCluster
from cluster.state import Node
from ganscale.runfolder import RunFolder
from ganscale.tracking.local import read_metrics

PATIENCE = 600.0
"""Seconds that anything awaited may take on a busy machine."""


class MissedError(RuntimeError):
    """The moment for a fault did not come: the run was over, or what was awaited did not happen."""


@dataclass
class Scene:
    """A run that is going on, and the cluster that it runs on.

    Attributes:
        cluster: with a head and two more nodes.
        run: its folder.
        start: starts the run's command.
        driver: that command's process.
        draw: random numbers of this fault.
        interval: images between two checkpoints.
        images: length of the run.
        codes: exit codes of the commands so far.
        struck: when the last fault happened, by the monotonic clock, and the images reached then.
    """

    cluster: LocalCluster
    run: RunFolder
    start: Callable[[], subprocess.Popen[bytes]]
    driver: subprocess.Popen[bytes]
    draw: random.Random
    interval: int
    images: int
    codes: list[int] = field(default_factory=list)
    struck: tuple[float, int] = (0.0, 0)

    def reached(self) -> int:
        """Images of the newest row of metrics."""
        return max((row["images"] for row in read_metrics(self.run)), default=0)

    def strike(self) -> None:
        """Note that a fault happens now."""
        self.struck = time.monotonic(), self.reached()

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

    def workers(self) -> list[int]:
        """Process ids of the training workers on living nodes."""
        found = {pid for node in self.nodes() for pid in self.cluster.pids(node.name)}
        return sorted(pid for pid in found if _title(pid).startswith("ray::RayTrainWorker"))

    def a_worker(self) -> int:
        """One of the workers.

        Raises:
            MissedError: there is none.
        """
        workers = self.workers()
        if not workers:
            raise MissedError("no worker runs")
        return self.draw.choice(workers)

    def nodes(self) -> list[Node]:
        """The living nodes that run workers."""
        state = self.cluster.state
        assert state is not None
        return [node for node in state.nodes.values() if not node.killed and node.name != HEAD]

    def busy_node(self) -> str:
        """A node on which a worker runs."""
        busy = [n.name for n in self.nodes() if any("RayTrainWorker" in _title(p) for p in self.cluster.pids(n.name))]
        if not busy:
            raise MissedError("no worker runs")
        return self.draw.choice(busy)

    def restart_driver(self) -> None:
        """The same command again, once the one before has ended."""
        self.codes.append(self.driver.wait(PATIENCE))
        self.driver = self.start()


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def send(pids: Iterable[int], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes that may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def some_moment(scene: Scene) -> None:
    """Wait until a random share of the run is done, and a checkpoint."""
    wanted = scene.draw.uniform(1.1 * scene.interval, 0.7 * scene.images)
    scene.until(lambda: scene.reached() >= wanted)
    scene.strike()


def _kill_worker(scene: Scene) -> None:
    victim = scene.a_worker()
    scene.strike()
    send([victim])


def worker(scene: Scene) -> None:
    """A worker process is killed."""
    some_moment(scene)
    _kill_worker(scene)


def node(scene: Scene) -> None:
    """A node loses its power."""
    some_moment(scene)
    scene.cluster.kill(scene.busy_node())


def cut(scene: Scene) -> None:
    """A node is cut off the network, and comes back after a while."""
    some_moment(scene)
    name = scene.busy_node()
    scene.cluster.cut(name)
    time.sleep(scene.draw.uniform(5.0, 60.0))
    scene.cluster.restore(name)


def driver(scene: Scene) -> None:
    """The command is killed, and given again."""
    some_moment(scene)
    scene.driver.kill()
    scene.restart_driver()


def head(scene: Scene) -> None:
    """Ray's head is killed; the cluster is started anew, and the same command goes on from storage."""
    some_moment(scene)
    send(pid for pid in scene.cluster.pids(HEAD) if pid != scene.driver.pid)
    _new_cluster(scene)


def everything(scene: Scene) -> None:
    """All nodes lose their power at once, and the command with them."""
    some_moment(scene)
    scene.driver.kill()
    _new_cluster(scene)


def _new_cluster(scene: Scene) -> None:
    scene.cluster.down()
    with suppress(subprocess.TimeoutExpired):
        scene.driver.wait(120)
    scene.driver.kill()
    scene.cluster.up()
    scene.restart_driver()


def two_in_a_row(scene: Scene) -> None:
    """A worker is killed, and another one as soon as the run goes on."""
    some_moment(scene)
    lives = _lives(scene)
    _kill_worker(scene)
    scene.until(lambda: _lives(scene) > lives)
    scene.until(scene.workers)
    _kill_worker(scene)


def _lives(scene: Scene) -> int:
    with suppress(OSError):
        return scene.run.log.read_text(encoding="utf-8", errors="replace").count("resuming at ")
    return 0


def while_saving(scene: Scene) -> None:
    """The workers are killed while a checkpoint is being written."""
    some_moment(scene)
    scene.until(lambda: any(scene.run.checkpoints.glob(".writing-*")), pause=0.0)
    scene.strike()
    send(scene.workers())


def while_restarting(scene: Scene) -> None:
    """A worker is killed; its successor, too, before it trains."""
    some_moment(scene)
    before = set(scene.workers())
    _kill_worker(scene)
    scene.until(lambda: set(scene.workers()) - before)
    send([scene.draw.choice(sorted(set(scene.workers()) - before))])


def while_forming(scene: Scene) -> None:
    """A worker is killed before the first process group stands."""
    scene.until(lambda: len(scene.workers()) >= 2, pause=0.0)
    time.sleep(scene.draw.uniform(0.0, 3.0))
    _kill_worker(scene)


def ray_snapshot(scene: Scene) -> None:
    """The command is killed, and the files that Ray wrote for itself are cut short."""
    some_moment(scene)
    scene.driver.kill()
    scene.driver.wait(PATIENCE)
    for path in [path for path in (scene.run.path / ".ray").rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    scene.restart_driver()


def _damage(scene: Scene, spoil: Callable[[bytes], bytes]) -> None:
    some_moment(scene)
    scene.driver.kill()
    scene.driver.wait(PATIENCE)
    _workers_end(scene)
    newest = max(path for path in scene.run.checkpoints.iterdir() if path.name.isdigit())
    path = newest / scene.draw.choice(("state.pt", "manifest.json"))
    path.write_bytes(spoil(path.read_bytes()))
    scene.restart_driver()


def _workers_end(scene: Scene) -> None:
    """Wait until a killed driver's workers are gone, so that none saves any more."""
    until = time.monotonic() + 60.0
    while scene.workers() and time.monotonic() < until:
        time.sleep(0.1)
    send(scene.workers())


def truncated(scene: Scene) -> None:
    """The command is killed, and the newest checkpoint is cut short."""
    _damage(scene, lambda content: content[: scene.draw.randrange(len(content))])


def flipped(scene: Scene) -> None:
    """The command is killed, and a bit of the newest checkpoint flips."""

    def flip(content: bytes) -> bytes:
        place = scene.draw.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 1 << scene.draw.randrange(8)]) + content[place + 1 :]

    _damage(scene, flip)


def storage_full(scene: Scene) -> None:
    """The storage has no byte left for a while, then has some again, and a worker is killed."""
    some_moment(scene)
    ballast = scene.run.path.parent / "ballast"
    try:
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        time.sleep(scene.draw.uniform(5.0, 20.0))
    finally:
        ballast.unlink(missing_ok=True)
    _kill_worker(scene)


def terminated(scene: Scene) -> None:
    """The command gets SIGTERM, saves and leaves; it is given again."""
    some_moment(scene)
    scene.driver.terminate()
    scene.restart_driver()


def hang(scene: Scene) -> None:
    """A worker stops without a word."""
    some_moment(scene)
    send([scene.a_worker()], signal.SIGSTOP)


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: does it.
        intervals: of checkpoints that may be lost for each fault in it, at most.
        needs: what the cluster must be able to do.
    """

    inject: Callable[[Scene], None]
    intervals: int = 1
    needs: Literal["", "network", "small storage"] = ""


KINDS: dict[str, Kind] = {
    "worker": Kind(worker),
    "node": Kind(node),
    "cut": Kind(cut, needs="network"),
    "driver": Kind(driver),
    "head": Kind(head),
    "everything": Kind(everything),
    "two-in-a-row": Kind(two_in_a_row),
    "while-saving": Kind(while_saving),
    "while-restarting": Kind(while_restarting),
    "while-forming": Kind(while_forming),
    "ray-snapshot": Kind(ray_snapshot),
    "storage-full": Kind(storage_full, intervals=2, needs="small storage"),
    "truncated": Kind(truncated, intervals=2),
    "flipped": Kind(flipped, intervals=2),
    "sigterm": Kind(terminated),
    "hang": Kind(hang),
}
"""By name. Where the newest checkpoint itself is lost, the one before is an interval further back."""
