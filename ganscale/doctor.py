"""Check a cluster before a long run: `python -m ganscale.doctor [CONFIG.yaml] [section.key=value ...]`.

Checks every node: versions, GPUs, network, storage, clocks, W&B, memory. Exit codes: 0 no check is red, 1 some check
is, 2 invalid setting.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from ganscale.cli import DONE, FAILED, Parser, command, run_keys, split_words
from ganscale.config import ConfigError, load
from ganscale.launch.doctor.checks import CheckResult, Requirements, run_checks
from ganscale.tracking.console import show


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    description = "Check every node of a Ray cluster before a long run; print what is wrong and what to do about it."
    parser = Parser("doctor", description, keys=run_keys)
    add = parser.add_argument
    bandwidth, free = Requirements.bandwidth_mb, Requirements.free_gb
    add("words", nargs="*", metavar="CONFIG.yaml | section.key=value", help="the run, as for training")
    add("--storage", metavar="PATH", help="the folder that all nodes share (default: run.dir)")
    add("--nodes", type=int, default=0, help="expected number of nodes")
    add("--timeout", type=float, default=60.0, help="seconds that each step may take (default: 60)")
    add("--min-bandwidth", type=float, default=bandwidth, metavar="MB", help=f"least MB/s (default: {bandwidth:g})")
    add("--min-free", type=float, default=free, metavar="GB", help=f"least free storage (default: {free:g} GB)")
    links = (
        "also measure all-reduces by message size and by pair of workers (NCCL on GPUs, else gloo); a slow pair is red"
    )
    add("--links", "--nccl", action="store_true", help=links)
    add("--json", action="store_true", help="print results and facts as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    from ganscale.launch.doctor.collect import collect  # after --help: Ray and torch take seconds
    from ganscale.storage.run_dir import locate
    from ganscale.storage.store import is_uri

    config = load(*split_words(options.words))
    if options.timeout <= 0:
        raise ConfigError("too small", key="--timeout", value=options.timeout, remedy="use a number above 0")
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        if options.storage:
            storage = Path(options.storage).expanduser().absolute()
        elif not is_uri(config.run.dir):
            storage = locate(config).path.parent
        elif options.links:
            storage = None
        else:
            remedy = "name a folder with --storage, or use --links; a bucket is checked when a run starts"
            raise ConfigError("is no folder that could be checked", key="run.dir", value=config.run.dir, remedy=remedy)
        facts = collect(config, storage, timeout=options.timeout, links=options.links)
    requirements = Requirements(
        options.nodes, config.train.device, config.wandb.mode, options.min_bandwidth, free_gb=options.min_free
    )
    results = run_checks(facts, requirements)
    ok = all(result.status != "red" for result in results)
    if options.json:
        checks = [asdict(result) for result in results]
        show(json.dumps({"ok": ok, "checks": checks, "facts": asdict(facts)}, indent=2))
    else:
        _show(results)
        for line in facts.links.lines() if facts.links else ():
            show(line)
    return DONE if ok else FAILED


def _show(results: Sequence[CheckResult]) -> None:
    """Print a line per check, with a remedy unless it is green; colors and wrapped lines are for terminals."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for result in results:
        table.add_row(Text(result.status, style=result.status), result.check, result.found)
        if result.remedy:
            table.add_row("", "", f"remedy: {result.remedy}")
    width = None if sys.stdout.isatty() else 10_000  # a file's lines are never wrapped
    console = Console(markup=False, highlight=False, emoji=False, width=width)
    console.print(table)
    red = sum(result.status == "red" for result in results)
    console.print(f"{red} of {len(results)} checks are red: fix them from the top" if red else "no check is red")


main = command(make_parser, _run, failed="the check failed")

if __name__ == "__main__":
    sys.exit(main())
