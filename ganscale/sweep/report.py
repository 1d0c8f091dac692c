"""What a sweep leaves behind: results as JSON and CSV, the winner as a run, plots, and a text for the screen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganscale.config import Config, dump
from ganscale.evaluation.metrics.result import shown
from ganscale.storage.files import write_atomically
from ganscale.sweep import plots
from ganscale.sweep.compare import Difference, differences
from ganscale.sweep.folder import SweepFolder
from ganscale.sweep.importance import importances
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.record import read_end, read_rows
from ganscale.sweep.score import SeedResult, Standing, objectives, pareto_front, standing
from ganscale.sweep.success import Rate, success_rates
from ganscale.sweep.table import Entry, as_csv, as_json, columns, leaderboard, ranked, read_entries


def winner(entries: Sequence[Entry]) -> Entry | None:
    """The best of those that ran to their end; if all of these failed, of those that the scheduler stopped.

    None where no configuration has a seed that did not fail.
    """
    return next((entry for entry in ranked(entries) if entry.sound and entry.status in ("complete", "stopped")), None)


def front(entries: Sequence[Entry], metrics: Sequence[str]) -> list[Entry]:
    """Those of the complete that no other beats in all metrics' bounds."""
    done = [entry for entry in ranked(entries) if entry.status == "complete"]
    return [done[i] for i in pareto_front([objectives(entry.standing, metrics) for entry in done])]


def confirmed(folder: SweepFolder, best: Entry) -> tuple[SeedResult, ...]:
    """The winner's results on fresh seeds, as far as they are done."""
    results: list[SeedResult] = []
    for path in sorted((folder.confirm / f"{best.index:04d}").glob("[0-9]*")):
        status, reason = read_end(path)
        rows = read_rows(path)
        if status == "failed":
            results.append(SeedResult(-1, 0, {}, reason or "its process failed"))
        elif status and rows:
            results += rows[-1].seeds
    return tuple(results)


def best_config(plan: SweepPlan, best: Entry) -> Config:
    """The winner as a run for `python -m ganscale.train`."""
    config = plan.space.config(best.drawn)
    name = f"{plan.sweep.sweep.name}-best"[:100]
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def write_report(plan: SweepPlan, folder: SweepFolder) -> str:
    """Write all results that there are so far, and return them as a text for people.

    Raises:
        OSError: the storage refuses.
    """
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    best = winner(entries)
    fresh = confirmed(folder, best) if best else ()
    done = [entry for entry in entries if entry.status == "complete"]
    important = importances(done, plan.space.parameters, seed=plan.sweep.sweep.seed)
    started = [entry for entry in entries if entry.rows]
    by_setting = {
        parameter.name: success_rates(started, parameter, plan.metrics, plan.sweep.sweep)
        for parameter in plan.space.parameters
    }
    grids = [parameter for parameter in plan.space.parameters if parameter.kind == "grid"]
    paired = {
        grid.name: differences(started, grid, plan.metrics, plan.sweep.sweep, cells=len(plan.sampler.cells))
        for grid in grids
    }
    results = {
        "sweep": plan.sweep.sweep.name,
        "metrics": list(plan.metrics),
        "images": sum(entry.spent for entry in entries),
        "images_without_early_stops": plan.images,
        "winner": best.index if best else None,
        "confirmed": _confirmation(plan, fresh) if fresh else None,
        "pareto_front": [entry.index for entry in front(entries, plan.metrics)],
        "success_by_setting": {name: [rate.as_json() for rate in rates] for name, rates in by_setting.items()},
        "differences": {name: [each.as_json() for each in found] for name, found in paired.items()},
        "importance": [row.as_json() for row in important],
        "trials": [as_json(entry) for entry in ranked(entries)],
    }
    write_atomically(folder.path / "results.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder.path / "results.csv", as_csv(entries, plan.metrics, plan.names))
    if best:
        name = plan.sweep.sweep.name
        head = f"# Trial {best.index:04d} of the sweep {name}, the best of {len(done)} by {_rule(plan)}.\n"
        write_atomically(folder.best, head + dump(best_config(plan, best)))
    plots.save_all(plan, entries, important, by_setting, folder.plots)
    compared = {grid.name: (by_setting[grid.name], paired[grid.name]) for grid in grids}
    return _text(plan, folder, entries, best, fresh, compared)


def _confirmation(plan: SweepPlan, fresh: Sequence[SeedResult]) -> dict[str, Any]:
    judged = standing(fresh, plan.metrics, plan.sweep.sweep)
    entry = {
        "means": judged.means,
        "bounds": judged.bounds,
        "failures": judged.failures,
        "successes": judged.successes,
        "rate_interval": judged.rate_interval,
        "seeds": [seed.as_json() for seed in fresh],
    }
    return _finite(entry)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(below) for key, below in value.items()}
    return None if isinstance(value, float) and value != value else value


def _rule(plan: SweepPlan) -> str:
    settings, metric = plan.sweep.sweep, plan.metrics[0]
    if settings.score == "success_rate":
        return f"success rate over {settings.seeds} seeds, {metric} against {settings.threshold:g}"
    return f"the pessimistic end of the {settings.confidence:.0%} interval of {metric} over {settings.seeds} seeds"


def _text(
    plan: SweepPlan,
    folder: SweepFolder,
    entries: Sequence[Entry],
    best: Entry | None,
    fresh: Sequence[SeedResult],
    compared: Mapping[str, tuple[Sequence[Rate], Sequence[Difference]]],
) -> str:
    """The end of a sweep on the screen."""
    lines = [leaderboard(entries, plan.metrics, plan.names, seeds=len(plan.seeds), most=20)]
    for name, (rates, paired) in compared.items():
        rows = [[name, "succeeded", "share", "interval", "configurations"]]
        for rate in rates:
            low, high = rate.interval
            share, interval = f"{rate.share:.2f}", f"{low:.2f} to {high:.2f}"
            rows.append([rate.value, f"{rate.successes}/{rate.runs}", share, interval, str(rate.configs)])
        lines.append(columns(rows))
        lines += [f"  {each}" for each in paired]
    if best is None:
        lines.append("no configuration ran to its end with a seed that did not fail")
    else:
        if best.status == "stopped":
            lines.append("every configuration that ran to its end failed with all seeds: the best was stopped early")
        lines.append(f"best by {_rule(plan)}: trial {best.index:04d}")
        if fresh:
            judged = standing(fresh, plan.metrics, plan.sweep.sweep)
            lines.append(f"  on {len(fresh)} fresh seeds (this is its quality): {_quality(plan, judged, len(fresh))}")
        lines.append(f"  as a run: {_near(folder.best)}")
    lines.append(f"results: {_near(folder.path)}/results.json, results.csv and plots/")
    return "\n".join(lines)


def _quality(plan: SweepPlan, judged: Standing, seeds: int) -> str:
    parts = [f"{m} {shown(judged.means[m])} (bound {shown(judged.bounds[m])})" for m in plan.metrics]
    if judged.successes is not None and judged.rate_interval is not None:
        low, high = judged.rate_interval
        parts.append(f"{judged.successes} of {seeds} succeeded (interval {low:.2f} to {high:.2f})")
    return ", ".join([*parts, f"{judged.failures} failed"])


def _near(path: Path) -> str:
    """A path as it is typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
