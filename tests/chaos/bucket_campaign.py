"""Kill runs in a bucket at chosen requests: `python tests/chaos/bucket_campaign.py --out campaign --seeds 0 1 2`.

Each seed is a run of a tiny network in float64, of one worker or of two under torchrun, that is killed three times. It
has survived when it completes; it is exact when all states that it keeps have the SHA-256 of the undisturbed run's, and
its rows of metrics are the same. After every kill all checkpoints that count are loaded. moto's server is the storage,
one write at a time, as its conditional writes are not atomic. Records are in `<out>/records.jsonl`; the same command
again continues.
"""

import argparse
import hashlib
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script, too

import pytest

from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir, read_objects
from tests.buckets import Proxy, Server, moto
from tests.chaos.active_run import LostError, MissedError, send
from tests.chaos.bucket_kinds import KINDS
from tests.chaos.bucket_run import IMAGES, LIMIT, SETTINGS, BucketRun, environment, launch, new_uri
from tests.chaos.records import append_record
from tests.processes import Command
from tests.runs import rows

PER_RUN = 3


@dataclass(frozen=True)
class Planned:
    """A run: its launcher, `checkpoint.mode`, and kinds of kills in order."""

    seed: int
    launcher: str
    mode: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Kill:
    """A kill and what it cost.

    Attributes:
        kind: its kind.
        detail: what was drawn for it.
        images_lost: images trained twice.
        seconds: until the run was further than before, or complete.
        checkpoints: images of those that counted just after it; all were loaded.
    """

    kind: str
    detail: str
    images_lost: int
    seconds: float
    checkpoints: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """A run with its kills.

    Attributes:
        planned: the run.
        survived: whether it completed.
        exact: whether its states and rows are those of the undisturbed run.
        seconds: of all its commands.
        codes: exit codes of commands that ended by themselves.
        kills: in order.
        problem: why it is not good, if so.
    """

    planned: Planned
    survived: bool
    exact: bool
    seconds: float
    codes: tuple[int, ...]
    kills: tuple[Kill, ...] = field(default=())
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether the kills cost time alone."""
        return self.survived and self.exact and not self.problem


def plan(seed: int) -> Planned:
    """A run: of ten seeds in a row each kind occurs three times.

    Args:
        seed: of all that is drawn.
    """
    draw, names = random.Random(seed), list(KINDS)
    kinds = [names[(PER_RUN * seed + index) % len(names)] for index in range(PER_RUN)]
    draw.shuffle(kinds)
    kinds.sort(key=lambda name: KINDS[name].is_last)
    needs_torchrun = any(KINDS[name].launcher == "torchrun" for name in kinds)
    launcher = "torchrun" if draw.random() < 0.2 or needs_torchrun else "local"
    return Planned(seed, launcher, draw.choice(("inline", "async")), tuple(kinds))


class Undisturbed:
    """Runs in a folder without a kill: states by images, and rows.

    Args:
        out: folder of the campaign.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._found: dict[str, tuple[dict[int, str], list[dict[str, Any]]]] = {}

    def __call__(self, launcher: str) -> tuple[dict[int, str], list[dict[str, Any]]]:
        """SHA-256 of the states by images, and the rows.

        Args:
            launcher: of the run.
        """
        if launcher not in self._found:
            folder = self._out / "undisturbed" / launcher
            shutil.rmtree(folder, ignore_errors=True)
            words = [*launch(launcher), *SETTINGS, "checkpoint.keep=99", f"run.dir={folder}", "run.name=a"]
            with Command(words, self._made(folder) / "out", environment=environment(folder), cwd=folder) as command:
                command.succeed(LIMIT)
            paths = (folder / "a" / "checkpoints").glob("*/state.pt")
            states = {int(path.parent.name): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
            self._found[launcher] = states, rows(RunDir(folder / "a"))
        return self._found[launcher]

    def _made(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        return folder


def attempt(planned: Planned, proxy: Proxy, undisturbed: Undisturbed, out: Path) -> Record:
    """One run with its kills.

    Args:
        planned: the run.
        proxy: to the storage.
        undisturbed: the runs to compare with.
        out: folder of the campaign.
    """
    states, expected = undisturbed(planned.launcher)
    folder = out / "runs" / f"{planned.seed:03d}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = random.Random(f"{planned.seed}/moments")
    run = BucketRun(proxy, new_uri(), folder, planned.launcher, draw, planned.mode, states)
    started, kills, problem, exact = time.monotonic(), list[Kill](), "", False
    try:
        with run.slow(0.15):
            run.start()
            for index, kind in enumerate(planned.kinds):
                kills.append(_kill(run, kind, (index + draw.uniform(0.1, 0.6)) / len(planned.kinds)))
                print(f"  {kills[-1]}", flush=True)
            run.complete()
        run.listed()
        newest = CheckpointStore(run.place / "checkpoints").newest(print)
        exact = newest is not None and (newest.images, newest.sha256) == (IMAGES, states[IMAGES])
        problem = "" if rows(RunDir(run.place)) == expected else "its rows are others"
    except (LostError, MissedError) as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        proxy.disturb = lambda method, path: None
        send(run.everything())
    survived = run.codes[-1:] == [0]
    return Record(planned, survived, exact, time.monotonic() - started, tuple(run.codes), tuple(kills), problem)


def _kill(run: BucketRun, kind: str, share: float) -> Kill:
    """Kill a run within its next part, and wait until it is further than before."""
    run.details.clear()
    run.wait_for(share * IMAGES)
    KINDS[kind].inject(run)
    listed = run.listed()
    lost = run.recover()
    return Kill(kind, ", ".join(run.details), lost, time.monotonic() - run.since_kill, tuple(listed))


def read_records(path: Path) -> list[Record]:
    """Records of an earlier campaign.

    Args:
        path: of their file.
    """
    found = []
    for row in read_objects(path):
        planned = Planned(**row["planned"] | {"kinds": tuple(row["planned"]["kinds"])})
        kills = tuple(Kill(**kill | {"checkpoints": tuple(kill["checkpoints"])}) for kill in row["kills"])
        found.append(Record(**row | {"planned": planned, "kills": kills, "codes": tuple(row["codes"])}))
    return found


def table(records: Sequence[Record]) -> str:
    """Results by kind of kill, as a Markdown table.

    Args:
        records: of the runs.
    """
    lines = [
        "| kill | times | runs lost | wrong weights | checkpoints loaded | images lost, median, max "
        "| seconds to recover, median, max |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        found = [(record, kill) for record in records for kill in record.kills if kill.kind == kind]
        if not found:
            continue
        runs = {record.planned.seed: record for record, _ in found}.values()
        lost, took = [kill.images_lost for _, kill in found], [kill.seconds for _, kill in found]
        lines.append(
            f"| {kind} | {len(found)} | {sum(not run.survived for run in runs)} "
            f"| {sum(run.survived and not run.exact for run in runs)} "
            f"| {sum(len(kill.checkpoints) for _, kill in found)} "
            f"| {statistics.median(lost):,.0f}, {max(lost):,} | {statistics.median(took):.1f}, {max(took):.1f} |"
        )
    kills = sum(len(record.kills) for record in records)
    lost, wrong = sum(not run.survived for run in records), sum(run.survived and not run.exact for run in records)
    problems = [f"seed {record.planned.seed}: {record.problem}" for record in records if record.problem]
    total = f"{len(records)} runs, {kills} kills, {lost} runs lost, {wrong} with wrong weights"
    return "\n".join([*lines, "", f"{total}; problems: {'; '.join(problems) or 'none'}"])


def campaign(out: Path, seeds: Sequence[int], server: Server) -> list[Record]:
    """Run the seeds that have no record yet; return all records.

    Args:
        out: folder of the campaign.
        seeds: of the runs.
        server: with the bucket.
    """
    path = out / "records.jsonl"
    records, undisturbed = read_records(path), Undisturbed(out)
    done = {record.planned.seed for record in records}
    proxy = Proxy(server)
    try:
        for planned in [plan(seed) for seed in seeds if seed not in done]:
            print(planned, flush=True)
            record = attempt(planned, proxy, undisturbed, out)
            records.append(record)
            append_record(path, record)
            print(f"seed {planned.seed}: {record.seconds:.0f} s, {'good' if record.good else record}", flush=True)
            (out / "table.md").write_text(table(records) + "\n", encoding="utf-8")
    finally:
        proxy.close()
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 if a run was lost, or anything in it is not that of the undisturbed run.

    Args:
        arguments: words of the command line; None for this process's.
    """
    parser = argparse.ArgumentParser(description="Kill runs in a bucket at chosen requests.")
    parser.add_argument("--out", type=Path, required=True, help="folder of records and output")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(12), help="of the runs (default: 0 to 11)")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run is killed
    with moto() as server, pytest.MonkeyPatch.context() as patch:
        server.use(patch)  # what this process reads, it reads past the proxy
        records = campaign(out, options.seeds, server)
    print(table(records))
    return 0 if records and all(record.good for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
