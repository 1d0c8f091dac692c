"""A sweep in the report: its `results.json`, its plots, and its trials as curves."""

import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, Field

from ganscale.config import ConfigError
from ganscale.report.record import RunRecord, sample_grids
from ganscale.storage.run_dir import RunDir, open_run, read_objects

RESULTS = "results.json"
MAX_CURVES = 40
"""Trials whose curves are drawn, the best ones."""

Interval = tuple[float, float]


class Outcome(BaseModel):
    """Results of one configuration over its seeds; see `ganscale.sweep.score.Standing`."""

    means: dict[str, float | None] = {}
    bounds: dict[str, float | None] = {}
    failures: int = 0
    successes: int | None = None
    rate_interval: Interval | None = None
    seeds: list[Any] = []

    @property
    def num_good(self) -> int:
        """Seeds that succeeded; without a threshold, seeds that did not fail."""
        return len(self.seeds) - self.failures if self.successes is None else self.successes


class Trial(Outcome):
    """One configuration of the sweep."""

    trial: int
    drawn: dict[str, Any] = {}
    status: str = ""
    reason: str = ""
    images: int = 0

    @property
    def name(self) -> str:
        """`trial 0003`."""
        return f"trial {self.trial:04d}"

    @property
    def outcome(self) -> str:
        """How it ended: status, why it was stopped, and why seeds failed."""
        failures = Counter(
            str(seed["failure"]) for seed in self.seeds if isinstance(seed, dict) and seed.get("failure")
        )
        failed = [f"{count} failed: {_cut(why)}" for why, count in failures.items()]
        ended = self.status or "running"
        return "; ".join([f"{ended}: {_cut(self.reason)}" if self.reason else ended, *failed])

    def why_no_score(self) -> str:
        """Why a metric has no mean, in words."""
        if not self.seeds:
            return "no score: no evaluation yet"
        if self.failures >= len(self.seeds):
            return f"no score: {'its seed' if len(self.seeds) == 1 else f'all {len(self.seeds)} seeds'} failed"
        return "no score: its samples were not finite"


def _cut(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


class Rate(BaseModel):
    """Success at one value of a setting; see `ganscale.sweep.success.Rate`."""

    value: str
    successes: int
    runs: int
    configs: int
    interval: Interval


class Difference(BaseModel):
    """Two values of a grid at the same draws; see `ganscale.sweep.compare.Difference`."""

    better: str
    worse: str
    share: float
    interval: Interval | None
    draws: int


class Importance(BaseModel):
    """What a setting explains of the scores; see `ganscale.sweep.importance.Importance`."""

    name: str
    explained: float
    by_chance: float
    p: float


class Audit(BaseModel):
    """What health verdicts saved, and their false alarms; see `ganscale.sweep.analysis.Audit`."""

    seeds: int
    ended: int
    images_saved: int
    continued: int
    false_alarms: int
    threshold: float | None
    interval: Interval


class SweepRecord(BaseModel):
    """A sweep as its `results.json` describes it; keys of other versions are ignored.

    Attributes:
        path: its folder.
        name: of the sweep.
        metrics: what was optimized, the leading one first.
        trials: the best first.
    """

    path: Path
    name: str = Field("", alias="sweep")
    metrics: list[str] = []
    images: int | None = None
    winner: int | None = None
    confirmed: Outcome | None = None
    audit: Audit | None = None
    success_by_setting: dict[str, list[Rate]] = {}
    differences: dict[str, list[Difference]] = {}
    importance: list[Importance] = []
    trials: list[Trial]

    @property
    def settings(self) -> list[str]:
        """Keys that the sweep searched."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.drawn))

    @property
    def has_threshold(self) -> bool:
        """Whether success means more than not to fail."""
        return any(trial.successes is not None for trial in self.trials)


def is_sweep(path: Path) -> bool:
    """Whether a folder holds the results of a sweep.

    Args:
        path: the folder.
    """
    return (path / RESULTS).is_file()


def open_results(text: str) -> RunDir:
    """A run or a sweep to report on: where it lies in a bucket, what the page shows of it is downloaded.

    Args:
        text: its folder or URI.

    Raises:
        ConfigError: there is nothing of the kind in the bucket, or a sweep's results cannot be read.
        OSError: the storage fails.
    """
    folder = RunDir(text)
    folder.fetch(RESULTS)
    if isinstance(folder.root, Path):
        return folder
    if not is_sweep(folder.path):
        if (folder.root / "sweep.yaml").exists():
            remedy = "wait for the sweep's command, which writes them at its end"
            raise ConfigError("the sweep has no results yet", key="path", value=text, remedy=remedy)
        return open_run(text)
    folder.pull("plots")
    for trial in read_sweep(folder.path).trials[:MAX_CURVES]:
        folder.pull(f"trials/{trial.trial:04d}")
    return folder


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep's folder.

    Args:
        path: the sweep's folder.

    Raises:
        ConfigError: its results cannot be read.
    """
    try:
        raw = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        return SweepRecord.model_validate({"sweep": path.resolve().name, **raw, "path": path})
    except (OSError, ValueError, TypeError, RecursionError) as error:  # ValidationError is a ValueError
        remedy = "run the sweep's command again: it rewrites them"
        raise ConfigError(
            f"its {RESULTS} cannot be read ({error})", key="path", value=str(path), remedy=remedy
        ) from None


def trial_runs(sweep: SweepRecord, *, prefix: str = "") -> list[RunRecord]:
    """The best trials as runs: means of the metrics over the seeds that did not fail, and the first seed's samples.

    Args:
        sweep: whose folder is read.
        prefix: of the runs' names, e.g. the sweep's name.
    """
    runs = []
    for trial in sweep.trials[:MAX_CURVES]:
        folder = sweep.path / "trials" / f"{trial.trial:04d}"
        first = next(iter(sorted(folder.glob("seed-*/samples"))), folder / "samples")
        rows = [_mean_row(row) for row in read_objects(folder / "rows.jsonl") if row.keys() >= {"images", "seeds"}]
        name = f"{prefix} {trial.name}".strip()
        runs.append(RunRecord(name, folder, rows=rows, pictures=sample_grids(first), is_trial=True))
    return runs


def _mean_row(row: dict[str, Any]) -> dict[str, Any]:
    """Images, and the mean of each metric over the seeds that did not fail."""
    values = [seed["values"] for seed in row["seeds"] if not seed["failure"]]
    names = dict.fromkeys(name for each in values for name in each)
    known = {name: [each[name] for each in values if each.get(name) is not None] for name in names}
    return {"images": row["images"], **{name: fmean(found) if found else None for name, found in known.items()}}
