"""What can happen to a run on a local cluster: each kind of fault as a function that does it at the right moment."""

import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.machines import ClusterError
from cluster.nodes import HEAD
from cluster.state import title
from ganscale.storage.checkpoint import CheckpointError, load, verify
from ganscale.tracking.jsonl import read_events
from tests.chaos.bit_flip import flip
from tests.chaos.scene import LostError, MissedError, Scene, Strike, send


def worker(scene: Scene) -> None:
    """A worker process is killed."""
    scene.a_moment()
    scene.kill_a_worker()


def node(scene: Scene) -> None:
    """A node loses its power."""
    scene.a_moment()
    name = scene.busy_node()
    scene.strike()
    scene.cluster.kill(name)


def cut(scene: Scene) -> None:
    """A node is cut off the network, and comes back after a while."""
    scene.a_moment()
    name = scene.busy_node()
    scene.strike()
    scene.cluster.cut(name)

    def restore() -> None:
        with suppress(ClusterError):  # it was taken to be dead, and replaced
            scene.cluster.restore(name)

    scene.do_later(scene.draw.uniform(5.0, 45.0), restore)


def driver(scene: Scene) -> None:
    """The command is killed, and given again."""
    scene.a_moment()
    scene.strike()
    scene.kill_command()
    scene.start_again()


def head(scene: Scene) -> None:
    """Ray's head is killed; the cluster is started anew, and the same command goes on from storage."""
    scene.a_moment()
    command = set(scene.command_pids())
    scene.strike()
    send(pid for pid in scene.cluster.pids(HEAD) if pid not in command and "/ray/" in title(pid))
    with scene.unhurried():
        time.sleep(scene.draw.uniform(0.0, 15.0))  # the workers still train; the command still runs, or has seen it
    _new_cluster(scene)


def everything(scene: Scene) -> None:
    """All nodes lose their power at once, and the command with them."""
    scene.a_moment()
    scene.strike()
    _new_cluster(scene)


def _new_cluster(scene: Scene) -> None:
    scene.cluster.down()
    if scene.driver.poll() is None:
        scene.kill_command()
    scene.cluster.up()
    scene.start_again()


def two_in_a_row(scene: Scene) -> None:
    """A worker is killed, and another one as soon as the run goes on."""
    scene.a_moment()
    lives = len(scene.resumed())
    scene.kill_a_worker()
    scene.until(lambda: len(scene.resumed()) > lives)
    scene.kill_a_worker()


def while_saving(scene: Scene) -> None:
    """The workers are killed while a checkpoint is being written."""
    scene.a_moment()
    victims = scene.workers()
    scene.until(lambda: any(scene.run.checkpoints.glob(".writing-*")), pause=0.0)
    send(victims)
    scene.strike()


def while_restarting(scene: Scene) -> None:
    """A worker is killed; its successor, too, before it trains."""
    scene.a_moment()
    before = set(scene.workers())
    scene.kill_a_worker()
    scene.until(lambda: set(scene.workers()) - before)
    time.sleep(scene.draw.uniform(0.0, 3.0))
    victims = sorted(set(scene.workers()) - before)
    scene.strike()
    send([scene.draw.choice(victims)] if victims else [])


def while_forming(scene: Scene) -> None:
    """A worker is killed before the run's first process group stands."""
    scene.until(lambda: len(scene.workers()) >= 2)
    time.sleep(scene.draw.uniform(0.0, 3.0))
    scene.kill_a_worker()


def ray_snapshot(scene: Scene) -> None:
    """The command is killed, and the files that Ray wrote for itself are cut short."""
    scene.a_moment()
    scene.strike()
    scene.kill_command()
    for path in [path for path in (scene.run.path / ".ray").rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    scene.start_again()


def _damage(scene: Scene, spoil: Callable[[Path], None]) -> None:
    """Kill the command, and do something to the newest checkpoint; there is one before it."""
    scene.a_moment(checkpoints=2)
    scene.strike()
    scene.kill_command()
    _workers_end(scene)
    spoil(scene.run.checkpoints / f"{scene.saved():012d}")
    scene.start_again()


def _workers_end(scene: Scene) -> None:
    """Wait until a killed command's workers are gone, so that none saves any more."""
    until = time.monotonic() + 60.0
    while scene.workers() and time.monotonic() < until:
        time.sleep(0.1)
    send(scene.workers())


def _some_file(scene: Scene, checkpoint: Path) -> Path:
    return checkpoint / scene.draw.choice(("state.pt", "manifest.json"))


def truncated(scene: Scene) -> None:
    """The command is killed, and the newest checkpoint is cut short."""

    def spoil(checkpoint: Path) -> None:
        path = _some_file(scene, checkpoint)
        path.write_bytes(path.read_bytes()[: scene.draw.randrange(path.stat().st_size)])

    _damage(scene, spoil)


def flipped(scene: Scene) -> None:
    """The command is killed, and a bit of the newest checkpoint flips."""

    def spoil(checkpoint: Path) -> None:
        path = _some_file(scene, checkpoint)
        content = bytearray(path.read_bytes())
        content[scene.draw.randrange(len(content))] ^= 1 << scene.draw.randrange(8)
        path.write_bytes(content)

    _damage(scene, spoil)


def half_uploaded(scene: Scene) -> None:
    """The command is killed, and of the newest checkpoint one file is missing; a copy of it was begun."""

    def spoil(checkpoint: Path) -> None:
        shutil.copytree(checkpoint, checkpoint.with_name(f".writing-{scene.draw.getrandbits(64):x}"))
        _some_file(scene, checkpoint).unlink()

    _damage(scene, spoil)


def old_schema(scene: Scene) -> None:
    """The command is killed, and the newest checkpoint is a valid one of a schema that is no longer read."""

    def spoil(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8")) | {"schema": 0}
        del manifest["checksum"]
        manifest["checksum"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(manifest), encoding="utf-8")

    _damage(scene, spoil)


def _through(scene: Scene, begin: Callable[[], None], seconds: float, end: Callable[[], None]) -> None:
    """Storage is bad for a while; nothing saved may spoil, saving must work again, and then a worker is killed."""
    scene.a_moment()
    saved = scene.saved()
    begin()
    try:
        time.sleep(seconds)
        _still_good(scene)
    finally:
        end()
    later = max(saved, scene.saved())
    scene.until(lambda: scene.saved() > later)
    scene.kill_a_worker()


def _still_good(scene: Scene) -> None:
    """Raises LostError unless the newest checkpoint is valid."""
    problem = ""
    for _ in range(20):  # the newest is replaced while this reads it
        newest = scene.run.checkpoints / f"{scene.saved():012d}"
        try:
            verify(newest)
            return
        except CheckpointError as error:
            problem = f"the newest checkpoint is not good: {error}"
            time.sleep(0.1)
    raise LostError(problem)


def storage_full(scene: Scene) -> None:
    """The storage has no byte left for a while; once it has some again, a worker is killed."""
    ballast = scene.run.path.parent / "ballast"

    def fill() -> None:
        for block in (1 << 20, 4096, 1):
            try:
                with ballast.open("ab", buffering=0) as file:
                    while True:
                        file.write(b"x" * block)
            except OSError:
                pass

    _through(scene, fill, scene.draw.uniform(0.5, 2.0), lambda: ballast.unlink(missing_ok=True))


def storage_read_only(scene: Scene) -> None:
    """The checkpoints' folder is read-only for a while on all nodes; once it is not, a worker is killed."""
    folder = str(scene.run.checkpoints)

    def on_all(script: str) -> None:
        for each in scene.nodes():
            scene.cluster.run(each.name, ["sh", "-c", script, "sh", folder], capture_output=True, check=True)

    close = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    seconds = scene.draw.uniform(0.5, 2.0)
    _through(scene, lambda: on_all(close), seconds, lambda: on_all('umount --lazy "$1"'))


def storage_slow(scene: Scene) -> None:
    """Each sync takes half a second for a while, and a worker is killed right then."""
    scene.a_moment()
    scene.slow.write_text("0.5", encoding="utf-8")
    try:
        time.sleep(scene.draw.uniform(2.0, 6.0))
        scene.kill_a_worker()
    finally:
        scene.slow.unlink()


def on_sigterm(scene: Scene) -> None:
    """The command gets SIGTERM, saves and leaves; it is given again."""
    scene.a_moment()
    scene.strike()
    send(scene.command_pids()[:1], signal.SIGTERM)
    scene.start_again()


def drained(scene: Scene) -> None:
    """A node is about to be taken back; the workers save, leave it, and it goes."""
    scene.a_moment()
    name, log = scene.busy_node(), scene.run.log
    left = log.read_text(encoding="utf-8").count("stopping at")
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a fault", "--deadline-remaining-seconds"]
    words = ["ray", "drain-node", "--node-id", scene.cluster.id_of(name), *reason, "60"]
    with scene.unhurried():
        told = scene.cluster.run(name, words, capture_output=True, text=True)
    if told.returncode:
        raise MissedError(f"ray drain-node: {told.stderr[-300:]}")
    scene.strike()
    scene.leaving.append(name)
    scene.until(lambda: log.read_text(encoding="utf-8").count("stopping at") > left)


def hang(scene: Scene) -> None:
    """A worker stops without a word."""
    scene.a_moment()
    victim = scene.a_worker()
    scene.strike()
    send([victim], signal.SIGSTOP)


def drift(scene: Scene) -> None:
    """A bit of a worker's generator flips in its memory, and nothing else is seen of it."""
    scene.a_moment()
    before = len(read_events(scene.run))
    victim, moment, lives = scene.a_worker(), time.monotonic(), len(scene.resumed())
    send([victim], signal.SIGSTOP)
    try:
        _, state = load(scene.run.checkpoints / f"{scene.saved():012d}")
        weights = next(each for each in state["generator"].values() if each.dim() > 1)
        if not flip(victim, weights.flatten()[:48].numpy(), within=0.05):
            raise MissedError("the weights were not found in the worker's memory")
    except (CheckpointError, OSError) as error:
        raise MissedError(f"no bit could be flipped: {error}") from error
    finally:
        send([victim], signal.SIGCONT)
    scene.until(lambda: len(read_events(scene.run)) > before)
    event = read_events(scene.run)[before]
    found = re.search(r"to ([\d,]+) images", event["text"])
    if event["kind"] != "replica-drift, roll back":
        raise LostError(f"{event['kind']}: {event['text']}")
    scene.strikes.append(Strike(moment, event["images"], lives, int(found[1].replace(",", "")) if found else 0))


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: does it.
        intervals: of checkpoints that may be lost for each fault in it, at most.
        needs: what must be possible here: nodes that are machines, a small file system, writing to other processes.
        turn: place in a run that has several; the smallest first.
        same_life: whether the run may go on without having started again from a checkpoint.
    """

    inject: Callable[[Scene], None]
    intervals: int = 1
    needs: Literal["", "machines", "small storage", "memory"] = ""
    turn: int = 2
    same_life: bool = False


KINDS: dict[str, Kind] = {
    "worker": Kind(worker),
    "node": Kind(node),
    "cut": Kind(cut, needs="machines", same_life=True),
    "driver": Kind(driver),
    "head": Kind(head),
    "everything": Kind(everything),
    "two-in-a-row": Kind(two_in_a_row),
    "while-saving": Kind(while_saving),
    "while-restarting": Kind(while_restarting),
    "while-forming": Kind(while_forming, turn=0, same_life=True),
    "ray-snapshot": Kind(ray_snapshot),
    "storage-full": Kind(storage_full, needs="small storage"),
    "storage-read-only": Kind(storage_read_only, needs="machines"),
    "storage-slow": Kind(storage_slow),
    "truncated": Kind(truncated, intervals=2),
    "flipped": Kind(flipped, intervals=2),
    "half-uploaded": Kind(half_uploaded, intervals=2),
    "old-schema": Kind(old_schema, intervals=2),
    "sigterm": Kind(on_sigterm),
    "drained": Kind(drained, needs="machines", turn=1),
    "hang": Kind(hang),
    "drift": Kind(drift, needs="memory", same_life=True),
}
"""By name. Where the newest checkpoint itself is lost, the one before is an interval further back."""
