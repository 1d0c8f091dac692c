"""Search for stable settings: `python -m ganscale.tune SWEEP.yaml [sweep.key=value ...] [section.key=value ...]`.

The same command goes on with a sweep that was interrupted. Exit codes: 0 done, 1 the search failed, 2 a setting cannot
work.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ganscale.cli import log_to_stdout, show
from ganscale.config import ConfigError
from ganscale.config.errors import shown

if TYPE_CHECKING:
    from ganscale.sweep.plan import SweepPlan

SAMPLES = 10
"""Configurations that a dry run shows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    log_to_stdout()
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        from ganscale.sweep.plan import load_plan

        plan = load_plan(options.sweep, options.overrides)
        if options.dry_run:
            show(preview(plan))
            return 0
        return _run(plan)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"ganscale: the search failed: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("ganscale: interrupted; the same command goes on with the sweep", file=sys.stderr, flush=True)
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.tune",
        description="Search for settings that train well on every seed; the same command again goes on.",
        epilog="docs/sweeps.md explains the file; configs/sweeps/ holds examples.",
    )
    parser.add_argument("words", nargs="*", metavar="SWEEP.yaml | sweep.key=value | section.key=value")
    parser.add_argument("--dry-run", action="store_true", help=f"print the space and {SAMPLES} samples, then stop")
    parser.add_argument("--max-concurrent", metavar="N", help="trials at a time (sweep.max_concurrent)")
    parser.add_argument("--budget-hours", metavar="H", help="start no trial after so many hours (sweep.budget_hours)")
    options = parser.parse_intermixed_args(arguments)
    files = [word for word in options.words if "=" not in word]
    options.overrides = [word for word in options.words if "=" in word]
    for key in ("max_concurrent", "budget_hours"):
        if getattr(options, key) is not None:
            options.overrides.append(f"sweep.{key}={getattr(options, key)}")
    if len(files) != 1:
        parser.error("give one sweep file" if not files else f"one sweep file, not {' and '.join(files)}")
    options.sweep = files[0]
    return options


def preview(plan: "SweepPlan") -> str:
    """The space of a sweep and its first configurations."""
    settings, sampler = plan.sweep.sweep, plan.sampler
    lines = [f"sweep {settings.name}: {settings.search}, scheduler {settings.scheduler}, score {settings.score}"]
    runs = f"{len(sampler)} configurations x {len(plan.seeds)} seeds x {plan.config.train.images:,} images"
    lines.append(f"  {runs} = {plan.images:,} images; metrics {', '.join(plan.metrics)}")
    for parameter in plan.space.parameters:
        values = ", ".join(shown(value) for value in parameter.probes())
        when = " and ".join(f"{name} is {' or '.join(map(shown, v))}" for name, v in parameter.when.items())
        lines.append(f"  {parameter.name}: {parameter.kind} [{values}]{f' when {when}' if when else ''}")
    for index in range(min(SAMPLES, len(sampler))):
        drawn = ", ".join(f"{name}={shown(value)}" for name, value in sampler[index].items())
        lines.append(f"{index:04d}  {drawn}")
    return "\n".join(lines)


def _run(plan: "SweepPlan") -> int:
    from ganscale.config.checks import check_files
    from ganscale.sweep.tuner import SearchError, search_on_ray

    check_files(plan.config)
    try:
        print(search_on_ray(plan), flush=True)
    except SearchError as error:
        print(f"ganscale: the search stopped: {error}\n  the same command goes on", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
