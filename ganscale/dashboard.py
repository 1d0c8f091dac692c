"""W&B dashboards as code: `python -m ganscale.dashboard [--project P] [--entity E] [SWEEP ...] [--dry-run]`.

Creates or updates a workspace and a report: one for the project's runs, one for each sweep that is named. Exit codes:
0 done, 1 W&B refused, 2 an argument cannot work.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ganscale.config import Config, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(arguments)
    try:
        return _make(options)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Config().wandb
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.dashboard",
        description="Create or update W&B workspaces and reports: one for a project's runs, one for each sweep named.",
    )
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="folder of a sweep that is logged in the project")
    parser.add_argument("--project", default=defaults.project, help=f"W&B project (default: {defaults.project})")
    parser.add_argument("--entity", default=defaults.entity, help="W&B team or user (default: the account's)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made, then stop")
    return parser.parse_args(arguments)


def _make(options: argparse.Namespace) -> int:
    from ganscale.report.sweep import is_sweep, read_sweep
    from ganscale.tracking.dashboards import for_runs, for_sweep, outline
    from ganscale.tracking.wandb_dashboards import DashboardError, check_ready, save

    dashboards = [for_runs()]
    for name in options.sweeps:
        path = Path(name).expanduser()
        if not is_sweep(path):
            remedy = "name the folder of a sweep that has begun, e.g. runs/sweeps/NAME"
            raise ConfigError("no results of a sweep lie there", key="path", value=name, remedy=remedy)
        sweep = read_sweep(path)
        dashboards.append(for_sweep(sweep.name, sweep.metrics, sweep.settings))
    if options.dry_run:
        print(outline(dashboards, entity=options.entity, project=options.project))
        return 0
    check_ready()
    try:
        for dashboard in dashboards:
            for address in save(dashboard, entity=options.entity, project=options.project):
                print(address, flush=True)
    except DashboardError as error:
        print(f"ganscale: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
