"""Plots of a sweep as PNGs, for its folder, the report and W&B."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ganscale.config.evaluation import METRICS
from ganscale.config.titles import metric_title, within
from ganscale.sweep.analysis import Importance, Rate, success_curve, value_groups
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import Entry, ranked, short_names
from ganscale.sweep.score import has_failed, objectives, pareto_front
from ganscale.sweep.space import Parameter

GOOD, BAD, GREY = "#1f5ab4", "#c8502d", "#b4b4b4"


def save_all(
    plan: SweepPlan,
    entries: Sequence[Entry],
    important: Sequence[Importance],
    rates: Mapping[str, Sequence[Rate]],
    folder: Path,
) -> list[Path]:
    """Draw the plots for which there is data.

    Args:
        plan: the sweep.
        entries: its configurations.
        important: its settings by importance.
        rates: success by the value of each setting.
        folder: for the PNGs; it is created.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = [entry for entry in entries if entry.rows]
    done = [entry for entry in shown if entry.status == "complete"]
    drawings: dict[str, tuple[Any, tuple[float, float]]] = {}
    if shown:
        drawings["learning_curves"] = (lambda figure: _learning_curves(figure, plan, shown), (7.0, 4.2))
        drawings["success"] = (
            lambda figure: _success(figure, plan, rates),
            (3.4 * min(4, len(plan.names)), 3.2 * math.ceil(len(plan.names) / 4)),
        )
    grids = [parameter for parameter in plan.space.parameters if parameter.kind == "grid"]
    if done and grids:
        drawings["success_curves"] = (lambda figure: _curves(figure, plan, done, grids), (5.6 * len(grids), 4.2))
    if len(done) > 1:
        width = max(6.0, 1.5 * (len(plan.names) + 1))
        drawings["parallel_coordinates"] = (lambda figure: _parallel(figure, plan, done), (width, 4.6))
    if important:
        drawings["importance"] = (lambda figure: _importance(figure, important), (6.4, 1.2 + 0.4 * len(important)))
    if len(done) > 1 and len(plan.metrics) > 1:
        drawings["pareto"] = (lambda figure: _pareto(figure, plan, done), (5.2, 4.2))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (draw, size) in drawings.items():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(folder / f"{name}.png", dpi=120)
    return [folder / f"{name}.png" for name in drawings]


def _learning_curves(figure: Any, plan: SweepPlan, entries: Sequence[Entry]) -> None:
    """The first metric's mean over the seeds that did not fail, one line per configuration; a cross marks failures."""
    axes, metric = figure.subplots(), plan.metrics[0]
    best = ranked(entries)[0]
    for entry in entries:
        points = []
        for row in entry.rows:
            values = [seed.values[metric] for seed in row.seeds if not has_failed(seed, (metric,))]
            if values:
                points.append((row.images, fmean(values)))
        color, front = (GOOD, 3) if entry is best else (GREY, 1)
        if points:
            axes.plot(*zip(*points, strict=True), color=color, zorder=front, lw=2 if entry is best else 1)
            if entry.standing.failures:
                axes.plot(*points[-1], "x", color=BAD, zorder=2)
    _scale(axes, [v for line in axes.lines for v in line.get_ydata()])
    if plan.sweep.sweep.threshold is not None:
        axes.axhline(plan.sweep.sweep.threshold, color="black", ls="--", lw=1)
    better = "higher" if METRICS[metric].higher_is_better else "lower"
    axes.set_title(
        f"{metric_title(metric)} ({better} is better), mean over seeds; best blue, with failed seeds red x", fontsize=9
    )
    axes.set_xlabel("images", fontsize=8)
    _small(axes)


def _scale(axes: Any, values: Sequence[float]) -> None:
    finite = [float(value) for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set_yscale("log")


def _small(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


def _parallel(figure: Any, plan: SweepPlan, entries: Sequence[Entry]) -> None:
    """One line per configuration through its values, colored by the rank of its score."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    axes, parameters = figure.subplots(), plan.space.parameters
    ordered = sorted(entries, key=lambda entry: entry.standing.score)
    colors = colormaps["viridis"]
    for rank, entry in enumerate(ordered):
        share = rank / max(1, len(ordered) - 1)
        points = [(x, p.share(entry.drawn[p.name])) for x, p in enumerate(parameters) if p.name in entry.drawn]
        xs, heights = zip(*points, (len(parameters), share), strict=True)  # skips settings that do not apply
        axes.plot(xs, heights, color=colors(share), alpha=0.8, lw=1.2, marker=".", ms=4)
    for x, parameter in enumerate(parameters):
        _coordinate(axes, x, parameter)
    axes.set_xticks(range(len(parameters) + 1), [*short_names(plan.names), "rank of score"], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.2, len(parameters) + 0.3)
    figure.colorbar(ScalarMappable(cmap=colors), ax=axes, label="worst to best", ticks=[])


def _coordinate(axes: Any, x: int, parameter: Parameter) -> None:
    axes.axvline(x, color="black", lw=0.6)
    for value in parameter.probes():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        axes.annotate(text, (x, parameter.share(value)), fontsize=7, xytext=(3, 2), textcoords="offset points")


def _importance(figure: Any, important: Sequence[Importance]) -> None:
    axes = figure.subplots()
    rows = list(reversed(important))
    names = short_names([row.name for row in rows])
    colors = [GOOD if row.explained > row.by_chance else GREY for row in rows]
    axes.barh(names, [row.explained for row in rows], color=colors)
    for y, row in enumerate(rows):
        axes.plot([row.by_chance] * 2, [y - 0.4, y + 0.4], color="black", lw=1.5)
    axes.set_xlim(0, 1)
    axes.set_title("share of the ranks' variance explained alone; line: 95 % of chance is below", fontsize=9)
    _small(axes)


def _success(figure: Any, plan: SweepPlan, rates: Mapping[str, Sequence[Rate]]) -> None:
    """Share of seeds that succeeded (without a threshold: did not fail) by value, with Wilson's interval."""
    columns = min(4, len(plan.names))
    rows = math.ceil(len(plan.names) / columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(plan.names) :]:
        axes.set_visible(False)
    threshold, metric = plan.sweep.sweep.threshold, plan.metrics[0]
    for axes, parameter, name in zip(grid, plan.space.parameters, short_names(plan.names), strict=False):
        labels = []
        for x, rate in enumerate(rates[parameter.name]):
            low, high = rate.interval
            error = [[max(0.0, rate.share - low)], [max(0.0, high - rate.share)]]
            axes.errorbar(x, rate.share, yerr=error, fmt="o", color=GOOD, capsize=4)
            labels.append(f"{rate.value.replace(' to ', ' to' + chr(10))}\n{rate.successes}/{rate.runs}")
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.set_xlim(-0.5, max(1, len(labels)) - 0.5)
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(name, fontsize=9)
        _small(axes)
    what = "did not fail" if threshold is None else f"reached {metric_title(metric)} {threshold:g}"
    figure.suptitle(f"share of seeds that {what}, {plan.sweep.sweep.confidence:.0%} interval", fontsize=9)


def _curves(figure: Any, plan: SweepPlan, entries: Sequence[Entry], grids: Sequence[Parameter]) -> None:
    """Share of seeds that reach a threshold, for every threshold, one line per value of a setting."""
    metric, threshold = plan.metrics[0], plan.sweep.sweep.threshold
    panels = figure.subplots(1, len(grids), squeeze=False, sharey=True)[0]
    every: list[float] = []
    for axes, parameter, name in zip(panels, grids, short_names([p.name for p in grids]), strict=True):
        for label, group in value_groups(entries, parameter):
            values, shares = success_curve([seed for entry in group for seed in entry.rows[-1].seeds], metric)
            every += values
            axes.step(values, shares, where="post", label=f"{label} ({len(group)} configurations)", lw=1.8)
        _scale(axes, every)
        if METRICS[metric].higher_is_better:
            axes.invert_xaxis()
        if threshold is not None:
            axes.axvline(threshold, color="black", ls="--", lw=1)
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(f"share of seeds that reach a threshold, by {name}", fontsize=9)
        axes.set_xlabel(f"threshold on {metric_title(metric)} (strict at the left)", fontsize=8)
        axes.legend(fontsize=7)
        _small(axes)


def _pareto(figure: Any, plan: SweepPlan, entries: Sequence[Entry]) -> None:
    """The bounds of the first two metrics; a line joins the front over all metrics."""
    axes = figure.subplots()
    x, y = plan.metrics[:2]
    chosen = {id(entries[i]) for i in pareto_front([objectives(e.standing, plan.metrics) for e in entries])}
    for entry in entries:
        bounds = [within(name, entry.standing.bounds[name]) for name in (x, y)]
        axes.plot(*bounds, "o", color=GOOD if id(entry) in chosen else GREY)
    ends = [e.standing.bounds for e in entries if id(e) in chosen]
    line = sorted((within(x, end[x]), within(y, end[y])) for end in ends)
    axes.plot(*zip(*line, strict=True), color=GOOD, lw=1)
    for axis, metric in ((axes.set_xlabel, x), (axes.set_ylabel, y)):
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        axis(f"{metric_title(metric)}, bound ({better} is better)", fontsize=8)
    axes.set_title("Pareto front (blue)", fontsize=9)
    _small(axes)
