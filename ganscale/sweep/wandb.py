"""A sweep in Weights & Biases: a run per trial and a summary run, all in a group of the sweep's name."""

from collections.abc import Callable

from ganscale.config import Config
from ganscale.storage.run_dir import RunDir
from ganscale.sweep.folder import SweepFolder
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.report import confirmed, winner
from ganscale.sweep.score import standing
from ganscale.sweep.table import Entry, cells, header, ranked, read_entries, short_names, title
from ganscale.tracking.wandb import WandbTracker


def publish(plan: SweepPlan, folder: SweepFolder, info: Callable[[str], None]) -> None:
    """Log every trial that has ended and was not logged yet, and the state of the whole sweep.

    Args:
        plan: the sweep.
        folder: its folder; W&B's files go below it.
        say: takes a sentence for the user.
    """
    if plan.config.wandb.mode == "disabled":
        return
    entries = ranked(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    said: set[str] = set()

    def once(line: str) -> None:
        if line.partition(":")[0].split()[:2] != ["W&B", "run"] and line not in said:
            said.add(line)
            info(line)

    for entry in entries:
        run = folder.trials / f"{entry.index:04d}"
        if entry.status and not (run / "wandb_id").exists():
            _log_trial(plan, entry, RunDir(run), once)
    tracker = WandbTracker(_named(plan, plan.config, plan.sweep.sweep.name), RunDir(folder.path), info)
    facts: dict[str, float] = {"images": float(sum(entry.spent for entry in entries))}
    best = winner(entries)
    if best:
        fresh = confirmed(folder, best)
        facts["winner"] = float(best.index)
        if fresh:
            judged = standing(fresh, plan.metrics, plan.sweep.sweep)
            facts |= {f"confirmed/{m}": judged.means[m] for m in plan.metrics}
            facts |= {f"confirmed/{m}_bound": judged.bounds[m] for m in plan.metrics}
    columns = header(plan.metrics, short_names(plan.names))
    rows = [cells(entry, plan.metrics, plan.names, len(plan.seeds)) for entry in entries]
    pictures = {path.stem: path for path in sorted(folder.plots.glob("*.png"))}
    tracker.summary(facts, columns, rows, pictures)
    tracker.close(completed=all(entry.status for entry in entries))


def _log_trial(plan: SweepPlan, entry: Entry, folder: RunDir, info: Callable[[str], None]) -> None:
    """A trial's rows: each metric's mean and bound over the seeds."""
    config = _named(plan, plan.space.config(entry.drawn), title(entry, plan.names))
    tracker = WandbTracker(config, folder, info)
    for row in entry.rows:
        judged = standing(row.seeds, plan.metrics, plan.sweep.sweep)
        numbers = {m: judged.means[m] for m in plan.metrics} | {f"{m}_bound": judged.bounds[m] for m in plan.metrics}
        tracker.log(row.images, {**numbers, "score": judged.score, "failures": float(judged.failures)})
    tracker.close(completed=entry.status == "complete")


def _named(plan: SweepPlan, config: Config, name: str) -> Config:
    """A run's config with the name and group that W&B shows."""
    run = config.run.model_copy(update={"name": name[:100]})
    wandb = config.wandb.model_copy(update={"group": config.wandb.group or plan.sweep.sweep.name})
    return config.model_copy(update={"run": run, "wandb": wandb})
