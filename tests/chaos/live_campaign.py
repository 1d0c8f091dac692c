"""Seeded faults of runs with live recovery: `python -m tests.chaos.live_campaign --out FOLDER`.

A history is one run of 2 to 4 workers, some of which die or stop at random moments: between D's and G's update, at the
end of an iteration, while worker 0 writes a row or a checkpoint, while another one joins. Each is replaced by a new
one. With `--hosts` each worker has a machine of its own (Linux namespaces; root), which may also be cut off or lose its
power, the lighthouse's among them. The run must end with the weights and rows of the undisturbed one, to 1e-9 in
float64, and all workers that were left alone must still be the processes that they were. Records are in
`FOLDER/records-I.jsonl`; the same command again continues.
"""

import argparse
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganscale.config import load
from ganscale.run.session import run_worker
from ganscale.storage import checkpoint
from ganscale.storage.run_dir import RunDir, read_objects
from tests.chaos.records import append_record
from tests.fleet import make_quick
from tests.live import Fault, Workers, gaps, struck
from tests.live_hosts import Hosts
from tests.runs import QUIET, RING, rows

ITERATIONS, BATCH, EVERY = 60, 12, 10
RUN = (
    *(*RING, *QUIET, "train.precision=float64", f"train.batch_size={BATCH}", f"train.images={ITERATIONS * BATCH}"),
    *("model.discriminator.minibatch_stddev=true", "ema.half_life=100", "penalty.r1=1", "penalty.r1_every=2"),
    *("eval.every=0", f"log.every={EVERY * BATCH}", f"checkpoint.every={2 * EVERY * BATCH}"),
    f"log.samples_every={ITERATIONS * BATCH}",
)
CALLS = {"update": 50, "commit": 6, "begin": 50, "row": 4, "save": 2, "tick": 4, "join": 2}
"""Moments, and up to which call of them a worker dies."""
MOST_WORKERS, MOST_REPLACEMENTS = 4, 6
HEARTBEAT_TIMEOUT = 3.0


@dataclass(frozen=True)
class Record:
    """A history and its outcome.

    Attributes:
        seed: of the history.
        faults: that happened, each with the worker's number in the order of starts, and its rank.
        places: machines of the first workers; the lighthouse is on machine 0.
        signaled: workers that were killed.
        survivors: workers that were to live to the end.
        lost: whether the run did not come to its end.
        same: whether weights and rows are those of the undisturbed run, to 1e-9.
        unchanged: survivors that ended in order, as the processes that they were.
        recoveries: seconds from the begin of each lost iteration to that of its repetition.
        seconds: that the history took.
    """

    seed: int
    faults: list[str]
    places: list[int]
    signaled: int
    survivors: int
    lost: bool
    same: bool
    unchanged: int
    recoveries: list[float]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing is lost or differs."""
        return not self.lost and self.same and self.unchanged == self.survivors


@dataclass(frozen=True)
class Plan:
    """What happens in a history.

    Attributes:
        first: faults of the first workers, of which the first is worker 0.
        later: faults of those that replace others, in turn.
        places: machine of each first worker; the lighthouse is on machine 0.
    """

    first: list[Fault | None]
    later: list[Fault | None]
    places: list[int]


def plan(seed: int, *, hosts: bool = False) -> Plan:
    """Draw a history.

    Args:
        seed: of the history.
        hosts: whether each worker has a machine.
    """
    draw = random.Random(seed)
    kinds = {"kill": 0.45, "stop": 0.1, "cut": 0.25, "off": 0.2} if hosts else {"kill": 0.85, "stop": 0.15}

    def fault(moments: Sequence[str]) -> Fault:
        moment = draw.choice(moments)
        (what,) = draw.choices(list(kinds), list(kinds.values()))
        seconds = {"cut": draw.choice((4.0, 15.0, 25.0)), "off": draw.choice((1.0, 20.0)), "stop": 40.0 * hosts}
        return Fault(moment, draw.randint(1, CALLS[moment]), what, seconds.get(what, 0.0))

    count = draw.randint(3 if hosts else 2, MOST_WORKERS)
    first: list[Fault | None] = [None] * count
    anywhere = ("update", "commit", "begin", "tick")
    if draw.random() < 0.5:
        first[0] = fault(tuple(CALLS))
    else:
        first[-1] = fault(anywhere)
    if draw.random() < 0.25:  # two at once
        other = next((place for place in range(count) if first[place] is None), 0)
        first[other] = next(each for each in first if each)
    later = [fault(("join", "update", "tick")) if draw.random() < 0.25 else None for _ in range(MOST_REPLACEMENTS)]
    shift = draw.randrange(count)
    return Plan(first, later, [(shift + place) % count for place in range(count)])


def history(planned: Plan, folder: Path, *, hosts: bool = False) -> tuple[int, int, int]:
    """Train a run through its faults; returns the killed workers, the survivors, and those that ended in order."""
    with ExitStack() as stack:
        count, options = len(planned.first), dict[str, Any]()
        if hosts:
            machines = Hosts(count, folder.with_name(f"{folder.name}.hosts"), heartbeat_timeout=HEARTBEAT_TIMEOUT)
            options["hosts"] = stack.enter_context(machines)
        workers = Workers(
            (*RUN, "cluster.timeout=20"), folder, wanted=count, heartbeat_timeout=HEARTBEAT_TIMEOUT, **options
        )
        stack.enter_context(workers)
        first = list(zip(planned.first, planned.places, strict=True))
        workers.start(*first[0])
        workers.until(lambda: workers.members() > 0 or workers.ended() > 0, "the first worker trains")
        for fault, place in first[1:]:
            workers.start(fault, place)
        later, replaced = iter(planned.later), set[int]()

        def end() -> bool:
            killed = {at for at, each in enumerate(workers.processes) if each.exitcode == -signal.SIGKILL}
            for position in sorted(killed - replaced):
                if not workers.hosts or workers.hosts.pids[workers.places[position]]:
                    workers.start(next(later, None), workers.places[position])
                    replaced.add(position)
            return workers.ended() == len(workers.processes) and killed == replaced

        workers.until(end, "the end of the run")
        codes = [process.exitcode for process in workers.processes]
    signaled = codes.count(-signal.SIGKILL)
    return signaled, len(codes) - signaled, codes.count(0)


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last state, and the rows without times."""
    _, state = checkpoint.load(folder / "checkpoints" / f"{ITERATIONS * BATCH:012d}")
    return state, rows(RunDir(folder))


def agree(folder: Path, undisturbed: Path) -> tuple[bool, bool]:
    """Whether a run came to its end, and whether it has the numbers of the undisturbed one."""
    try:
        found, expected = outcome(folder), outcome(undisturbed)
    except checkpoint.CheckpointError:
        return False, False
    try:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    except AssertionError as error:
        print(folder.name, error, flush=True)
        return True, False
    return True, True


def record(seed: int, out: Path, undisturbed: Path, *, hosts: bool = False) -> Record:
    """Run a history.

    Args:
        seed: of the history.
        out: folder of all runs.
        undisturbed: folder of the run without faults.
        hosts: whether each worker has a machine.
    """
    folder, started = out / f"{seed}", time.monotonic()
    for old in out.glob(f"{seed}*"):
        if old.name.partition(".")[0] == folder.name:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    planned = plan(seed, hosts=hosts)
    try:
        signaled, survivors, unchanged = history(planned, folder, hosts=hosts)
    except AssertionError as error:  # no end in time: the run counts as lost
        print(folder.name, error, flush=True)
        signaled, survivors, unchanged = 0, len(planned.first), 0
    complete, same = agree(folder, undisturbed)
    recoveries = [round(each, 2) for each in gaps(folder)]
    seconds = round(time.monotonic() - started, 1)
    return Record(
        seed, struck(folder), planned.places, signaled, survivors, not complete, same, unchanged, recoveries, seconds
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 if a history is not good."""
    parser = argparse.ArgumentParser(description="Seeded faults of runs with live recovery.")
    parser.add_argument("--out", type=Path, required=True, help="folder of records and runs")
    parser.add_argument("--histories", type=int, default=200, help="number of histories (200)")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further history after this time")
    parser.add_argument("--part", default="0/1", help="I/N: only every N-th history from the I-th on")
    parser.add_argument("--hosts", action="store_true", help="give each worker a machine of its own")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    first, step = map(int, options.part.split("/"))
    file, until = out / f"records-{first}.jsonl", time.monotonic() + 60.0 * options.minutes
    undisturbed = out / f"undisturbed-{first}"
    make_quick(setattr)  # as the workers do
    run_worker(load(overrides=RUN), undisturbed, device=torch.device("cpu"), echo=False)
    done = {each.seed for each in recorded(out)}
    for seed in range(first, options.histories, step):
        if seed in done or time.monotonic() >= until:
            continue
        append_record(file, found := record(seed, out, undisturbed, hosts=options.hosts))
        print(found, flush=True)
    records = recorded(out)
    print(summary(records))
    return 0 if records and all(each.good for each in records) else 1


def recorded(out: Path) -> list[Record]:
    """The histories of all parts so far.

    Args:
        out: folder of records and runs.
    """
    return [Record(**row) for file in sorted(out.glob("records-*.jsonl")) for row in read_objects(file)]


def summary(records: Sequence[Record]) -> str:
    """All histories in a line.

    Args:
        records: at least one.
    """
    seconds = [each for record in records for each in record.recoveries]
    median = f"{statistics.median(seconds):.1f} s" if seconds else "none"
    return (
        f"{len(records)} histories, {sum(len(each.faults) for each in records)} faults, "
        f"{sum(each.signaled for each in records)} workers killed: "
        f"{sum(each.lost for each in records)} lost runs, {sum(not each.same for each in records)} other numbers, "
        f"{sum(each.unchanged for each in records)} of {sum(each.survivors for each in records)} survivors unchanged, "
        f"median recovery {median}"
    )


if __name__ == "__main__":
    sys.exit(main())
