"""Write a report: `python -m ganscale.report RUN [RUN ...] [--out FILE.html]`.

One HTML file with curves, sample grids, scores and settings of runs and sweeps; it needs no network and no account.
Exit codes: 0 done, 1 the file could not be written, 2 an argument cannot work.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ganscale.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(arguments)
    try:
        return _report(options)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"ganscale: the report could not be written: {error}", file=sys.stderr, flush=True)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.report",
        description="Write an HTML page about runs or sweeps: curves, sample grids, scores beside floors, settings.",
    )
    parser.add_argument("paths", nargs="+", metavar="RUN", help="folder of a run or of a sweep")
    parser.add_argument(
        "--out", type=Path, help="the HTML file (default: report.html in the run's folder; of several runs here)"
    )
    parser.add_argument("--title", default="", help="headline of the page (default: the runs' names)")
    return parser.parse_args(arguments)


def _report(options: argparse.Namespace) -> int:
    from ganscale.reporting.page import render, write
    from ganscale.reporting.record import read_run, with_distinct_names
    from ganscale.reporting.sweep import is_sweep, read_sweep

    paths = [Path(path).expanduser() for path in options.paths]
    sweeps = [read_sweep(path) for path in paths if is_sweep(path)]
    runs = with_distinct_names([read_run(path) for path in paths if not is_sweep(path)])
    out = options.out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    write(out, render(runs, sweeps, title=options.title))
    print(f"{out}  ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
