"""Kinds of kills of a run in a bucket: at a moment, at a request to the storage, and with a second driver."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.active_run import LostError, send
from tests.chaos.bucket_run import (
    DELETION,
    INTERVAL,
    LISTING,
    MANIFEST,
    RENEWAL,
    STATE,
    BucketRun,
    Passing,
    Request,
    Trap,
    proceed,
    stop,
)
from tests.processes import Command


def driver(run: BucketRun) -> None:
    """The command is killed; its workers live on, and hold the lease."""
    (command,) = run.commands
    run.record_kill()
    send([command.process.pid])
    command.process.wait(30)


def rank(run: BucketRun) -> None:
    """A worker is killed; torchrun restarts all."""
    victim = run.draw.choice((0, 1))
    run.details.append(f"rank {victim}")
    run.until(lambda: run.pids(victim))
    _kill_rank(run, victim)


def everything(run: BucketRun) -> None:
    """The command and all workers are killed."""
    run.kill_all()


def uploading(run: BucketRun) -> None:
    """Killed while a state is being uploaded: the storage gets it, or does not."""
    _at(run, STATE, _passing(run, "dropped", "late"))


def between(run: BucketRun) -> None:
    """Killed between a state and its manifest."""
    if run.draw.random() < 0.5:
        _at(run, STATE, "answered")
    else:
        _at(run, MANIFEST, "dropped")


def committing(run: BucketRun) -> None:
    """Killed while the manifest is being uploaded: the storage gets it."""
    _at(run, MANIFEST, _passing(run, "late", "answered"))


def pruning(run: BucketRun) -> None:
    """Killed while an old checkpoint is being deleted, after none, one or two of its objects."""
    _at(run, DELETION, _passing(run, "dropped", "late"), skip=run.draw.randrange(2))


def takeover(run: BucketRun) -> None:
    """Everything is killed, and the next one while it takes the lease over: as it takes it, or claims the run."""
    run.kill_all()
    run.listed()
    passing, skip = _passing(run, "dropped", "late", "answered"), run.draw.randrange(2)
    trap = run.trap(RENEWAL, passing, run.kill_all, skip=skip)
    run.start()
    run.until(trap.sprung.is_set)


def two_drivers(run: BucketRun) -> None:
    """Two commands at once: after everything was killed, or one waits while the other trains and is killed."""
    if run.draw.random() < 0.5:
        run.details.append("both start")
        run.kill_all()
        run.listed()
        run.start()
        run.start()
        return
    run.details.append("one waits")
    (first,) = run.commands
    with run.slow():
        second = run.start()
        run.until(lambda: "is writing to" in second.output)
    time.sleep(run.draw.uniform(0.0, 3.0))
    run.forget(first)


def suspended(run: BucketRun) -> None:
    """The writer is suspended within a save, a second driver takes over, and the first one wakes up."""
    (first,) = run.commands
    place = run.draw.choice((STATE, MANIFEST, LISTING, DELETION, RENEWAL))
    passing = _passing(run, "held", "answered", "dropped")
    victims: list[int] = []

    def suspend() -> None:
        run.record_kill()
        victims.extend(run.everything())
        stop(victims)

    trap = run.trap(place, passing, suspend)
    run.until(trap.sprung.is_set)
    try:
        run.start()
        further = run.peak + run.draw.choice((1, 2, 3)) * INTERVAL
        run.until(lambda: run.reached(run.marks) >= further or any(each.process.poll() == 0 for each in run.commands))
        before = run.listed()
    finally:
        trap.released.set()
        proceed(victims)
    with run.slow():
        _check_first_ends(run, first, victims)
    _check_kept(before, run.listed())


def _check_first_ends(run: BucketRun, first: Command, victims: list[int]) -> None:
    """The workers of a command that lost the lease end by themselves."""
    until = time.monotonic() + 90.0
    mine = set(victims)
    while mine & set(run.pids()):
        if time.monotonic() > until:
            raise LostError("a writer that lost the lease did not end within 90 s")
        time.sleep(0.1)
    first.kill()  # torchrun would start its workers again
    run.commands = [command for command in run.commands if command is not first]


def _check_kept(before: list[int], after: list[int]) -> None:
    """What was listed is listed still, unless as many newer ones are."""
    for images in before[:2]:
        if images not in after and sum(other > images for other in after) < 2:
            raise LostError(f"the checkpoint at {images} images has vanished: {before}, {after}")


def _at(run: BucketRun, place: Request, passing: Passing, *, skip: int = 0) -> Trap:
    """Kill everything, or the worker that sends it, at a request."""
    whole = run.launcher == "local" or run.draw.random() < 0.5
    run.details.append("all" if whole else "rank 0")
    trap = run.trap(place, passing, run.kill_all if whole else lambda: _kill_rank(run, 0), skip=skip)
    run.until(trap.sprung.is_set)
    return trap


def _passing(run: BucketRun, *ways: Passing) -> Passing:
    return run.draw.choice(ways)


def _kill_rank(run: BucketRun, number: int) -> None:
    run.record_kill()
    send(run.pids(number))


@dataclass(frozen=True)
class Kind:
    """A kind of kill.

    Attributes:
        inject: does it.
        launcher: the only one under which it differs from the other kinds; empty for any.
        is_last: whether the run may end before a further kill.
    """

    inject: Callable[[BucketRun], object]
    launcher: str = ""
    is_last: bool = False


KINDS: dict[str, Kind] = {
    "driver": Kind(driver, "torchrun", is_last=True),
    "rank": Kind(rank, "torchrun"),
    "all": Kind(everything),
    "uploading": Kind(uploading),
    "between object and manifest": Kind(between),
    "committing": Kind(committing),
    "pruning": Kind(pruning),
    "takeover of the lease": Kind(takeover),
    "two drivers": Kind(two_drivers),
    "suspended": Kind(suspended),
}
"""By name."""
