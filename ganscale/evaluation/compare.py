"""Evaluations side by side, as tables and as a plot over the images seen; only equal protocols are put together."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganscale.config import ConfigError
from ganscale.config.evaluation import EXTRACTORS, METRICS
from ganscale.evaluation.metrics.result import Evaluation, Score, from_json, shown

Runs = Mapping[str, Sequence[Evaluation]]
"""Evaluations of each run, by its name."""


def read_evaluations(run: Path) -> list[Evaluation]:
    """All evaluations in a run's folder, by images; files that are none are left out.

    Args:
        run: the run's folder.

    Raises:
        ConfigError: there is none.
    """
    found = []
    for path in sorted((run / "evaluations").glob("*.json")):
        try:
            found.append(from_json(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    if not found:
        remedy = "run python -m ganscale.evaluate on it first"
        raise ConfigError("no evaluation lies there", key="path", value=str(run), remedy=remedy)
    return sorted(found, key=lambda evaluation: evaluation.images)


def sheet(evaluation: Evaluation) -> str:
    """One evaluation as a table of metric, value, error, floor and which way is better.

    Args:
        evaluation: the one to show.
    """
    rows = [("metric", "value", "error", "floor", "better", "meaning")]
    for name, score in evaluation.scores.items():
        error = "" if score.error is None else f"+- {shown(score.error)}"
        facts = METRICS[name]
        better = "higher" if facts.higher_is_better else "lower"
        extractor = EXTRACTORS.get(evaluation.extractor)
        known = extractor.frechet if extractor and name == "frechet" else ""
        rows.append((name, shown(score.value), error, shown(score.floor), better, known or facts.meaning))
    how = f"{_described(evaluation)}; floor: as many held-out real examples; {evaluation.seconds:.1f} s"
    return f"{_columns(rows)}\n  {how}"


def _described(evaluation: Evaluation) -> str:
    e = evaluation
    return f"{e.num_samples:,} samples of {e.data}, seed {e.seed}, through {e.through}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def by_protocol(runs: Runs) -> dict[tuple[Any, ...], dict[str, list[Evaluation]]]:
    """Evaluations that may be compared: protocol to run to its evaluations, by images.

    Args:
        runs: evaluations by run.
    """
    groups: dict[tuple[Any, ...], dict[str, list[Evaluation]]] = {}
    for name, evaluations in runs.items():
        for evaluation in evaluations:
            groups.setdefault(evaluation.protocol(), {}).setdefault(name, []).append(evaluation)
    return groups


def _better(name: str, one: Score, other: Score) -> bool:
    return one.value > other.value if METRICS[name].higher_is_better else one.value < other.value


def tables(runs: Runs) -> str:
    """The newest evaluation of each run, a table per protocol; the best value of each metric has a star.

    Args:
        runs: evaluations by run, each run's in order of images.
    """
    parts = []
    groups = by_protocol(runs)
    for group in groups.values():
        newest = {run: evaluations[-1] for run, evaluations in group.items()}
        names = [name for name in METRICS if any(name in e.scores for e in newest.values())]
        rows = [["run", "images", *names]]
        for run, evaluation in newest.items():
            rows.append([run, f"{evaluation.images:,}", *(_cell(name, run, newest) for name in names)])
        floors = next(iter(newest.values()))
        rows.append(["(floor)", "", *(shown(floors.scores[n].floor) if n in floors.scores else "" for n in names)])
        parts.append(f"{_described(floors)}\n{_columns(rows)}")
    if len(groups) > 1:
        parts.append("The tables cannot be compared with each other: data, number of samples or extractor differ.")
    return "\n\n".join(parts)


def _cell(name: str, run: str, newest: Mapping[str, Evaluation]) -> str:
    score = newest[run].scores.get(name)
    if score is None:
        return ""
    others = [e.scores[name] for other, e in newest.items() if other != run and name in e.scores]
    best = (
        bool(others)
        and METRICS[name].is_goal
        and not any(_better(name, other, score) for other in others)
        and math.isfinite(score.value)
    )
    error = "" if score.error is None else f" +- {shown(score.error)}"
    return f"{shown(score.value)}{error}{' *' if best else ''}"


def save_plot(runs: Runs, path: Path) -> None:
    """Draw every metric over the images, a line per run and the floor dashed, for each protocol a row of axes.

    Args:
        runs: evaluations by run, at least one in all.
        path: of the picture; parent folders are made.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    groups = by_protocol(runs)
    columns = max(len(_drawn(group)) for group in groups.values())
    figure = Figure(figsize=(4.2 * columns, 3.4 * len(groups)), layout="constrained")
    all_axes = figure.subplots(len(groups), columns, squeeze=False)
    for group, row in zip(groups.values(), all_axes, strict=True):
        names = _drawn(group)
        for axes in row[len(names) :]:
            axes.set_visible(False)
        for name, axes in zip(names, row, strict=False):
            _draw(axes, name, group)
        row[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _drawn(group: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    return [name for name in METRICS if any(name in e.scores for row in group.values() for e in row)]


def _draw(axes: Any, name: str, group: Mapping[str, Sequence[Evaluation]]) -> None:
    floors = []
    for run, evaluations in group.items():
        points = [(e.images, e.scores[name]) for e in evaluations if name in e.scores]
        floors += [score.floor for _, score in points]
        axes.plot([images for images, _ in points], [score.value for _, score in points], marker="o", ms=3, label=run)
    values = [score.value for row in group.values() for e in row if (score := e.scores.get(name))]
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set_yscale("log")
    axes.axhline(floors[-1], color="gray", ls="--", lw=1)
    axes.set_title(f"{name} ({'higher' if METRICS[name].higher_is_better else 'lower'} is better)", fontsize=9)
    axes.set_xlabel("images", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
