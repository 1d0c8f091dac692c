"""The configurations of a sweep as rows: ranked, as text, as CSV and as JSON."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganscale.config.errors import shown
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.record import TrialRow, read_drawn, read_end, read_rows
from ganscale.sweep.score import Standing, standing


@dataclass(frozen=True)
class Entry:
    """One configuration of a sweep.

    Attributes:
        index: its number.
        drawn: its drawn values; with population-based training the newest.
        status: "complete", "stopped" (by the scheduler), "failed" (its process), or empty while it is not done.
        reason: of the status.
        rows: all that was recorded.
        standing: by its newest row.
    """

    index: int
    drawn: Mapping[str, Any]
    status: str
    reason: str
    rows: tuple[TrialRow, ...]
    standing: Standing

    @property
    def spent(self) -> int:
        """Images over all seeds."""
        return self.rows[-1].spent if self.rows else 0

    @property
    def sound(self) -> bool:
        """Whether a seed of it, at least, has not failed."""
        return bool(self.rows) and self.standing.failures < len(self.rows[-1].seeds)


def read_entries(trials: Path, metrics: Sequence[str], settings: SweepSettings) -> list[Entry]:
    """All configurations in a sweep's folder, by index."""
    found = [read_entry(folder, metrics, settings) for folder in sorted(trials.glob("[0-9]*"))]
    return [entry for entry in found if entry is not None]


def read_entry(folder: Path, metrics: Sequence[str], settings: SweepSettings) -> Entry | None:
    """The configuration in a trial's folder; None where there is none."""
    drawn = read_drawn(folder)
    if drawn is None:
        return None
    rows = read_rows(folder)
    status, reason = read_end(folder)
    judged = standing(rows[-1].seeds if rows else (), metrics, settings)
    return Entry(int(folder.name), rows[-1].drawn if rows else drawn, status, reason, tuple(rows), judged)


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Those that ran to their end, best first; then the others by images and score; last where all seeds failed."""

    def key(entry: Entry) -> tuple[bool, bool, int, float, int]:
        complete = entry.status == "complete"
        images = entry.rows[-1].images if entry.rows and not complete else 0
        return not entry.sound, not complete, -images, -entry.standing.score, entry.index

    return sorted(entries, key=key)


def header(metrics: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of the columns of `cells`."""
    return ["trial", "status", "images", "success", "failed", *(f"{m} (bound)" for m in metrics), *names]


def cells(entry: Entry, metrics: Sequence[str], names: Sequence[str], total: int) -> list[str]:
    """An entry as texts for people.

    Args:
        entry: the configuration.
        metrics: whose means and bounds are shown.
        names: of the drawn values to show.
        total: number of seeds.
    """
    judged = entry.standing
    success = "" if judged.successes is None else f"{judged.successes}/{total}"
    reached = f"{entry.rows[-1].images:,}" if entry.rows else ""
    values = [f"{_short(judged.means[m])} ({_short(judged.bounds[m])})" for m in metrics]
    drawn = [_value(entry.drawn[name]) if name in entry.drawn else "" for name in names]
    return [
        f"{entry.index:04d}",
        entry.status or "running",
        reached,
        success,
        str(judged.failures or ""),
        *values,
        *drawn,
    ]


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def title(entry: Entry, names: Sequence[str]) -> str:
    """A trial's name that says what differs: its number and its values of the settings `names`."""
    short = zip(names, short_names(names), strict=True)
    drawn = [f"{brief}={_value(entry.drawn[name])}" for name, brief in short if name in entry.drawn]
    return " ".join([f"{entry.index:04d}", *drawn])


def short_names(names: Sequence[str]) -> list[str]:
    """Each as short as it can be told from the others: the last parts of a dotted name."""
    parts = [name.split(",")[0].strip().split(".") for name in names]
    short = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        short.append(".".join(own[-length:]))
    return short


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(f"  {line}" for line in lines)


def leaderboard(
    entries: Sequence[Entry], metrics: Sequence[str], names: Sequence[str], *, seeds: int, most: int
) -> str:
    """The best entries as a table for people."""
    rows = [header(metrics, short_names(names))]
    rows += [cells(entry, metrics, names, seeds) for entry in ranked(entries)[:most]]
    return columns(rows)


def as_csv(entries: Sequence[Entry], metrics: Sequence[str], names: Sequence[str]) -> str:
    """A row per configuration, best first, with full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    per_metric = [f"{m}_{what}" for m in metrics for what in ("mean", "bound")]
    fixed = ["trial", "status", "images", "spent", "score", "failures", "successes"]
    writer.writerow([*fixed, *per_metric, *names])
    for entry in ranked(entries):
        judged = entry.standing
        reached = entry.rows[-1].images if entry.rows else 0
        row = [entry.index, entry.status, reached, entry.spent, judged.score, judged.failures, judged.successes]
        for metric in metrics:
            row += [_plain(judged.means[metric]), _plain(judged.bounds[metric])]
        writer.writerow([*row, *(entry.drawn.get(name, "") for name in names)])
    return out.getvalue()


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(entry: Entry) -> dict[str, Any]:
    """All of an entry as plain mappings; what is not finite becomes None."""
    judged = entry.standing
    return {
        "trial": entry.index,
        "drawn": dict(entry.drawn),
        "status": entry.status,
        "reason": entry.reason,
        "images": entry.rows[-1].images if entry.rows else 0,
        "spent": entry.spent,
        "score": judged.score,
        "means": {m: _plain(v) for m, v in judged.means.items()},
        "bounds": {m: _plain(v) for m, v in judged.bounds.items()},
        "failures": judged.failures,
        "successes": judged.successes,
        "rate_interval": judged.rate_interval,
        "seeds": [seed.as_json() for seed in entry.rows[-1].seeds] if entry.rows else [],
    }
