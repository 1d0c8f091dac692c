"""Write a report: `python -m ganscale.report RUN [RUN ...] [--out FILE.html]`.

One HTML file with curves, sample grids, scores and settings of runs and sweeps; it needs no network and no account.
Exit codes: 0 done, 1 the file could not be written, 2 invalid argument.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ganscale.cli import DONE, Parser, command
from ganscale.storage.store import Place, open_place, size_of
from ganscale.tracking.console import show


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    description = "Write an HTML page about runs or sweeps: curves, sample grids, scores beside floors, settings."
    parser = Parser("report", description)
    parser.add_argument("paths", nargs="+", metavar="RUN", help="folder or URI of a run or a sweep")
    default = "default: report.html in the run's folder; for several runs or one in a bucket, in the current folder"
    parser.add_argument("--out", help=f"the HTML file, or its URI in a bucket ({default})")
    parser.add_argument("--title", default="", help="headline of the page (default: the runs' names)")
    return parser


def _run(options: argparse.Namespace) -> int:
    out = _write(options.paths, options.out, options.title)
    show(f"{out}  ({size_of(out) / 1e6:.1f} MB)")
    return DONE


def _write(texts: Sequence[str], name: str | None, title: str) -> Place:
    from ganscale.report.page import render
    from ganscale.report.record import read_run, with_distinct_names
    from ganscale.report.sweep import is_sweep, open_results, read_sweep
    from ganscale.storage.files import write_atomically

    folders = [open_results(text) for text in texts]
    paths = [folder.path for folder in folders]
    sweeps = [read_sweep(path) for path in paths if is_sweep(path)]
    runs = with_distinct_names([read_run(path) for path in paths if not is_sweep(path)])
    here = len(paths) > 1 or folders[0].path != folders[0].root
    out = open_place(name, key="--out") if name else (Path() if here else paths[0]) / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render(runs, sweeps, title=title))
    return out


main = command(make_parser, _run, failed="the report could not be written")

if __name__ == "__main__":
    sys.exit(main())
