"""The tables of the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ganscale.config.evaluation import METRICS
from ganscale.evaluation.compare import by_protocol
from ganscale.evaluation.metrics.result import Evaluation, Score, shown
from ganscale.reporting.charts import Chart
from ganscale.reporting.markup import Cell, Markup, element, join, table
from ganscale.reporting.record import RunRecord
from ganscale.reporting.settings import MISSING, defaults, differing, plain, value

FACTS = (
    ("data", "data.name"),
    ("generator", "model.generator.name"),
    ("discriminator", "model.discriminator.name"),
    ("loss", "loss.name"),
    ("batch", "train.batch_size"),
    ("seed", "run.seed"),
)
"""Columns of the overview that are settings."""


def overview(runs: Sequence[RunRecord]) -> Markup:
    """A row per run: how far it is, what it trains, how fast, and its newest value of the leading metric."""
    head = ["run", "images", *(name for name, _ in FACTS), "images/s", "newest score"]
    rows = [
        [run.name, _progress(run), *(value(run, key) for _, key in FACTS), _speed(run), _leading(run)] for run in runs
    ]
    return table("What was run, and how far", head, rows, look="overview")


def _progress(run: RunRecord) -> str:
    until = run.config.get("train", {}).get("images") if isinstance(run.config.get("train"), dict) else None
    if isinstance(until, int) and until > 0:
        share = min(100.0, 100.0 * run.images / until)
        return f"{run.images:,} of {until:,} ({share:.0f}%)"
    return f"{run.images:,}"


def _speed(run: RunRecord) -> str:
    """Median over the rows: single ones hold evaluations and start-up."""
    speeds = sorted(s for row in run.rows if isinstance(s := row.get("images_per_second"), int | float))
    return f"{speeds[len(speeds) // 2]:,.0f}" if speeds else MISSING


def _leading(run: RunRecord) -> str:
    if not run.evaluations:
        return MISSING
    newest = run.evaluations[-1]
    name = next((name for name in METRICS if name in newest.scores), None)
    if name is None:
        return MISSING
    score = newest.scores[name]
    return f"{name} {shown(score.value)} (floor {shown(score.floor)})"


def quality(runs: Sequence[RunRecord]) -> Markup:
    """A table per protocol: the newest scores of each run, and what as many real examples score."""
    groups = by_protocol({run.name: run.evaluations for run in runs})
    parts: list[Cell] = []
    for group in groups.values():
        newest = {run: evaluations[-1] for run, evaluations in group.items()}
        names = [name for name in METRICS if any(name in e.scores for e in newest.values())]
        arrows = [f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in names]
        rows: list[list[Cell]] = [
            [run, f"{e.images:,}", *(_score(name, run, newest) for name in names)] for run, e in newest.items()
        ]
        first = next(iter(newest.values()))
        floors = [shown(first.scores[name].floor) if name in first.scores else MISSING for name in names]
        rows.append(["real examples (floor)", "", *floors])
        parts.append(table(_protocol(first), ["run", "images", *arrows], rows, look="numeric"))
    if len(groups) > 1:
        parts.append(
            element("p", "These tables cannot be compared with each other: data, samples or extractor differ.")
        )
    return join(parts)


def _protocol(e: Evaluation) -> str:
    return f"Newest scores: {e.num_samples:,} samples of {e.data} through {e.extractor}; ↑ higher is better, ↓ lower"


def _score(name: str, run: str, newest: Mapping[str, Evaluation]) -> Cell:
    """Value and error; the best of several runs stands out."""
    score = newest[run].scores.get(name)
    if score is None:
        return MISSING
    others = [e.scores[name] for other, e in newest.items() if other != run and name in e.scores]
    best = bool(others) and math.isfinite(score.value) and not any(_better(name, other, score) for other in others)
    error = "" if score.error is None else element("span", f" ± {shown(score.error)}", class_="error")
    return join([element("span", shown(score.value), class_="best" if best else "value"), error], "")


def _better(name: str, one: Score, other: Score) -> bool:
    return one.value > other.value if METRICS[name].higher_is_better else one.value < other.value


def numbers(runs: Sequence[RunRecord], drawn: Sequence[Chart]) -> Markup:
    """Every curve in a row, for those who do not see the charts."""
    rows: list[list[Cell]] = []
    for chart in drawn:
        for curve in chart.curves:
            values = [v for _, v in curve.points if math.isfinite(v)]
            if values:
                name = f"{chart.title} ({curve.role})" if curve.role else chart.title
                cells = [shown(v) for v in (values[0], min(values), max(values), values[-1])]
                rows.append([name, runs[curve.run].name, str(len(curve.points)), *cells])
    head = ["number", "run", "points", "first", "least", "greatest", "last"]
    return table("Every curve", head, rows, look="numeric")


def dated(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that say at how many images they were."""
    return [e for e in events if isinstance(e.get("images"), int) and not isinstance(e["images"], bool)]


def health(runs: Sequence[RunRecord]) -> Markup:
    """All health events; their other fields, whatever they are, are the columns."""
    keys = dict.fromkeys(key for run in runs for event in run.events for key in event if key != "images")
    rows: list[list[Cell]] = []
    for run in runs:
        for event in run.events:
            images = event.get("images")
            when = f"{images:,}" if isinstance(images, int) else MISSING
            rows.append([run.name, when, *(plain(event[key]) if key in event else MISSING for key in keys)])
    return table("Health events, in the order in which they happened", ["run", "images", *map(str, keys)], rows)


def settings(runs: Sequence[RunRecord]) -> Markup:
    """What differs between the runs, or of a single run from the defaults; then all settings."""
    configs = [run.config for run in runs]
    names = [run.name for run in runs]
    everything = differing([{}, *configs])
    if len(runs) == 1:
        different = differing([defaults(configs[0]), configs[0]])
        head, caption = ["setting", "default", "this run"], "Settings that differ from the defaults"
    else:
        different = differing(configs)
        head, caption = ["setting", *names], "Settings that differ between the runs"
    first: Markup = (
        table(caption, head, different_rows(different)) if different else element("p", "No setting differs.")
    )
    rest = table("All settings", ["setting", *names], [[key, *cells[1:]] for key, cells in everything])
    parts: list[Cell] = [first, element("details", join([element("summary", "All settings"), rest]))]
    ran = differing([{}, *(run.environment for run in runs)])
    if ran:
        where = table(
            "What the last life of each run ran on", ["fact", *names], [[key, *cells[1:]] for key, cells in ran]
        )
        parts.append(element("details", join([element("summary", "Where it ran"), where])))
    return join(parts)


def different_rows(found: Sequence[tuple[str, Sequence[str]]]) -> list[list[Cell]]:
    """Key and values as rows of a table."""
    return [[key, *values] for key, values in found]
