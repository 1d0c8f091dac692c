"""A sweep in Weights & Biases: a run per trial and a summary run, all in a group of the sweep's name."""

import logging
from collections.abc import Callable

from ganscale.config import Config
from ganscale.storage.run_dir import RunDir
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.report import confirmed, winner
from ganscale.sweep.results import SweepFolder, ranked, read_entries, table, title
from ganscale.sweep.score import Standing, standing
from ganscale.tracking.wandb import WandbTracker

_logger = logging.getLogger(__name__)


def publish(plan: SweepPlan, folder: SweepFolder, confirm: Callable[[], int] = lambda: 0) -> None:
    """Send every trial that has ended and was not sent yet, and a summary of the sweep.

    Args:
        plan: The sweep.
        folder: Its folder; W&B's files lie below it.
        confirm: `Lease.confirm` of the sweep's driver.

    Raises:
        OSError: A bucket fails.
    """
    if plan.config.wandb.mode == "disabled":
        return
    entries = ranked(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    logged: set[str] = set()

    def log_once(line: str) -> None:
        """Log a line that is not specific to one run, once for all trials."""
        if line.partition(":")[0].split()[:2] != ["W&B", "run"] and line not in logged:
            logged.add(line)
            _logger.info(line)

    for entry in entries:
        run = RunDir(folder.trials / f"{entry.index:04d}")
        run.fetch("wandb_id")
        if entry.status and not (run.path / "wandb_id").exists():
            run.write_as(confirm, periodic=False)
            tracker = WandbTracker(
                _named(plan, plan.space.config(entry.drawn), title(entry.index, entry.drawn, plan.names)), run, log_once
            )
            run.push()  # the id: an interrupted command sends no trial twice
            for row in entry.rows:
                summary = standing(row.seeds, plan.metrics, plan.sweep.sweep)
                scores = {"score": summary.score, "failures": float(summary.failures)}
                tracker.log(row.images, {**_numbers(summary), **scores})
            tracker.close(completed=entry.status == "complete")
            run.push()
    facts: dict[str, float] = {"images": float(sum(entry.spent for entry in entries))}
    best = winner(entries)
    if best:
        facts["winner"] = float(best.index)
        fresh = confirmed(folder, best)
        numbers = _numbers(standing(fresh, plan.metrics, plan.sweep.sweep)) if fresh else {}
        facts |= {f"confirmed/{name}": value for name, value in numbers.items()}
    titles, *rows = table(entries, plan.metrics, plan.names, seeds=len(plan.seeds))
    pictures = {path.stem: path for path in sorted(folder.plots.glob("*.png"))}
    folder.files.fetch("wandb_id")
    folder.files.pull("wandb")
    tracker = WandbTracker(_named(plan, plan.config, plan.sweep.sweep.name), folder.files, _logger.info)
    tracker.summary(facts, titles, rows, pictures)
    tracker.close(completed=all(entry.status for entry in entries))
    folder.files.push()


def _numbers(summary: Standing) -> dict[str, float]:
    return summary.means | {f"{name}_bound": bound for name, bound in summary.bounds.items()}


def _named(plan: SweepPlan, config: Config, name: str) -> Config:
    """A run's config with the name and group that W&B shows."""
    run = config.run.model_copy(update={"name": name[:100]})
    wandb = config.wandb.model_copy(update={"group": config.wandb.group or plan.sweep.sweep.name})
    return config.model_copy(update={"run": run, "wandb": wandb})
