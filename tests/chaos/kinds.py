"""Kinds of faults on a local cluster: each is a function that injects it at the right moment."""

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
from tests.chaos.active_run import ActiveRun, Injection, LostError, MissedError, send
from tests.chaos.bit_flip import flip

_STOPPED = re.compile(r"(?:leaving|stopp\w+) at [\d,]+ images")


def worker(run: ActiveRun) -> None:
    """A worker process is killed."""
    run.wait_for_moment()
    run.kill_worker()


def node(run: ActiveRun) -> None:
    """A node loses its power."""
    run.wait_for_moment()
    name = run.pick_busy_node()
    run.record_injection()
    run.cluster.kill(name)


def cut(run: ActiveRun) -> None:
    """A node is cut off the network and restored after some seconds."""
    run.wait_for_moment()
    name = run.pick_busy_node()
    run.record_injection()
    run.cluster.cut(name)

    def restore() -> None:
        with suppress(ClusterError):  # it was declared dead and replaced
            run.cluster.restore(name)

    run.schedule(run.draw.uniform(5.0, 45.0), restore)


def driver(run: ActiveRun) -> None:
    """The command is killed and started again."""
    run.wait_for_moment()
    run.record_injection()
    run.kill_command()
    run.restart()


def head(run: ActiveRun) -> None:
    """Ray's head is killed; on a new cluster the same command resumes from storage."""
    run.wait_for_moment()
    command = set(run.command_pids())
    run.record_injection()
    send(pid for pid in run.cluster.pids(HEAD) if pid not in command and "/ray/" in title(pid))
    with run.slow_saving():
        time.sleep(run.draw.uniform(0.0, 15.0))  # the workers still train; the command still runs, or has seen it
    _new_cluster(run)


def everything(run: ActiveRun) -> None:
    """All nodes lose their power at once, and the command with them."""
    run.wait_for_moment()
    run.record_injection()
    _new_cluster(run)


def _new_cluster(run: ActiveRun) -> None:
    run.cluster.down()
    if run.driver.poll() is None:
        run.kill_command()
    run.cluster.up()
    run.restart()


def two_in_a_row(run: ActiveRun) -> None:
    """A worker is killed, and another one as soon as the run has resumed."""
    run.wait_for_moment()
    resumes = len(run.resumed())
    run.kill_worker()
    run.until(lambda: len(run.resumed()) > resumes)
    run.kill_worker()


def while_saving(run: ActiveRun) -> None:
    """The workers are killed while a checkpoint is being written."""
    run.wait_for_moment()
    victims = run.workers()
    run.until(lambda: any((run.folder.path / "checkpoints").glob(".writing-*")), pause=0.0)
    send(victims)
    run.record_injection()


def while_restarting(run: ActiveRun) -> None:
    """A worker is killed, and its successor before it trains."""
    run.wait_for_moment()
    before = set(run.workers())
    run.kill_worker()
    run.until(lambda: set(run.workers()) - before)
    time.sleep(run.draw.uniform(0.0, 3.0))
    victims = sorted(set(run.workers()) - before)
    run.record_injection()
    send([run.draw.choice(victims)] if victims else [])


def while_forming(run: ActiveRun) -> None:
    """A worker is killed before the run's first process group is formed."""
    run.until(lambda: len(run.workers()) >= 2)
    time.sleep(run.draw.uniform(0.0, 3.0))
    run.kill_worker()


def ray_snapshot(run: ActiveRun) -> None:
    """The command is killed and the files of Ray Train's own state are truncated."""
    run.wait_for_moment()
    run.record_injection()
    run.kill_command()
    for path in [path for path in (run.folder.path / ".ray").rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run.restart()


def _damage(run: ActiveRun, corrupt: Callable[[Path], None]) -> None:
    """Kill the command and corrupt the newest checkpoint; there is an older one."""
    run.wait_for_moment(checkpoints=2)
    run.record_injection()
    run.kill_command()
    _wait_for_workers_to_end(run)
    corrupt(run.folder.path / "checkpoints" / f"{run.saved():012d}")
    run.restart()


def _wait_for_workers_to_end(run: ActiveRun) -> None:
    """Wait until the workers of a killed command have ended, so that none saves any more."""
    until = time.monotonic() + 60.0
    while run.workers() and time.monotonic() < until:
        time.sleep(0.1)
    send(run.workers())


def _some_file(run: ActiveRun, checkpoint: Path) -> Path:
    return checkpoint / run.draw.choice(("state.pt", "manifest.json"))


def truncated(run: ActiveRun) -> None:
    """The command is killed and the newest checkpoint truncated."""

    def corrupt(checkpoint: Path) -> None:
        path = _some_file(run, checkpoint)
        path.write_bytes(path.read_bytes()[: run.draw.randrange(path.stat().st_size)])

    _damage(run, corrupt)


def flipped(run: ActiveRun) -> None:
    """The command is killed and a bit of the newest checkpoint flipped."""

    def corrupt(checkpoint: Path) -> None:
        path = _some_file(run, checkpoint)
        content = bytearray(path.read_bytes())
        content[run.draw.randrange(len(content))] ^= 1 << run.draw.randrange(8)
        path.write_bytes(content)

    _damage(run, corrupt)


def half_uploaded(run: ActiveRun) -> None:
    """The command is killed; the newest checkpoint lacks a file, and an unfinished copy lies beside it."""

    def corrupt(checkpoint: Path) -> None:
        shutil.copytree(checkpoint, checkpoint.with_name(f".writing-{run.draw.getrandbits(64):x}"))
        _some_file(run, checkpoint).unlink()

    _damage(run, corrupt)


def old_schema(run: ActiveRun) -> None:
    """The command is killed; the newest checkpoint has a schema that is no longer read."""

    def corrupt(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8")) | {"schema": 0}
        del manifest["checksum"]
        manifest["checksum"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(manifest), encoding="utf-8")

    _damage(run, corrupt)


def _through(run: ActiveRun, begin: Callable[[], None], seconds: float, end: Callable[[], None]) -> None:
    """Break the storage for some seconds: checkpoints stay valid, saving works again; then a worker is killed."""
    run.wait_for_moment()
    saved = run.saved()
    begin()
    try:
        time.sleep(seconds)
        _check_newest(run)
    finally:
        end()
    later = max(saved, run.saved())
    run.until(lambda: run.saved() > later)
    run.kill_worker()


def _check_newest(run: ActiveRun) -> None:
    """Raises LostError unless the newest checkpoint is valid."""
    problem = ""
    for _ in range(20):  # the newest is replaced while this reads it
        newest = run.folder.path / "checkpoints" / f"{run.saved():012d}"
        try:
            verify(newest)
            return
        except CheckpointError as error:
            problem = f"the newest checkpoint is not good: {error}"
            time.sleep(0.1)
    raise LostError(problem)


def storage_full(run: ActiveRun) -> None:
    """The storage is full for some seconds; once it has space again, a worker is killed."""
    ballast = run.folder.path.parent / "ballast"

    def fill() -> None:
        for block in (1 << 20, 4096, 1):
            try:
                with ballast.open("ab", buffering=0) as file:
                    while True:
                        file.write(b"x" * block)
            except OSError:
                pass

    _through(run, fill, run.draw.uniform(0.5, 2.0), lambda: ballast.unlink(missing_ok=True))


def storage_read_only(run: ActiveRun) -> None:
    """The checkpoints are read-only on all nodes for some seconds; then a worker is killed."""
    folder = str(run.folder.path / "checkpoints")

    def on_all(script: str) -> None:
        for each in run.nodes():
            run.cluster.run(each.name, ["sh", "-c", script, "sh", folder], capture_output=True, check=True)

    close = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    seconds = run.draw.uniform(0.5, 2.0)
    _through(run, lambda: on_all(close), seconds, lambda: on_all('umount --lazy "$1"'))


def storage_slow(run: ActiveRun) -> None:
    """Each sync takes half a second, and a worker is killed meanwhile."""
    run.wait_for_moment()
    run.slow.write_text("0.5", encoding="utf-8")
    try:
        time.sleep(run.draw.uniform(2.0, 6.0))
        run.kill_worker()
    finally:
        run.slow.unlink()


def on_sigterm(run: ActiveRun) -> None:
    """The command gets SIGTERM, saves and stops; it is started again."""
    run.wait_for_moment()
    run.record_injection()
    send(run.command_pids()[:1], signal.SIGTERM)
    run.restart()


def drained(run: ActiveRun) -> None:
    """A node is drained: the workers save and stop, and it is killed."""
    run.wait_for_moment()
    name, log = run.pick_busy_node(), run.folder.log
    stops = len(_STOPPED.findall(log.read_text(encoding="utf-8")))
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a fault", "--deadline-remaining-seconds"]
    words = ["ray", "drain-node", "--node-id", run.cluster.id_of(name), *reason, "60"]
    with run.slow_saving():
        drain = run.cluster.run(name, words, capture_output=True, text=True)
    if drain.returncode:
        raise MissedError(f"ray drain-node: {drain.stderr[-300:]}")
    run.record_injection()
    run.draining.append(name)
    run.until(lambda: len(_STOPPED.findall(log.read_text(encoding="utf-8"))) > stops)


def hang(run: ActiveRun) -> None:
    """A worker hangs."""
    run.wait_for_moment()
    victim = run.pick_worker()
    run.record_injection()
    send([victim], signal.SIGSTOP)


def drift(run: ActiveRun) -> None:
    """A bit of a worker's generator flips in its memory."""
    run.wait_for_moment()
    before = len(read_events(run.folder))
    victim, moment, resumes = run.pick_worker(), time.monotonic(), len(run.resumed())
    send([victim], signal.SIGSTOP)
    try:
        _, state = load(run.folder.path / "checkpoints" / f"{run.saved():012d}")
        weights = next(each for each in state["generator"].values() if each.dim() > 1)
        if not flip(victim, weights.flatten()[:48].numpy(), within=0.05):
            raise MissedError("the weights were not found in the worker's memory")
    except (CheckpointError, OSError) as error:
        raise MissedError(f"no bit could be flipped: {error}") from error
    finally:
        send([victim], signal.SIGCONT)
    run.until(lambda: len(read_events(run.folder)) > before)
    event = read_events(run.folder)[before]
    found = re.search(r"to ([\d,]+) images", event["text"])
    if not event["kind"].startswith("replica-drift, roll"):
        raise LostError(f"{event['kind']}: {event['text']}")
    run.injections.append(Injection(moment, event["images"], resumes, int(found[1].replace(",", "")) if found else 0))


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        inject: injects it.
        intervals: most checkpoint intervals of work that it may cost.
        needs: what must be possible: nodes in namespaces, a small file system, writing to another process's memory.
        turn: order within a run that has several; the smallest first.
        same_attempt: whether the run may recover without resuming from a checkpoint.
    """

    inject: Callable[[ActiveRun], None]
    intervals: int = 1
    needs: Literal["", "machines", "small storage", "memory"] = ""
    turn: int = 2
    same_attempt: bool = False


KINDS: dict[str, Kind] = {
    "worker": Kind(worker),
    "node": Kind(node),
    "cut": Kind(cut, needs="machines", same_attempt=True),
    "driver": Kind(driver),
    "head": Kind(head),
    "everything": Kind(everything),
    "two-in-a-row": Kind(two_in_a_row),
    "while-saving": Kind(while_saving),
    "while-restarting": Kind(while_restarting),
    "while-forming": Kind(while_forming, turn=0, same_attempt=True),
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
    "drift": Kind(drift, needs="memory", same_attempt=True),
}
"""By name. Without the newest checkpoint the one before is an interval further back."""
