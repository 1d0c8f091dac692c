"""A sweep in the report: what `results.json` says of its trials, and each trial as a run among the curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ganscale.config import ConfigError
from ganscale.reporting.record import RunRecord

RESULTS = "results.json"
MOST_CURVES = 40
"""Trials whose curves are drawn, the best."""


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as its results tell.

    Attributes:
        name: of the sweep.
        path: its folder.
        metrics: what was optimized, the leading one first.
        results: all of results.json.
        trials: of it, best first.
    """

    name: str
    path: Path
    metrics: list[str]
    results: dict[str, Any]
    trials: list[dict[str, Any]]


@dataclass(frozen=True)
class Share:
    """How many seeds succeeded with a value of a setting.

    Attributes:
        setting: dotted key.
        value: or range of values.
        trials: configurations that had it.
        good: seeds that succeeded.
        seeds: all of their seeds.
        interval: of the share (Wilson 1927), each configuration taken as one trial.
    """

    setting: str
    value: str
    trials: int
    good: int
    seeds: int
    interval: tuple[float, float]


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's that has results."""
    return (path / RESULTS).is_file()


def read_sweep(path: Path) -> SweepRecord:
    """What a sweep's folder tells.

    Raises:
        ConfigError: its results cannot be read.
    """
    try:
        raw = json.loads((path / RESULTS).read_text(encoding="utf-8"))
        trials = [trial for trial in raw["trials"] if isinstance(trial, dict)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        remedy = "run the sweep's command again: it writes them anew"
        raise ConfigError(f"its {RESULTS} cannot be read", key="path", value=str(path), remedy=remedy) from None
    metrics = [str(name) for name in raw.get("metrics") or []]
    return SweepRecord(str(raw.get("sweep") or path.resolve().name), path, metrics, raw, trials)


def trial_name(trial: Mapping[str, Any]) -> str:
    """`trial 0003`."""
    number = trial.get("trial")
    return f"trial {number:04d}" if isinstance(number, int) else f"trial {number}"


def trial_runs(sweep: SweepRecord) -> list[RunRecord]:
    """The best trials as runs: means of the metrics over the seeds that did not fail, and the first seed's samples."""
    runs = []
    for trial in sweep.trials[:MOST_CURVES]:
        number = trial.get("trial")
        folder = sweep.path / "trials" / (f"{number:04d}" if isinstance(number, int) else "none")
        seeds = sorted(folder.glob("seed-*/samples"))
        pictures = [
            (int(file.stem), file) for samples in seeds[:1] for file in samples.glob("*.png") if file.stem.isdigit()
        ]
        rows = _rows(folder / "rows.jsonl")
        runs.append(RunRecord(trial_name(trial), folder, rows=rows, pictures=sorted(pictures), is_trial=True))
    return runs


def _rows(path: Path) -> list[dict[str, Any]]:
    """A row per evaluation: images, and each metric's mean."""
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            raw = json.loads(line)
            sound = [seed["values"] for seed in raw["seeds"] if not seed["failure"]]
            names = dict.fromkeys(name for values in sound for name in values)
            means = {name: _mean([values.get(name) for values in sound]) for name in names}
            rows.append({"images": int(raw["images"]), **means})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # what came before a cut is still worth showing
    return rows


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return fmean(numbers) if numbers else None


def counted(trial: Mapping[str, Any]) -> tuple[int, int]:
    """Seeds that succeeded (without a threshold: did not fail) and all seeds."""
    seeds = len(trial.get("seeds") or [])
    successes, failures = trial.get("successes"), trial.get("failures")
    if isinstance(successes, int):
        return successes, seeds
    return seeds - (failures if isinstance(failures, int) else 0), seeds


def has_threshold(sweep: SweepRecord) -> bool:
    """Whether success means more than not to fail."""
    return any(isinstance(trial.get("successes"), int) for trial in sweep.trials)


def shares(sweep: SweepRecord) -> list[Share]:
    """Success by setting and value, as the sweep has counted it; what is damaged is left out."""
    found = []
    by_setting = sweep.results.get("success_by_setting")
    for setting, rates in by_setting.items() if isinstance(by_setting, dict) else ():
        for rate in rates if isinstance(rates, list) else ():
            try:
                low, high = (float(end) for end in rate["interval"])
                share = Share(
                    setting, str(rate["value"]), rate["configs"], rate["successes"], int(rate["runs"]), (low, high)
                )
            except (KeyError, TypeError, ValueError):
                continue
            if share.seeds > 0:
                found.append(share)
    return found
