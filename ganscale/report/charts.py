"""The charts of the report and their points, as plain data for the page's script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganscale.config.evaluation import METRICS, is_score
from ganscale.config.titles import METRIC_TITLES, column_title, data_title, metric_title, value_title
from ganscale.evaluation.compare import by_protocol
from ganscale.report.record import RunRecord
from ganscale.tracking.families import FAMILIES, GROUPS, Family

MAX_POINTS = 1000
"""Of a curve; longer ones are thinned."""
LOG_RATIO = 300.0
"""A chart starts out logarithmic if its values are positive and the greatest is more than this times the least."""
NOT_DRAWN = frozenset({"images", "iteration"})


@dataclass(frozen=True)
class Curve:
    """One number of one run.

    Attributes:
        run: index of the run.
        role: label within the run, e.g. "D"; empty if the chart has one number of each run.
        points: images and value; NaN where the value is missing or not finite.
        errors: standard error of each value, if there are any.
    """

    run: int
    role: str
    points: list[tuple[int, float]]
    errors: list[float | None] | None = None


@dataclass(frozen=True)
class Chart:
    """Curves that share axes.

    Attributes:
        title: what is drawn.
        unit: of the values; empty for plain numbers.
        group: one of `GROUPS`.
        note: how to read it.
        curves: at least one.
        floor: score of real examples, if the chart shows a metric.
    """

    title: str
    group: str
    note: str
    curves: list[Curve]
    floor: float | None = None
    unit: str = ""


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """All charts of some runs, in the order of the page.

    Args:
        runs: what was read of them.
    """
    return sorted([*_quality(runs), *_families(runs)], key=lambda chart: GROUPS.index(chart.group))


def _quality(runs: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each metric and protocol, since only scores of one protocol are comparable.

    Runs without stored evaluations show the metrics of their rows, as if of one protocol.
    """
    numbers = {run.name: index for index, run in enumerate(runs)}
    groups = by_protocol({run.name: run.evaluations for run in runs})
    found = []
    for group in groups.values():
        first = next(iter(group.values()))[0]
        through = value_title("eval.extractor", first.extractor)
        about = f", {first.num_samples:,} samples of {data_title(first.data)} through {through}"
        suffix = about if len(groups) > 1 else ""
        for name in METRICS:
            curves, floor = [], math.nan
            for run, evaluations in group.items():
                scored = [(e.images, e.scores[name]) for e in evaluations if name in e.scores]
                if scored:
                    points = [(images, score.value) for images, score in scored]
                    curves.append(Curve(numbers[run], "", points, [score.error for _, score in scored]))
                    floor = scored[-1][1].floor
            found += _metric_chart(name, curves, floor, suffix)
    bare = [(index, run) for index, run in enumerate(runs) if not run.evaluations]
    for name in METRICS:
        curves = [Curve(index, "", points) for index, run in bare if (points := _points(run.rows, name))]
        found += _metric_chart(name, curves, math.nan, "")
    return found


def _metric_chart(name: str, curves: list[Curve], floor: float, suffix: str) -> list[Chart]:
    """The chart of a metric; none if no run has two points, since the table shows single ones."""
    if all(len(curve.points) < 2 for curve in curves):
        return []
    facts = METRICS[name]
    better = "Higher is better" if facts.higher_is_better else "Lower is better"
    has_floor = math.isfinite(floor)
    meaning = facts.meaning[:1].upper() + facts.meaning[1:]
    note = f"{better}{'; dotted: real examples' * has_floor}{suffix}. {meaning}."
    unit = METRIC_TITLES[name].unit if name in METRIC_TITLES else ""
    return [Chart(metric_title(name), "Quality", note, curves, floor if has_floor else None, unit)]


def _families(runs: Sequence[RunRecord]) -> list[Chart]:
    """Charts of all numbers of metrics.jsonl that are not metrics."""
    present = dict.fromkeys(name for run in runs for row in run.rows for name in row)
    known = {member for family in FAMILIES for member in family.members}
    single = [name for name in present if name not in known | NOT_DRAWN and not is_score(name)]
    families = [
        *FAMILIES,
        *(Family(column_title(n), "Training" if n.startswith("penalty_") else "Other", "", {n: ""}) for n in single),
    ]
    found = []
    for family in families:
        members = [name for name in family.members if name in present]
        curves = [
            Curve(index, family.members[name] if len(members) > 1 else "", points)
            for index, run in enumerate(runs)
            for name in members
            if (points := _points(run.rows, name))
        ]
        if curves:
            found.append(Chart(family.title, family.group, family.note, curves, unit=family.unit))
    return found


def _points(rows: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Images and value of the rows that have this number; empty if no value is finite."""
    points = [(row["images"], _number(row[name])) for row in rows if name in row]
    return points if any(math.isfinite(value) for _, value in points) else []


def _number(value: Any) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else math.nan


def thinned(points: Sequence[tuple[int, float]], limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """Keep the first and the last point, and the least, the greatest and the first missing one of even stretches.

    Args:
        points: images and value, NaN where missing.
        limit: points to keep at most, at least 5.
    """
    if len(points) <= limit:
        return list(points)
    values = np.array([value for _, value in points])
    kept = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(1, len(points) - 1), (limit - 2) // 3):
        missing = np.isnan(values[stretch])
        kept |= set(stretch[missing][:1].tolist())
        finite = stretch[~missing]
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
    return [points[i] for i in sorted(kept)]


def as_data(found: Sequence[Chart]) -> dict[str, Any]:
    """Charts as JSON: equal x axes are stored once, values have five digits, NaN is null.

    Args:
        found: the charts.
    """
    axes: dict[tuple[int, ...], int] = {}
    rows = []
    for chart in found:
        curves = []
        for curve in chart.curves:
            points = thinned(curve.points)
            x = axes.setdefault(tuple(images for images, _ in points), len(axes))
            item: dict[str, Any] = {"run": curve.run, "role": curve.role, "x": x, "y": [_short(v) for _, v in points]}
            if curve.errors and len(points) == len(curve.points):
                item["errors"] = [_short(error) for error in curve.errors]
            curves.append(item)
        facts = {"title": chart.title, "unit": chart.unit, "group": chart.group, "note": chart.note}
        rows.append({**facts, "floor": _short(chart.floor), "log": _starts_logarithmic(chart), "curves": curves})
    return {"axes": [list(axis) for axis in axes], "charts": rows}


def _short(value: float | None) -> float | int | None:
    """Five significant digits; whole numbers without a point."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _starts_logarithmic(chart: Chart) -> bool:
    values = [v for curve in chart.curves for _, v in curve.points if math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values)
