"""The overview: what each run is, how far it is and how it fares, in the words of a person."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ganscale.config.titles import metric_title, value_title
from ganscale.evaluation.metrics.result import shown
from ganscale.report.images import data_of
from ganscale.report.record import RunRecord
from ganscale.report.settings import MISSING, plain

KEY_FACTS = ("score", "progress", "training time", "health")
"""Those that a reader looks for first; they come first, and stand in the table of several runs even where all agree."""


@dataclass(frozen=True)
class Overview:
    """Facts of some runs.

    Attributes:
        common: label and text of the facts that all of them share; all facts of a single run.
        columns: labels of the other facts.
        rows: name of each run and its other facts.
    """

    common: list[tuple[str, str]]
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def overview(runs: Sequence[RunRecord]) -> Overview:
    """What runs have in common, and how they differ.

    Args:
        runs: what was read of them.
    """
    every = [facts(run) for run in runs]
    labels = list(dict.fromkeys(label for each in every for label in each))
    shared = [
        label
        for label in labels
        if len({each.get(label) for each in every}) == 1 and (len(runs) == 1 or label not in KEY_FACTS)
    ]
    columns = [label for label in labels if label not in shared]
    rows = [(run.name, [each.get(name, MISSING) for name in columns]) for run, each in zip(runs, every, strict=True)]
    return Overview([(label, every[0][label]) for label in shared], columns, rows if columns else [])


def facts(run: RunRecord) -> dict[str, str]:
    """Label to text; those that are not known are left out, except for `KEY_FACTS`.

    Args:
        run: what was read of it.
    """
    settings = run.settings
    found = {
        "score": _score(run),
        "progress": _progress(run),
        "training time": duration(run.seconds),
        "health": _health(run),
        "speed": f"{run.speed:,.0f} images/s" if run.speed is not None else "",
        "trained": _when(run),
        "device": _device(run),
        "workers": _workers(run),
        "data": data_of(run),
    }
    for label, key in (("generator", "model.generator.name"), ("discriminator", "model.discriminator.name")):
        found[label] = value_title(key, settings[key]) if key in settings else ""
    found["loss"] = value_title("loss.name", settings["loss.name"]) if "loss.name" in settings else ""
    batch = settings.get("train.batch_size")
    found["batch"] = f"{plain(batch)} images" if batch is not None else ""
    found["seed"] = plain(settings["run.seed"]) if "run.seed" in settings else ""
    return {label: text for label, text in found.items() if text}


def duration(seconds: float | None) -> str:
    """A time span: `42 s`, `3 min 20 s`, `5 h 12 min`.

    Args:
        seconds: None if it is unknown.
    """
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _score(run: RunRecord) -> str:
    if not run.evaluations:
        return "not evaluated"
    newest = run.evaluations[-1]
    for name, score in newest.scores.items():
        value = shown(score.value) if math.isfinite(score.value) else "not finite"
        return f"{metric_title(name)} {value}, floor {shown(score.floor)}"
    return "not evaluated"


def _progress(run: RunRecord) -> str:
    goal = run.settings.get("train.images")
    if not isinstance(goal, int) or not goal:
        return f"{run.images:,} images"
    if run.images >= goal:
        return f"complete, {run.images:,} images"
    return f"{run.images:,} of {goal:,} images ({run.images / goal:.0%})"


def _when(run: RunRecord) -> str:
    """When the log begins and ends; the second day only where it is another one."""
    if run.started is None or run.ended is None:
        return ""
    same = run.started.date() == run.ended.date()
    return f"{run.started:%Y-%m-%d %H:%M} to {run.ended:{'%H:%M' if same else '%Y-%m-%d %H:%M'}}"


def _health(run: RunRecord) -> str:
    parts = [_counted(len(run.events), "verdict")]
    if run.failures:
        parts.append(_counted(len(run.failures), "failed attempt"))
    return ", ".join(parts)


def _counted(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'s' * (count != 1)}"


def _cluster(run: RunRecord) -> dict[str, object]:
    cluster = run.environment.get("cluster")
    return cluster if isinstance(cluster, dict) else {}


def _device(run: RunRecord) -> str:
    cluster = _cluster(run)
    device = cluster.get("device")
    if cluster.get("gpu"):
        return str(cluster["gpu"])
    if device == "cpu":
        return f"CPU, {cluster['cpus']} cores" if cluster.get("cpus") else "CPU"
    return str(device).upper() if device else ""


def _workers(run: RunRecord) -> str:
    cluster = _cluster(run)
    workers, nodes = cluster.get("workers"), cluster.get("nodes")
    if not isinstance(workers, int):
        return ""
    return f"{workers} on {_counted(nodes, 'node')}" if isinstance(nodes, int) else str(workers)
