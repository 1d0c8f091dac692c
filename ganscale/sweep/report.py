"""Writes the results of a sweep: JSON and CSV, the winner as a run, plots, and a summary for the log."""

import json
from collections.abc import Sequence
from pathlib import Path

from ganscale.config import dump
from ganscale.config.titles import within
from ganscale.evaluation.metrics.result import shown
from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place, folders
from ganscale.sweep import plots
from ganscale.sweep.analysis import Difference, Rate, audit, differences, importances, success_rates
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import (
    Entry,
    SweepFolder,
    as_csv,
    columns,
    leaderboard,
    ranked,
    read_end,
    read_entries,
    read_rows,
)
from ganscale.sweep.score import SeedResult, objectives, pareto_front, standing


def winner(entries: Sequence[Entry]) -> Entry | None:
    """The best complete entry; if all of those failed, the best that was stopped; None if no seed is valid.

    Args:
        entries: Configurations of a sweep.
    """
    best = (entry for entry in ranked(entries) if entry.has_valid_seed and entry.status in ("complete", "stopped"))
    return next(best, None)


def confirmed(folder: SweepFolder, best: Entry) -> tuple[SeedResult, ...]:
    """The winner's results on fresh seeds, as far as they exist.

    Args:
        folder: The sweep's folder.
        best: The winner.
    """
    results: list[SeedResult] = []
    trials = folder.confirm / f"{best.index:04d}"
    for path in (trials / name for name in folders(trials) if name.isdigit()):
        status, reason = read_end(path)
        rows = read_rows(path)
        if status == "failed":
            results.append(SeedResult(-1, 0, {}, reason or "its process failed"))
        elif status and rows:
            results += rows[-1].seeds
    return tuple(results)


def write_report(plan: SweepPlan, folder: SweepFolder) -> str:
    """Write all results so far, and return a summary.

    Args:
        plan: The sweep.
        folder: Its folder.

    Raises:
        OSError: The storage fails.
    """
    settings, parameters, metrics = plan.sweep.sweep, plan.space.parameters, plan.metrics
    entries = read_entries(folder.trials, metrics, settings)
    best = winner(entries)
    fresh = confirmed(folder, best) if best else ()
    complete = [entry for entry in ranked(entries) if entry.status == "complete"]
    started = [entry for entry in entries if entry.rows]
    important = importances(complete, parameters, seed=settings.seed)
    rates = {p.name: success_rates(started, p, metrics, settings) for p in parameters}
    paired = {
        p.name: differences(started, p, metrics, settings, cells=len(plan.sampler.cells))
        for p in parameters
        if p.kind == "grid"
    }
    audited = audit(started, metrics, settings, images=plan.config.train.images) if settings.stop_failing else None
    results = {
        "sweep": settings.name,
        "metrics": list(metrics),
        "images": sum(entry.spent for entry in entries),
        "images_without_early_stops": plan.images,
        "winner": best.index if best else None,
        "confirmed": {**standing(fresh, metrics, settings).as_json(), "seeds": [seed.as_json() for seed in fresh]}
        if fresh
        else None,
        "audit": vars(audited) if audited else None,
        "pareto_front": [complete[i].index for i in pareto_front([objectives(e.standing, metrics) for e in complete])],
        "success_by_setting": {
            name: [{**vars(rate), "share": rate.share} for rate in found] for name, found in rates.items()
        },
        "differences": {name: list(map(vars, found)) for name, found in paired.items()},
        "importance": list(map(vars, important)),
        "trials": [entry.as_json() for entry in ranked(entries)],
    }
    write_atomically(folder.path / "results.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder.path / "results.csv", as_csv(entries, metrics, plan.names))
    if best:
        head = f"# Trial {best.index:04d} of the sweep {settings.name}, the best of {len(complete)} by {_rule(plan)}.\n"
        config = plan.space.config(best.drawn)
        run = config.run.model_copy(update={"name": f"{settings.name}-best"[:100]})
        write_atomically(folder.best, head + dump(config.model_copy(update={"run": run})))
    plots.save_all(plan, entries, important, rates, folder.plots)
    folder.files.push()
    return "\n".join(
        [
            leaderboard(entries, metrics, plan.names, seeds=len(plan.seeds), most=20),
            *(line for name, found in paired.items() for line in _compared(name, rates[name], found)),
            *([audited.describe(metrics[0])] if audited and (audited.ended or audited.continued) else []),
            *(_winner(plan, folder, best, fresh) if best else ["no configuration has a valid seed at its end"]),
            f"results: {_near(folder.root)}/results.json, results.csv and plots/",
        ]
    )


def _rule(plan: SweepPlan) -> str:
    settings, metric = plan.sweep.sweep, plan.metrics[0]
    if settings.score == "success_rate":
        return f"success rate over {settings.seeds} seeds, {metric} against {settings.threshold:g}"
    return f"the pessimistic end of the {settings.confidence:.0%} interval of {metric} over {settings.seeds} seeds"


def _compared(name: str, rates: Sequence[Rate], paired: Sequence[Difference]) -> list[str]:
    rows = [[name, "succeeded", "share", "interval", "configurations"]]
    for rate in rates:
        interval = "{:.2f} to {:.2f}".format(*rate.interval)
        rows.append([rate.value, f"{rate.successes}/{rate.runs}", f"{rate.share:.2f}", interval, str(rate.configs)])
    return [columns(rows), *(f"  {each}" for each in paired)]


def _winner(plan: SweepPlan, folder: SweepFolder, best: Entry, fresh: Sequence[SeedResult]) -> list[str]:
    lines = [f"best by {_rule(plan)}: trial {best.index:04d}"]
    if best.status == "stopped":
        lines.insert(0, "all complete configurations failed with all seeds: the best was stopped early")
    if fresh:
        summary = standing(fresh, plan.metrics, plan.sweep.sweep)
        parts = [f"{m} {shown(summary.means[m])} (bound {shown(within(m, summary.bounds[m]))})" for m in plan.metrics]
        if summary.rate_interval is not None:
            interval = "{:.2f} to {:.2f}".format(*summary.rate_interval)
            parts.append(f"{summary.successes} of {len(fresh)} succeeded (interval {interval})")
        quality = ", ".join([*parts, f"{summary.failures} failed"])
        lines.append(f"  on {len(fresh)} fresh seeds (this is its quality): {quality}")
    return [*lines, f"  as a run: {_near(folder.root / folder.best.name)}"]


def _near(place: Place) -> str:
    """A path relative to the working directory where possible."""
    if isinstance(place, Path) and place.is_relative_to(Path.cwd()):
        return str(place.relative_to(Path.cwd()))
    return str(place)
