"""The folder of a sweep, or its place in a bucket, and the results that lie in it.

<sweep.dir>/<sweep.name>/
    sweep.yaml      the resolved sweep with its base run
    trials/         a folder per configuration (see trial.py)
    confirm/        the winner on fresh seeds: a folder per configuration that ever won
    results.json    all results; results.csv: the table
    best.yaml       the winner as a run for `python -m ganscale.train`
    plots/          pictures

In a bucket (`sweep.dir=s3://bucket/sweeps`) the same names are objects, and `lease.json` names the driver. Trials write
theirs themselves, on whatever host they run; the driver's files are copies of those in a temporary folder.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ganscale.config import ConfigError
from ganscale.config.errors import shown
from ganscale.config.load import flat, read
from ganscale.config.titles import within
from ganscale.config.yaml12 import Dumper
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, folders, in_parallel
from ganscale.sweep.config import Sweep, SweepSettings
from ganscale.sweep.score import SeedResult, Standing, finite_or_none, seed_from_json, standing

FREE = (
    *("name", "dir", "num_configs", "confirm_seeds", "confidence", "max_concurrent", "budget_hours"),
    *("workers", "cpus_per_worker", "gpus_per_worker"),
)
"""Keys of section `sweep` that may change when a sweep resumes: recorded results do not depend on them."""


class SweepFolder:
    """Paths of one sweep.

    Args:
        files: The sweep's folder, or its place in a bucket; also as a `RunDir`.

    Attributes:
        files: The driver's files: fetched from a bucket and pushed there.
        root: Where the sweep lies.
        path: The local folder of the driver's files; `root`, except in a bucket.
    """

    def __init__(self, files: Place | RunDir) -> None:
        self.files = files if isinstance(files, RunDir) else RunDir(files)
        self.root, self.path = self.files.root, self.files.path
        self.sweep, self.best, self.plots = (self.path / name for name in ("sweep.yaml", "best.yaml", "plots"))
        self.trials, self.confirm = self.root / "trials", self.root / "confirm"


def resolved(sweep: Sweep, base: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep as one plain mapping that includes its base run.

    Args:
        sweep: The sweep.
        base: Its base run as plain mappings.
    """
    return {**sweep.model_dump(mode="json", exclude_none=True), "base": dict(base)}


def prepare(folder: SweepFolder, sweep: Sweep, base: Mapping[str, Any]) -> None:
    """Create the folder and write the resolved sweep, if it is new or unchanged.

    Args:
        folder: Where the sweep lies.
        sweep: The sweep.
        base: Its base run as plain mappings.

    Raises:
        ConfigError: The folder holds another sweep.
        OSError: The storage fails.
    """
    new = resolved(sweep, base)
    folder.files.fetch(folder.sweep.name)
    changed = _changed(read(folder.sweep), new) if folder.sweep.exists() else []
    if changed:
        raise ConfigError(
            f"a sweep of this name with other settings lies in {folder.root} ({', '.join(changed)} differ)",
            key="sweep.name",
            value=sweep.sweep.name,
            remedy="use another sweep.name, restore the old settings to resume, or move the folder away",
        )
    folder.trials.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.sweep, yaml.dump(new, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))
    folder.files.push()


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys that differ and change results; a key that the old file lacks had its default."""
    defaults = {f"sweep.{key}": value for key, value in SweepSettings().model_dump(mode="json").items()}
    before, after = defaults | flat(old), flat(new)
    if "base.eval.metrics" not in before:  # written by a version whose runs computed more metrics
        after.pop("base.eval.metrics", None)
    keys = [key for key in before | after if not key.startswith(("set.cluster.", "base.cluster."))]
    free = {f"sweep.{key}" for key in FREE}
    return [key for key in keys if key not in free and before.get(key) != after.get(key)]


@dataclass(frozen=True)
class TrialRow:
    """The results of a configuration at one evaluation."""

    images: int  # images of each seed, rounded down to a multiple of `eval.every`, so that configurations share an axis
    drawn: dict[str, Any]  # drawn values with which it was trained up to here
    seeds: tuple[SeedResult, ...]  # each seed's result
    seconds: float  # seconds of work since the previous row
    last: bool  # whether the configuration is done

    @property
    def spent(self) -> int:
        """Images over all seeds."""
        return sum(seed.images for seed in self.seeds)

    def as_json(self) -> dict[str, Any]:
        """Plain mappings."""
        return {**self.__dict__, "seeds": [seed.as_json() for seed in self.seeds]}


def _read_text(path: Place) -> str:
    """The content of a record; empty if there is none.

    Raises:
        OSError: A bucket fails: what it holds may be there all the same.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        if isinstance(path, Path) or isinstance(error, FileNotFoundError):
            return ""
        raise


def read_rows(folder: Place) -> list[TrialRow]:
    """The rows of a trial up to the first damaged one.

    Args:
        folder: The trial's folder.

    Raises:
        OSError: A bucket fails.
    """
    rows: list[TrialRow] = []
    with suppress(ValueError, KeyError, TypeError):
        for line in _read_text(folder / "rows.jsonl").splitlines():
            raw = json.loads(line)
            rows.append(TrialRow(**{**raw, "seeds": tuple(map(seed_from_json, raw["seeds"]))}))
    return rows


def read_end(folder: Place) -> tuple[str, str]:
    """Status and reason of a trial's end; both empty while it is open.

    Args:
        folder: The trial's folder.

    Raises:
        OSError: A bucket fails.
    """
    with suppress(ValueError, KeyError, TypeError):
        raw = json.loads(_read_text(folder / "end.json"))
        return str(raw["status"]), str(raw["reason"])
    return "", ""


def read_drawn(folder: Place) -> dict[str, Any] | None:
    """The drawn values that a trial was proposed with; None if there is no valid record.

    Args:
        folder: The trial's folder.

    Raises:
        OSError: A bucket fails.
    """
    with suppress(ValueError):
        raw = json.loads(_read_text(folder / "drawn.json"))
        return raw if isinstance(raw, dict) else None
    return None


@dataclass(frozen=True)
class Entry:
    """One configuration of a sweep."""

    index: int  # its number
    drawn: Mapping[str, Any]  # its drawn values; with population-based training the newest
    status: str  # "complete", "stopped" (by the scheduler), "failed" (its process); empty while it is open
    reason: str  # reason of the status
    rows: tuple[TrialRow, ...]  # all recorded rows
    standing: Standing  # summary of its newest row

    @property
    def images(self) -> int:
        """Images of each seed."""
        return self.rows[-1].images if self.rows else 0

    @property
    def spent(self) -> int:
        """Images over all seeds."""
        return self.rows[-1].spent if self.rows else 0

    @property
    def has_valid_seed(self) -> bool:
        """Whether at least one seed has not failed."""
        return bool(self.rows) and self.standing.failures < len(self.rows[-1].seeds)

    def as_json(self) -> dict[str, Any]:
        """Plain mappings; None in place of what is not finite."""
        facts = {"status": self.status, "reason": self.reason, "images": self.images, "spent": self.spent}
        seeds = [seed.as_json() for seed in self.rows[-1].seeds] if self.rows else []
        return {"trial": self.index, "drawn": dict(self.drawn), **facts, **self.standing.as_json(), "seeds": seeds}


def read_entries(
    trials: Place, metrics: Sequence[str], settings: SweepSettings, *, ended: dict[str, Entry] | None = None
) -> list[Entry]:
    """All configurations of a sweep, by index.

    Args:
        trials: Folder of the trials.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.
        ended: Those that had ended when they were read before, by name: they are not read again. It is added to.

    Raises:
        OSError: A bucket fails.
    """
    ended = {} if ended is None else ended
    names = [name for name in folders(trials) if name.isdigit()]
    new = [name for name in names if name not in ended]
    read = in_parallel(trials, lambda name: read_entry(trials / name, metrics, settings), new)
    found = ended | {name: entry for name, entry in zip(new, read, strict=True) if entry}
    ended.update({name: entry for name, entry in found.items() if entry.status})
    return [found[name] for name in names if name in found]


def read_entry(folder: Place, metrics: Sequence[str], settings: SweepSettings) -> Entry | None:
    """The configuration in a trial's folder; None if there is none.

    Args:
        folder: The trial's folder, named by its index.
        metrics: Metrics that are optimized, the first decides.
        settings: Section `sweep`.

    Raises:
        OSError: A bucket fails.
    """
    drawn = read_drawn(folder)
    if drawn is None:
        return None
    status, reason = read_end(folder)  # before the rows, of which an ended trial writes no more
    rows = read_rows(folder)
    summary = standing(rows[-1].seeds if rows else (), metrics, settings)
    return Entry(int(folder.name), rows[-1].drawn if rows else drawn, status, reason, tuple(rows), summary)


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Complete entries, best first; then the others by images and score; last those whose seeds all failed.

    Args:
        entries: Configurations of a sweep.
    """

    def key(entry: Entry) -> tuple[bool, bool, int, float, int]:
        complete = entry.status == "complete"
        images = 0 if complete else entry.images
        return not entry.has_valid_seed, not complete, -images, -entry.standing.score, entry.index

    return sorted(entries, key=key)


def table(entries: Sequence[Entry], metrics: Sequence[str], names: Sequence[str], *, seeds: int) -> list[list[str]]:
    """Entries as rows of formatted texts, below a row of titles.

    Args:
        entries: Configurations of a sweep.
        metrics: Metrics whose means and bounds are shown.
        names: Names of the settings to show.
        seeds: Number of seeds.
    """
    titles = ["trial", "status", "images", "success", "failed", *(f"{m} (bound)" for m in metrics)]
    rows = [[*titles, *short_names(names)]]
    for entry in entries:
        summary = entry.standing
        success = "" if summary.successes is None else f"{summary.successes}/{seeds}"
        values = [f"{_short(summary.means[m])} ({_short(within(m, summary.bounds[m]))})" for m in metrics]
        drawn = [_value(entry.drawn[name]) if name in entry.drawn else "" for name in names]
        reached, failures = f"{entry.images:,}" if entry.rows else "", str(summary.failures or "")
        rows.append([f"{entry.index:04d}", entry.status or "running", reached, success, failures, *values, *drawn])
    return rows


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else shown(value)


def title(index: int, drawn: Mapping[str, Any], names: Sequence[str]) -> str:
    """Number of a trial with its settings, as its name in W&B and Ray.

    Args:
        index: Number of the configuration.
        drawn: Its drawn values.
        names: Names of the settings to show.
    """
    short = zip(names, short_names(names), strict=True)
    settings = [f"{brief}={_value(drawn[name])}" for name, brief in short if name in drawn]
    return " ".join([f"{index:04d}", *settings])[:100]


def short_names(names: Sequence[str]) -> list[str]:
    """The shortest suffixes of dotted names that are distinct.

    Args:
        names: Dotted names; of several separated by commas, the first counts.
    """
    parts = [name.split(",")[0].strip().split(".") for name in names]
    short = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        short.append(".".join(own[-length:]))
    return short


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as aligned columns.

    Args:
        rows: At least one; all equally long.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(f"  {line}" for line in lines)


def leaderboard(
    entries: Sequence[Entry], metrics: Sequence[str], names: Sequence[str], *, seeds: int, most: int
) -> str:
    """The best entries as an aligned table.

    Args:
        entries: Configurations of a sweep.
        metrics: Metrics whose means and bounds are shown.
        names: Names of the settings to show.
        seeds: Number of seeds.
        most: Number of entries to show at most.
    """
    return columns(table(ranked(entries)[:most], metrics, names, seeds=seeds))


def as_csv(entries: Sequence[Entry], metrics: Sequence[str], names: Sequence[str]) -> str:
    """A row per configuration, best first, with full precision.

    Args:
        entries: Configurations of a sweep.
        metrics: Metrics whose means and bounds are written.
        names: Names of the settings to write.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    per_metric = [f"{m}_{what}" for m in metrics for what in ("mean", "bound")]
    fixed = ["trial", "status", "images", "spent", "score", "failures", "successes"]
    writer.writerow([*fixed, *per_metric, *names])
    for entry in ranked(entries):
        summary = entry.standing
        row = [entry.index, entry.status, entry.images, entry.spent, summary.score, summary.failures, summary.successes]
        row += [finite_or_none(v) for m in metrics for v in (summary.means[m], summary.bounds[m])]
        writer.writerow([*row, *(entry.drawn.get(name, "") for name in names)])
    return out.getvalue()
