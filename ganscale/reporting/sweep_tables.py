"""The part of the report that is about a sweep: trials, success by setting, comparisons, importance."""

import math
from collections.abc import Mapping
from typing import Any

from ganscale.evaluation.metrics.result import shown
from ganscale.reporting.markup import Cell, Markup, element, join, table
from ganscale.reporting.settings import MISSING
from ganscale.reporting.sweep import SweepRecord, counted, has_threshold, shares, trial_name


def section(sweep: SweepRecord) -> Markup:
    """All about a sweep but its curves."""
    return join(
        [element("p", _summary(sweep)), _quality(sweep), trials(sweep), success(sweep), pairs(sweep), importance(sweep)]
    )


def _summary(sweep: SweepRecord) -> str:
    images = sweep.results.get("images")
    spent = f" on {images:,} images" if isinstance(images, int) else ""
    metrics = f", by {', '.join(sweep.metrics)}" if sweep.metrics else ""
    return f"{len(sweep.trials)} configurations{spent}{metrics}."


def _quality(sweep: SweepRecord) -> Cell:
    """The winner on fresh seeds: the figure that may be quoted."""
    confirmed = sweep.results.get("confirmed")
    if not isinstance(confirmed, dict):
        return ""
    seeds = len(confirmed.get("seeds") or [])
    parts = [_mean_and_bound(confirmed, name) for name in sweep.metrics]
    if isinstance(confirmed.get("successes"), int):
        parts.append(f"{confirmed['successes']} of {seeds} succeeded{_interval(confirmed)}")
    parts.append(f"{confirmed.get('failures', 0)} failed")
    winner = trial_name({"trial": sweep.results.get("winner")})
    return element("p", f"The winner, {winner}, on {seeds} fresh seeds (this is its quality): {', '.join(parts)}.")


def _interval(raw: Mapping[str, Any]) -> str:
    pair = raw.get("rate_interval")
    if isinstance(pair, list) and len(pair) == 2 and all(isinstance(end, int | float) for end in pair):
        return f" ({pair[0]:.0%} to {pair[1]:.0%})"
    return ""


def _mean_and_bound(raw: Mapping[str, Any], name: str) -> str:
    return f"{name} {_number(raw.get('means'), name)} (bound {_number(raw.get('bounds'), name)})"


def _number(values: Any, name: str) -> str:
    value = values.get(name) if isinstance(values, dict) else None
    return shown(value) if isinstance(value, int | float) and math.isfinite(value) else MISSING


def trials(sweep: SweepRecord) -> Markup:
    """A row per configuration, best first."""
    names = list(dict.fromkeys(name for trial in sweep.trials for name in trial.get("drawn") or {}))
    what = "succeeded" if has_threshold(sweep) else "did not fail"
    head = ["trial", "status", "images", what, *(f"{m} (bound)" for m in sweep.metrics), *names]
    rows: list[list[Cell]] = []
    for trial in sweep.trials:
        good, seeds = counted(trial)
        best = trial.get("trial") is not None and trial.get("trial") == sweep.results.get("winner")
        images = trial.get("images")
        means = [f"{_number(trial.get('means'), m)} ({_number(trial.get('bounds'), m)})" for m in sweep.metrics]
        drawn = trial.get("drawn") or {}
        rows.append(
            [
                join([trial_name(trial), element("span", " best", class_="best") if best else ""], ""),
                str(trial.get("status") or "running"),
                f"{images:,}" if isinstance(images, int) else MISSING,
                f"{good}/{seeds}{_interval(trial)}",
                *means,
                *(_value(drawn[name]) if name in drawn else MISSING for name in names),
            ]
        )
    return table(
        "Trials, best first; the bound is the pessimistic end of the mean's interval", head, rows, look="numeric"
    )


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def success(sweep: SweepRecord) -> Cell:
    """Share of seeds that succeeded, by value of each setting."""
    found = shares(sweep)
    if not found:
        return ""
    rows: list[list[Cell]] = []
    before = ""
    for share in found:
        setting = share.setting if share.setting != before else ""
        before = share.setting
        low, high = share.interval
        rate = share.good / share.seeds
        label = setting or element("span", share.setting, class_="visually-hidden")
        interval = f"{rate:.0%} ({low:.0%} to {high:.0%})"
        cells = [share.value, str(share.trials), f"{share.good}/{share.seeds}", interval]
        rows.append([label, *cells, _range(low, rate, high)])
    what = "reached the threshold" if has_threshold(sweep) else "did not fail"
    head = ["setting", "value", "trials", "seeds", "share (interval)", "0 to 100%"]
    return table(f"Share of seeds that {what}, by setting; other settings vary", head, rows, look="overview")


def pairs(sweep: SweepRecord) -> Cell:
    """Values of a grid two by two, compared at the same draws of everything else."""
    raw = sweep.results.get("differences")
    rows: list[list[Cell]] = []
    for setting, found in raw.items() if isinstance(raw, dict) else ():
        for pair in found if isinstance(found, list) else ():
            try:
                ends = "all alike" if pair["interval"] is None else "{:+.0%} to {:+.0%}".format(*pair["interval"])
                cells = [setting, str(pair["better"]), str(pair["worse"]), f"{pair['share']:+.0%}", ends]
                rows.append([*cells, str(pair["draws"])])
            except (KeyError, TypeError, ValueError, IndexError):
                continue
    if not rows:
        return ""
    head = ["setting", "value", "against", "more successes", "interval", "draws"]
    return table("Values of a grid at the same draws of all else: difference of the shares", head, rows)


def importance(sweep: SweepRecord) -> Cell:
    """What each setting explains of the scores' ranks, beside what chance explains."""
    found = [row for row in sweep.results.get("importance") or [] if isinstance(row, dict) and "explained" in row]
    rows: list[list[Cell]] = []
    for row in found:
        explained, chance, p = (_share(row.get(key)) for key in ("explained", "by_chance", "p"))
        more = element("span", "more than chance" if explained > chance else "no more than chance", class_="quiet")
        cells = [f"{explained:.0%}", f"{chance:.0%}", f"{p:.3f}", _bar(explained, chance), more]
        rows.append([str(row.get("name")), *cells])
    if not rows:
        return ""
    head = ["setting", "explains", "chance, 95%", "p", "0 to 100%", ""]
    return table("Importance: share of the variance of the scores' ranks that a setting explains alone", head, rows)


def _share(value: Any) -> float:
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) else 0.0


def _range(low: float, middle: float, high: float) -> Markup:
    """An interval with its middle on a line from 0 to 1."""
    line = element("line", "", class_="grid", x1="2", x2="102", y1="7", y2="7")
    span = element("line", "", class_="interval", x1=f"{2 + 100 * low:.1f}", x2=f"{2 + 100 * high:.1f}", y1="7", y2="7")
    dot = element("circle", "", class_="dot c0", cx=f"{2 + 100 * middle:.1f}", cy="7", r="3.5")
    return element("svg", join([line, span, dot], ""), class_="gauge", viewBox="0 0 104 14", aria_hidden="true")


def _bar(value: float, mark: float) -> Markup:
    """A bar from 0 to 1 with a mark."""
    frame = element("line", "", class_="grid", x1="2", x2="102", y1="12", y2="12")
    bar = element("rect", "", class_="dot c0", x="2", y="3", width=f"{100 * value:.1f}", height="8")
    line = element("line", "", class_="tick", x1=f"{2 + 100 * mark:.1f}", x2=f"{2 + 100 * mark:.1f}", y1="0", y2="14")
    return element("svg", join([frame, bar, line], ""), class_="gauge", viewBox="0 0 104 14", aria_hidden="true")
