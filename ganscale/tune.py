"""Search for stable settings: `python -m ganscale.tune SWEEP.yaml [sweep.key=value ...] [section.key=value ...]`.

The same command resumes an interrupted sweep. Exit codes: 0 done, 1 the search failed, 2 invalid setting.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from ganscale.api import Tuner
from ganscale.cli import DONE, Parser, command, run_keys, split_words
from ganscale.config import ConfigError
from ganscale.config.errors import shown
from ganscale.tracking.console import show

if TYPE_CHECKING:
    from ganscale.sweep.plan import SweepPlan

SAMPLES = 10
"""Configurations that a dry run shows."""


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    description = "Search for settings that train well on every seed; the same command again resumes the sweep."
    epilog = (
        "docs/sweeps.md explains the file. Examples have names: sweeps/gaussians, sweeps/mlp_quick (configs/sweeps/)."
    )
    from ganscale.sweep.config import SweepSettings

    parser = Parser(
        "tune",
        description,
        epilog=epilog,
        keys=lambda: [*run_keys(), *(f"sweep.{key}" for key in SweepSettings.model_fields)],
    )
    parser.add_argument("words", nargs="*", metavar="SWEEP.yaml | sweep.key=value | section.key=value")
    parser.add_argument("--dry-run", action="store_true", help=f"print the space and {SAMPLES} samples, then stop")
    parser.add_argument("--max-concurrent", metavar="N", help="concurrent trials (sweep.max_concurrent)")
    parser.add_argument("--budget-hours", metavar="H", help="hours after which no trial starts (sweep.budget_hours)")
    return parser


def _run(options: argparse.Namespace) -> int:
    sweep, overrides = split_words(options.words)
    for key in ("max_concurrent", "budget_hours"):
        if getattr(options, key) is not None:
            overrides.append(f"sweep.{key}={getattr(options, key)}")
    if sweep is None:
        raise ConfigError("no sweep file", key="argument", value=None, remedy="name one, e.g. sweeps/gaussians")
    tuner = Tuner(sweep, overrides)
    show(preview(tuner.plan) if options.dry_run else tuner.fit().summary)
    return DONE


def preview(plan: "SweepPlan") -> str:
    """Format the space of a sweep and its first configurations.

    Args:
        plan: The sweep.
    """
    from ganscale.config.checks import check_files
    from ganscale.config.schedules import average_warning

    settings, sampler = plan.sweep.sweep, plan.sampler
    lines = [f"sweep {settings.name}: {settings.search}, scheduler {settings.scheduler}, score {settings.score}"]
    runs = f"{len(sampler)} configurations x {len(plan.seeds)} seeds x {plan.config.train.images:,} images"
    lines.append(f"  {runs} = {plan.images:,} images; metrics {', '.join(plan.metrics)}")
    for parameter in plan.space.parameters:
        values = ", ".join(shown(value) for value in parameter.probes())
        when = " and ".join(f"{name} is {' or '.join(map(shown, v))}" for name, v in parameter.when.items())
        lines.append(f"  {parameter.name}: {parameter.kind} [{values}]{f' when {when}' if when else ''}")
    if warning := average_warning(plan.config):
        lines.append(warning)
    try:
        check_files(plan.config, scores=True)
    except ConfigError as error:  # no data, or no weights for the scores
        lines += str(error).splitlines()
    for index in range(min(SAMPLES, len(sampler))):
        drawn = ", ".join(f"{name}={shown(value)}" for name, value in sampler[index].items())
        lines.append(f"{index:04d}  {drawn}")
    return "\n".join(lines)


main = command(
    make_parser, _run, failed="the search failed", interrupted="interrupted; the same command resumes the sweep"
)

if __name__ == "__main__":
    sys.exit(main())
