"""Whether rollbacks save runs whose rates are far too high: the same runs with and without them."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.health.faults import FAULTS
from benchmarks.health.record import Record
from benchmarks.health.score import is_good, sound_twins
from benchmarks.health.setups import SETUPS, overrides
from ganscale.config import ConfigError, load
from ganscale.evaluation.compare import read_evaluations
from ganscale.run.health_monitor import read_rollbacks
from ganscale.run.session import run_worker
from ganscale.storage.run_dir import RunDir
from ganscale.sweep.score import wilson

FIRST_SEED = 5000
"""Of runs on which nothing was chosen."""
RESPONSE = ("health.response=rollback",)
"""All else is left at its default."""
CHECKPOINTS = 8
"""Of a run."""
TOO_HIGH = ("rates-x100", "rates-jump")
"""Faults by which rates are too high: from the first image on, or from half of the run on."""
CONFIDENCE = 0.95
LEAST = 0.8
"""The bar: share of the runs that are lost without rollback and end well with it."""


class Rescue(NamedTuple):
    """One setup and seed with far too high rates.

    Attributes:
        setup: name of the setup.
        fault: name of what was done to the rates.
        seed: of both runs.
        lost: whether it ends badly when nothing is done.
        saved: whether it ends well with rollbacks.
        targets: images to which it was rolled back, in order.
        scores: of its last evaluation, with rollbacks.
        diagnosis: why a verdict stopped it, with rollbacks; empty if it reached its end.
    """

    setup: str
    fault: str
    seed: int
    lost: bool
    saved: bool
    targets: tuple[int, ...]
    scores: Mapping[str, float]
    diagnosis: str = ""


class End(NamedTuple):
    """How a run ended: scores of its last evaluation, images it was put back to, and why it was stopped, if so."""

    scores: Mapping[str, float]
    targets: tuple[int, ...]
    diagnosis: str


def rescue_all(records: Sequence[Record], *, seeds: int, only: str = "") -> Iterator[Rescue]:
    """Try every setup with every kind of too high rates.

    Args:
        records: of the benchmark; its sound runs say what ending well is.
        seeds: number of seeds for each pair of them.
        only: a part of the `setup/fault` of those to try.
    """
    twins = sound_twins(records)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for fault in TOO_HIGH:
            for setup in SETUPS:
                if only in f"{setup}/{fault}":
                    yield rescue(setup, fault, seed, twins[setup])


def rescue(setup: str, fault: str, seed: int, twins: Sequence[Record]) -> Rescue:
    """Train one run twice, in folders that do not stay; one that is not lost is not trained again."""
    with tempfile.TemporaryDirectory(prefix="rescue") as folder:
        without = train(setup, fault, seed, Path(folder) / "without")
        if is_good(without.scores, twins):
            return Rescue(setup, fault, seed, False, False, (), without.scores)
        end = train(setup, fault, seed, Path(folder) / "with", *RESPONSE)
    saved = not end.diagnosis and is_good(end.scores, twins)
    return Rescue(setup, fault, seed, True, saved, end.targets, end.scores, end.diagnosis)


def train(setup: str, fault: str, seed: int, path: Path, *response: str) -> End:
    """Train one run in a folder."""
    chosen = SETUPS[setup]
    settings = (
        f"run.dir={path.parent}",
        f"checkpoint.every={chosen.images // CHECKPOINTS}",
        f"log.samples_every={chosen.images}",
        "log.details=false",
        "log.num_samples=4",
        *response,
    )
    config = load(overrides=(*overrides(chosen, seed), *FAULTS[fault].settings(chosen), *settings))
    outcome = run_worker(config, path, device=torch.device("cpu"), echo=False)
    targets = tuple(int(row["to"]) for row in read_rollbacks(RunDir(path)))
    return End(_last_scores(path, config.train.images), targets, outcome.diagnosis)


def _last_scores(path: Path, images: int) -> Mapping[str, float]:
    """Of the evaluation at a run's end; the worst ones if there is none, as of weights that are not finite."""
    with suppress(ConfigError):
        last = read_evaluations(path)[-1]
        if last.images >= images:
            return last.numbers()
    return {"frechet": math.nan, "modes": 0.0}


def report(rescues: Sequence[Rescue]) -> tuple[str, bool]:
    """The shares as text, and whether the bar is passed."""
    lost = [each for each in rescues if each.lost]
    saved = [each for each in lost if each.saved]
    share = len(saved) / len(lost) if lost else 0.0
    lines = [f"{len(rescues)} runs with too high rates; {len(lost)} are lost when nothing is done"]
    for part in ("fault", "setup"):
        right, all_of = (Counter(getattr(each, part) for each in some) for some in (saved, lost))
        lines += [f"  {name:<30}{right[name]:>4} of {number}" for name, number in all_of.items()]
    low, high = wilson(len(saved), len(lost), CONFIDENCE)
    lines.append(
        f"saved {len(saved)} of {len(lost)}: {share:.2f} ({100 * CONFIDENCE:.0f} % confidence: {low:.2f} to {high:.2f})"
    )
    return "\n".join(lines), share >= LEAST


HEADING = f"{'setup':<30}{'rates':<12}{'seed':>5}{'lost':>6}{'saved':>7}{'frechet':>10}{'modes':>7}  back to"


def line(each: Rescue) -> str:
    """A row of the table."""
    numbers = f"{each.lost:>6}{each.saved:>7}{each.scores['frechet']:>10.3g}{each.scores['modes']:>7.0f}"
    targets = ", ".join(map(str, each.targets)) or "-"
    return f"{each.setup:<30}{each.fault:<12}{each.seed:>5}{numbers}  {targets}  {each.diagnosis}".rstrip()
