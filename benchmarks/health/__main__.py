"""Benchmark of the detectors: `python -m benchmarks.health [--out FILE]`; `--score FILE` scores recorded runs.

Trains hundreds of runs of seconds each, half of them with a fault, and prints the precision and recall of the
detectors, each setup judged by limits from the others. A round takes six to twenty minutes on one core; the command
continues where it was ended. `--score FILE --add RUN NAME` adds a run that was trained as usual to the recorded ones,
as one of the setup NAME. `--score FILE --fit` writes the limits of all setups into the package.
`--score FILE --rescue 2` trains runs with learning rates that are far too high, two seeds of every setup, with and
without rollbacks, and prints how many runs the rollbacks save; then healthy ones with rollbacks, of which none may be
rolled back.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.health.plan import ROUNDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        The exit code: 0, or 1 if the detectors miss the required precision or recall.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.health", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/health.json.gz"), help="file of the recorded runs")
    parser.add_argument("--score", type=Path, help="score the runs in this file; train none")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of every setup and fault (default: %(default)s)")
    parser.add_argument("--since", type=int, default=0, metavar="ROUND", help="judge by limits from the rounds before")
    parser.add_argument("--fit", action="store_true", help="with --score: choose the limits again")
    parser.add_argument("--add", nargs=2, metavar=("RUN", "NAME"), help="add a healthy run's folder to --score")
    parser.add_argument("--only", default="", help="train only runs whose `setup/fault` contains this")
    parser.add_argument("--rescue", type=int, default=0, metavar="SEEDS", help="measure rollbacks instead")
    options = parser.parse_args(arguments)
    if options.add and not options.score:
        parser.error("--add needs --score FILE, to which it adds the run")

    from benchmarks.health.command import benchmark

    return benchmark(options)


if __name__ == "__main__":
    sys.exit(main())
