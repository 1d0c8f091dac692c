"""Which curves are drawn together, and their points, as plain data for the page's script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ganscale.config.evaluation import METRICS
from ganscale.evaluation.compare import by_protocol
from ganscale.reporting.record import RunRecord

MOST_POINTS = 1000
"""Of a curve; of longer ones the extremes are kept."""
LOG_FROM = 300.0
"""A chart of positive values starts out logarithmic where its largest is so many times its least."""


class Family(NamedTuple):
    """Numbers that belong in one chart: title, group of charts, what it means, and each member's part."""

    title: str
    group: str
    note: str
    members: Mapping[str, str]


FAMILIES = (
    Family("Loss", "Training", "Mean since the last row.", {"loss_d": "D", "loss_g": "G"}),
    Family(
        "D's accuracy",
        "Training",
        "Share that D judges rightly: 0.5 is guessing, 1 tells all apart.",
        {"d_accuracy_real": "real", "d_accuracy_fake": "fake"},
    ),
    Family("D's logits, mean", "Training", "", {"real_logit_mean": "real", "fake_logit_mean": "fake"}),
    Family(
        "D's logits, spread", "Training", "Standard deviation.", {"real_logit_std": "real", "fake_logit_std": "fake"}
    ),
    Family(
        "Diversity of a batch",
        "Training",
        "Mean distance of two examples, and of the two batches' means, per pixel.",
        {"diversity_real": "real", "diversity_fake": "fake", "mean_gap": "means"},
    ),
    Family("Gradient norm", "Training", "Before clipping.", {"grad_norm_d": "D", "grad_norm_g": "G"}),
    Family("Weight norm", "Training", "", {"weight_norm_d": "D", "weight_norm_g": "G"}),
    Family("Learning rate", "Training", "", {"lr_d": "D", "lr_g": "G"}),
    Family("Augmentation", "Training", "Probability of each transform (ADA).", {"augment_p": "p"}),
    Family("Images per second", "Speed and memory", "", {"images_per_second": ""}),
    Family("Seconds per iteration", "Speed and memory", "", {"seconds_per_iteration": ""}),
    Family("Memory of rank 0, MiB", "Speed and memory", "", {"memory_mib": "main", "gpu_memory_mib": "GPU"}),
)
GROUPS = ("Quality", "Training", "Speed and memory", "Other")
HIDDEN = frozenset({"images", "iteration"})


@dataclass(frozen=True)
class Curve:
    """Points of one number of one run.

    Attributes:
        run: index of the run.
        role: part in its chart, e.g. "D"; empty where it is the only one.
        points: images and value, NaN where the value was not finite.
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
        group: headline that it stands under.
        note: how to read it.
        curves: at least one.
        floor: what real examples score, if it is a metric.
    """

    title: str
    group: str
    note: str
    curves: list[Curve]
    floor: float | None = None


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """All charts of these runs, in the order of the page."""
    found = [*_quality(runs), *_families(runs)]
    return sorted(found, key=lambda chart: GROUPS.index(chart.group))


def _quality(runs: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each metric and protocol: only what may be compared shares axes.

    Runs without evaluations of their own show what their rows say of metrics, as if of one protocol.
    """
    numbers = {run.name: index for index, run in enumerate(runs)}
    groups = by_protocol({run.name: run.evaluations for run in runs})
    found = []
    for protocol, group in groups.items():
        data, num_samples, extractor, _ = protocol
        suffix = f", {num_samples:,} samples of {data} through {extractor}" if len(groups) > 1 else ""
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
    """The chart of a metric; none where no run has a second point: a table shows single ones better."""
    if all(len(curve.points) < 2 for curve in curves):
        return []
    facts = METRICS[name]
    better = "Higher is better" if facts.higher_is_better else "Lower is better"
    has_floor = math.isfinite(floor)
    note = f"{facts.meaning}. {better}{'; dashed: as many real examples' * has_floor}{suffix}."
    return [Chart(name, "Quality", note, curves, floor if has_floor else None)]


def _families(runs: Sequence[RunRecord]) -> list[Chart]:
    """Charts of what metrics.jsonl holds, metrics apart, which have their own."""
    present = dict.fromkeys(name for run in runs for row in run.rows for name in row)
    known = {member for family in FAMILIES for member in family.members}
    single = [name for name in present if name not in known | HIDDEN and not _is_metric(name)]
    families = [
        *FAMILIES,
        *(Family(name, "Training" if name.startswith("penalty_") else "Other", "", {name: ""}) for name in single),
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
            found.append(Chart(family.title, family.group, family.note, curves))
    return found


def _is_metric(name: str) -> bool:
    return name in METRICS or name.removesuffix("_floor") in METRICS or name.removesuffix("_error") in METRICS


def _points(rows: Iterable[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Images and value of the rows that have this number; null is NaN. Empty where no value is finite."""
    points = [(row["images"], _number(row[name])) for row in rows if name in row]
    return points if any(math.isfinite(value) for _, value in points) else []


def _number(value: Any) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else math.nan


def thinned(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most `most` points (4 or more): the first, the last, and least, greatest or missing ones of even stretches."""
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    stretches = (most - 2) // 3
    inner = len(points) - 2
    for i in range(stretches):
        stretch = range(1 + i * inner // stretches, 1 + (i + 1) * inner // stretches)
        finite = [j for j in stretch if math.isfinite(points[j][1])]
        missing = [j for j in stretch if not math.isfinite(points[j][1])]
        kept |= set(missing[:1])
        if finite:
            kept |= {min(finite, key=lambda j: points[j][1]), max(finite, key=lambda j: points[j][1])}
    return [points[j] for j in sorted(kept)]


def as_data(found: Sequence[Chart]) -> dict[str, Any]:
    """Charts as JSON: x axes that several curves share stand once, values have five digits, NaN is null."""
    axes: dict[tuple[int, ...], int] = {}
    rows = []
    for chart in found:
        curves = []
        for curve in chart.curves:
            points = thinned(curve.points)
            x = axes.setdefault(tuple(images for images, _ in points), len(axes))
            item: dict[str, Any] = {"run": curve.run, "role": curve.role, "x": x, "y": [_short(v) for _, v in points]}
            if curve.errors and len(points) == len(curve.points) and any(e is not None for e in curve.errors):
                item["errors"] = [None if e is None else _short(e) for e in curve.errors]
            curves.append(item)
        log = _starts_logarithmic(chart)
        floor = None if chart.floor is None else _short(chart.floor)
        facts = {"title": chart.title, "group": chart.group, "note": chart.note, "floor": floor, "log": log}
        rows.append({**facts, "curves": curves})
    return {"axes": [list(axis) for axis in axes], "charts": rows}


def _short(value: float) -> float | int | None:
    """Five significant digits; whole numbers without a point."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.5g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _starts_logarithmic(chart: Chart) -> bool:
    values = [v for curve in chart.curves for _, v in curve.points if math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) > LOG_FROM * min(values)
