"""Benchmark of the verdicts: `python -m benchmarks.health [--out FILE]`; `--score FILE` for runs recorded before.

Trains a few hundred runs of seconds each, half of them with a fault, and prints how often the verdicts were right on
those that its thresholds were not chosen on. One core, about half an hour. `--score FILE --rescue 2` trains runs
with rates far too high, two seeds of every setup, with and without rollbacks, and prints how many these save.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.health import rescue
from benchmarks.health.plan import HALVES, Job, plan
from benchmarks.health.record import Record, read, run, write
from benchmarks.health.score import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 if the bars are missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.health", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/healthbench.json.gz"), help="where the runs are kept")
    parser.add_argument("--score", type=Path, help="score the runs in this file; train none")
    parser.add_argument("--half", choices=HALVES, help="train this half only")
    parser.add_argument("--only", default="", help="train only runs whose `setup/fault` has this in it")
    parser.add_argument("--rescue", type=int, default=0, metavar="SEEDS", help="try rollbacks instead")
    options = parser.parse_args(arguments)
    if options.score:
        records = read(options.score)
        if options.rescue:
            return _rescue(records, options.rescue, options.only)
    else:
        jobs = [job for job in plan(options.half) if options.only in job.name]
        records = _train(jobs, options.out)
    text, passed = report(records)
    print(text)
    return 0 if passed else 1


def _rescue(records: Sequence[Record], seeds: int, only: str) -> int:
    """Train setups with rates that are too high, with and without rollbacks."""
    rescues = []
    print(rescue.HEADING, flush=True)
    for each in rescue.rescue_all(records, seeds=seeds, only=only):
        rescues.append(each)
        print(rescue.line(each), flush=True)
    text, passed = rescue.report(rescues)
    print(text)
    return 0 if passed else 1


def _train(jobs: Sequence[Job], out: Path) -> list[Record]:
    """Train what is not in the file yet; the file is brought up to date after every run."""
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


if __name__ == "__main__":
    sys.exit(main())
