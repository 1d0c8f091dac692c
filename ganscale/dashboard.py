"""W&B dashboards as code: `python -m ganscale.dashboard [--project P] [--entity E] [SWEEP ...] [--dry-run]`.

Creates or updates a workspace and a report: one for the project's runs, one for each sweep. Exit codes: 0 done, 1 W&B
refused, 2 invalid argument.
"""

import argparse
import sys

from ganscale.cli import DONE, Parser, command
from ganscale.config import Config, ConfigError
from ganscale.tracking.console import show


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    defaults = Config().wandb
    description = "Create or update W&B workspaces and reports: one for a project's runs, one for each sweep named."
    parser = Parser("dashboard", description)
    parser.add_argument(
        "sweeps", nargs="*", metavar="SWEEP", help="folder or URI of a sweep that is logged in the project"
    )
    parser.add_argument("--project", default=defaults.project, help=f"W&B project (default: {defaults.project})")
    parser.add_argument("--entity", default=defaults.entity, help="W&B team or user (default: the account's)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made, then stop")
    return parser


def _run(options: argparse.Namespace) -> int:
    from ganscale.tracking.dashboards import for_runs, for_sweep, outline
    from ganscale.tracking.wandb_dashboards import check_ready, save

    dashboards = [for_runs()]
    for name in options.sweeps:
        from ganscale.report.sweep import RESULTS, is_sweep, read_sweep
        from ganscale.storage.run_dir import RunDir

        folder = RunDir(name)
        folder.fetch(RESULTS)
        if not is_sweep(folder.path):
            remedy = "name the folder of a started sweep, e.g. runs/sweeps/NAME"
            raise ConfigError("the folder has no results of a sweep", key="path", value=name, remedy=remedy)
        sweep = read_sweep(folder.path)
        dashboards.append(for_sweep(sweep.name, sweep.metrics, sweep.settings))
    if options.dry_run:
        show(outline(dashboards, entity=options.entity, project=options.project))
        return DONE
    check_ready()
    for dashboard in dashboards:
        for address in save(dashboard, entity=options.entity, project=options.project):
            show(address)
    return DONE


main = command(make_parser, _run, failed="W&B refused")

if __name__ == "__main__":
    sys.exit(main())
