"""Check a cluster before a long run: `python -m ganscale.doctor [CONFIG.yaml] [section.key=value ...]`.

Every node is looked at: versions, GPUs, network, storage, clocks, W&B, memory. Exit codes: 0 nothing is red,
1 something is, 2 a setting cannot work.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ganscale.config import Config, ConfigError, load
from ganscale.diagnosis import Facts, Line, Needs, judge

COLOURS = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(arguments)
    try:
        config = load(options.config, options.overrides)
        storage = _storage(config, options.storage)
        facts = _collect(config, storage, options.timeout, quiet=options.json)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    needs = Needs(
        nodes=options.nodes,
        device=config.train.device,
        wandb=config.wandb.mode,
        bandwidth_mb=options.min_bandwidth,
        free_gb=options.min_free,
    )
    lines = judge(facts, needs)
    print(as_json(facts, lines) if options.json else table(lines, color=sys.stdout.isatty()), flush=True)
    return int(any(line.status == "red" for line in lines))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.doctor",
        description="Check every node of a Ray cluster before a long run; say what is wrong and what to do about it.",
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | section.key=value", help="the run, as for training")
    parser.add_argument("--storage", metavar="PATH", help="the folder that all nodes share (default: run.dir)")
    parser.add_argument("--nodes", type=int, default=0, help="how many nodes there should be")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that each step may take (default: 60)")
    parser.add_argument(
        "--min-bandwidth",
        type=float,
        default=Needs.bandwidth_mb,
        metavar="MB",
        help=f"MB/s between nodes below which it is red (default: {Needs.bandwidth_mb:g})",
    )
    parser.add_argument(
        "--min-free",
        type=float,
        default=Needs.free_gb,
        metavar="GB",
        help=f"free storage in GB below which it is red (default: {Needs.free_gb:g})",
    )
    parser.add_argument("--json", action="store_true", help="print lines and facts as JSON")
    options = parser.parse_intermixed_args(arguments)
    files = [word for word in options.words if "=" not in word]
    options.overrides = [word for word in options.words if "=" in word]
    if len(files) > 1:
        parser.error(f"one config file at most, not {' and '.join(files)}")
    if options.timeout <= 0:
        parser.error("--timeout takes a number of seconds above 0")
    options.config = files[0] if files else None
    return options


def _storage(config: Config, given: str | None) -> Path:
    """The folder to try, as an absolute path.

    Raises:
        ConfigError: it has no place.
    """
    from ganscale.storage.run_dir import locate

    return Path(given).expanduser().absolute() if given else locate(config).path.parent


def _collect(config: Config, storage: Path, patience: float, *, quiet: bool) -> Facts:
    from contextlib import redirect_stdout

    from ganscale.runtime.doctor import collect

    with redirect_stdout(sys.stderr if quiet else sys.stdout):
        return collect(config, storage, patience=patience)


def table(lines: Sequence[Line], *, color: bool = False) -> str:
    """The lines below each other, remedies below those that need one, and a last word."""
    width = max(len(line.check) for line in lines)
    rows = []
    for line in lines:
        status = f"{COLOURS[line.status]}{line.status:6}\033[0m" if color else f"{line.status:6}"
        rows.append(f"{status}  {line.check:{width}}  {line.found}")
        if line.status != "green":
            rows.append(f"{'':{10 + width}}remedy: {line.remedy}")
    red = sum(line.status == "red" for line in lines)
    rows.append("nothing is red" if not red else f"{red} of {len(lines)} are red: mend them from the top")
    return "\n".join(rows)


def as_json(facts: Facts, lines: Sequence[Line]) -> str:
    """The lines and what they were judged by."""
    ok = all(line.status != "red" for line in lines)
    return json.dumps({"ok": ok, "lines": [asdict(line) for line in lines], "facts": asdict(facts)}, indent=2)


if __name__ == "__main__":
    sys.exit(main())
