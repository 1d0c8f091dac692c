"""One hash through random histories of a run with `train.shards`: `python -m tests.chaos.shard_campaign --out FOLDER`.

A history is a sequence of attempts with 1 to 6 workers (processes over gloo), each of which ends by SIGKILL of one of
them in the middle of a random sum over shards, or by a stop request, until the run is complete. Its last checkpoint
must have the SHA-256, and its rows the numbers, of the run that one worker computed undisturbed. Records are in
`FOLDER/records.jsonl`; the same command again continues.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganscale.config import load
from ganscale.parallel.shards import ShardGroup
from ganscale.run.session import run_worker
from ganscale.run.stop_signal import StopReason
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir, read_objects
from tests.chaos.records import append_record
from tests.fleet import Fleet, FleetError
from tests.runs import BATCH_NORM, DCGAN, MLP, QUIET, RESNET, rows

ITERATIONS, BATCH, MOST_WORKERS, MOST_ATTEMPTS = 8, 16, 6, 6
COMMON = (
    *QUIET,
    f"train.batch_size={BATCH}",
    f"train.images={ITERATIONS * BATCH}",
    f"log.every={BATCH}",
    f"checkpoint.every={2 * BATCH}",
    f"log.samples_every={ITERATIONS * BATCH}",
    "eval.every=0",
    "cluster.timeout=60",
    "train.device=cpu",
)
PROJECTION = ("model.generator.conditioning=norm", "model.discriminator.conditioning=projection")
RUNS = {
    "mlp": (*MLP, "train.shards=8", "train.accumulation=2", "optim.d_steps=2"),
    "dcgan": (*DCGAN, *BATCH_NORM, "train.shards=6", "penalty.r1=1", "penalty.r1_every=2"),
    "resnet": (*RESNET, *PROJECTION, "train.shards=8", "model.generator.norm=batch", "loss.name=hinge"),
}
SUMS = {"mlp": 25, "dcgan": 160, "resnet": 100}
"""About as many sums over shards as half of a run has."""


@dataclass(frozen=True)
class Attempt:
    """What happens to a run until its process group ends.

    Attributes:
        workers: number of processes.
        victim: rank that is killed; -1 for none.
        moment: sum over shards in which the victim dies, or question whether to stop that is answered by yes.
    """

    workers: int
    victim: int
    moment: int


@dataclass(frozen=True)
class Record:
    """A history and its outcome.

    Attributes:
        run: name of its config.
        seed: of the history.
        workers: of each attempt.
        kills: attempts that ended by SIGKILL.
        same_state: whether the last state has the SHA-256 of the undisturbed run's.
        same_rows: whether the rows do.
        seconds: that it took.
    """

    run: str
    seed: int
    workers: list[int]
    kills: int
    same_state: bool
    same_rows: bool
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing differs."""
        return self.same_state and self.same_rows


def attempts(run: str, seed: int) -> Iterator[Attempt]:
    """The attempts of a history, the last of which is left alone.

    Args:
        run: name of its config.
        seed: of the history.
    """
    draw = random.Random(f"{run}/{seed}")
    for _ in range(MOST_ATTEMPTS):
        workers = draw.randint(1, MOST_WORKERS)
        dies = draw.random() < 0.7
        yield Attempt(workers, draw.randrange(workers) if dies else -1, draw.randint(2, SUMS[run]) if dies else 1)
    yield Attempt(draw.randint(1, MOST_WORKERS), -1, sys.maxsize)


@contextmanager
def _dying(attempt: Attempt) -> Iterator[None]:
    """Kill this process in one of its sums over shards, if it is the victim."""
    act, left = ShardGroup._act, attempt.moment

    def count(self: ShardGroup) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        act(self)

    rank = torch.distributed.get_rank()
    if rank == attempt.victim:
        ShardGroup._act = count
    try:
        yield
    finally:
        ShardGroup._act = act


def train(overrides: tuple[str, ...], folder: Path, attempt: Attempt) -> int:
    """One worker's part of an attempt; returns the images it reached."""
    asked = 0

    def ask() -> StopReason:
        nonlocal asked
        asked += 1
        return StopReason.STOP if attempt.victim < 0 and asked >= attempt.moment else StopReason.NONE

    with _dying(attempt):
        config = load(overrides=overrides)
        return run_worker(config, folder, device=torch.device("cpu"), echo=False, ask=ask).images


def outcome(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """SHA-256 of the last state, and the rows without times."""
    newest = CheckpointStore(RunDir(folder).checkpoints, keep=99).newest(print)
    assert newest is not None, "there are checkpoints"
    assert newest.images == ITERATIONS * BATCH, "the run is complete"
    return newest.sha256, rows(RunDir(folder))


def history(fleet: Fleet, run: str, planned: Iterator[Attempt], folder: Path) -> tuple[list[int], int]:
    """Train a run through its attempts; returns the numbers of workers and the kills."""
    workers, kills = [], 0
    for attempt in planned:
        workers.append(attempt.workers)
        try:
            (reached, *_) = fleet.run(train, attempt.workers, (*COMMON, *RUNS[run]), folder, attempt, timeout=1800.0)
        except FleetError as error:
            if "the process died" not in str(error):
                raise
            kills += 1
            continue
        if reached == ITERATIONS * BATCH:
            break
    return workers, kills


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 if a history ended with other bits."""
    parser = argparse.ArgumentParser(description="One hash through random histories of a run.")
    parser.add_argument("--out", type=Path, required=True, help="folder of records and runs")
    parser.add_argument("--histories", type=int, default=50, help="number of histories, over all configs (50)")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further history after this time")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="only these (all)")
    options = parser.parse_args(arguments)
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    file, until = out / "records.jsonl", time.monotonic() + 60.0 * options.minutes
    records = [Record(**row) for row in read_objects(file)]
    done, fleet = {(record.run, record.seed) for record in records}, Fleet("tests.chaos.shard_campaign")
    try:
        for number in range(options.histories):
            run, seed = list(RUNS)[number % len(RUNS)], number // len(RUNS)
            if run in options.runs and (run, seed) not in done and time.monotonic() < until:
                records.append(_record(fleet, run, seed, out))
                append_record(file, records[-1])
                print(records[-1], flush=True)
    finally:
        fleet.close()
    print(f"{sum(record.good for record in records)} of {len(records)} histories have the bits of the undisturbed run")
    return 0 if records and all(record.good for record in records) else 1


def _record(fleet: Fleet, run: str, seed: int, out: Path) -> Record:
    undisturbed, folder, started = out / f"{run}-undisturbed", out / f"{run}-{seed}", time.monotonic()
    if not (undisturbed / "complete").exists():
        shutil.rmtree(undisturbed, ignore_errors=True)
        history(fleet, run, iter([Attempt(1, -1, sys.maxsize)]), undisturbed)
        (undisturbed / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    workers, kills = history(fleet, run, attempts(run, seed), folder)
    (state, rows), (expected_state, expected_rows) = outcome(folder), outcome(undisturbed)
    seconds = round(time.monotonic() - started, 1)
    return Record(run, seed, workers, kills, state == expected_state, rows == expected_rows, seconds)


if __name__ == "__main__":
    sys.exit(main())
