"""Runs the command `python -m benchmarks.health`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.health import rescue
from benchmarks.health.fit import Fitter, store
from benchmarks.health.plan import Job, plan
from benchmarks.health.record import Record, from_folder, read, run, write
from benchmarks.health.score import healthy_runs, report
from ganscale.health import limits
from ganscale.storage.run_dir import open_run


def benchmark(options: argparse.Namespace) -> int:
    """Train or read the runs and score them.

    Args:
        options: of the command line.

    Returns:
        The exit code: 0, or 1 if a required rate is missed.
    """
    if options.score:
        records = read(options.score)
        if options.add:
            folder, setup = options.add
            records.append(from_folder(open_run(folder), setup))
            write(options.score, records)
        if options.rescue:
            return _rescue(records, options.rescue, options.only)
        if options.fit:
            store(Fitter(healthy_runs(records)).limits(), Path(limits.__file__))
    else:
        jobs = [job for job in plan(options.rounds) if options.only in job.name]
        records = _train(jobs, options.out)
    text, passed = report(records, since=options.since)
    print(text)
    return 0 if passed else 1


def _rescue(records: Sequence[Record], seeds: int, only: str) -> int:
    """Train setups with learning rates that are too high, with and without rollbacks."""
    rescues = []
    print(rescue.HEADING, flush=True)
    for each in rescue.rescue_all(records, seeds=seeds, only=only):
        rescues.append(each)
        print(rescue.line(each), flush=True)
    text, passed = rescue.report(rescues)
    print(text)
    return 0 if passed else 1


def _train(jobs: Sequence[Job], out: Path) -> list[Record]:
    """Train the runs that are missing from the file, which is updated after every run."""
    out.parent.mkdir(parents=True, exist_ok=True)
    records = read(out) if out.exists() else []
    known = {(record.setup, record.fault, record.seed) for record in records}
    started = time.perf_counter()
    for number, job in enumerate(jobs, 1):
        if (job.setup, job.fault, job.seed) in known:
            continue
        record = run(job.setup, job.fault, job.seed)
        records.append(record)
        write(out, records)
        passed = time.perf_counter() - started
        last = ", ".join(f"{name} {record.evaluations[-1][name]:.3g}" for name in ("frechet", "modes"))
        print(f"{number:>4} of {len(jobs)}  {passed:6.0f} s  {job.name} {job.seed}: {last}", flush=True)
    return records
