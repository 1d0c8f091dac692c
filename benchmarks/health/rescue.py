"""Trains runs whose learning rates are far too high, with and without rollbacks, and counts the runs saved.

Healthy runs are trained with rollbacks too: none may be rolled back. Each setup is judged by limits from the others.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch

from benchmarks.health.faults import injected
from benchmarks.health.fit import Fitter
from benchmarks.health.plan import Job
from benchmarks.health.record import Record
from benchmarks.health.score import healthy_runs, is_good
from benchmarks.health.setups import SETUPS, overrides
from ganscale.config import ConfigError, load
from ganscale.evaluation.compare import read_evaluations
from ganscale.health.limits import LIMITS
from ganscale.run.session import run_worker
from ganscale.storage.run_dir import RunDir
from ganscale.sweep.score import wilson
from ganscale.tracking.jsonl import read_rollbacks

FIRST_SEED = 5000
"""Its runs were not used to choose anything."""
RESPONSE = ("health.response=rollback",)
"""All other settings of `health` keep their defaults."""
CHECKPOINTS = 8
"""Per run."""
TOO_HIGH = ("rates-x100", "rates-jump")
"""Faults that raise the learning rates: from the first image on, or from half of the run on."""
CONFIDENCE = 0.95
LEAST = 0.8
"""Required share of the runs lost without rollbacks that end well with them."""


class Rescue(NamedTuple):
    """One setup and seed, with learning rates that are far too high or right.

    Attributes:
        setup: name of the setup.
        fault: name of the fault; empty for a healthy run, which is trained with rollbacks only.
        seed: of both runs.
        lost: whether the run without rollbacks ends badly.
        saved: whether the run with rollbacks ends well.
        targets: images that the rollbacks restored, in order.
        scores: of the last evaluation, with rollbacks.
        diagnosis: the verdict that stopped the run with rollbacks; empty if the run completed.
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
    """The end of a run: last scores, images restored by rollbacks, and the verdict that stopped it, if any."""

    scores: Mapping[str, float]
    targets: tuple[int, ...]
    diagnosis: str


def rescue_all(records: Sequence[Record], *, seeds: int, only: str = "") -> Iterator[Rescue]:
    """Train every setup with every fault of `TOO_HIGH`, and without a fault.

    Args:
        records: of the benchmark; its healthy runs define a good end, and those of the other setups the limits.
        seeds: number of seeds for each pair of setup and fault.
        only: a part of `setup/fault`, or of `setup/healthy`; other pairs are skipped.
    """
    healthy = healthy_runs(records)
    fitter = Fitter(healthy)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for fault in (*TOO_HIGH, ""):
            for setup in SETUPS:
                if only in Job(setup, fault, seed).name:
                    with patch.dict(LIMITS, fitter.limits(setup)):
                        each = rescue(setup, fault, seed, healthy[setup])
                    yield each


def rescue(setup: str, fault: str, seed: int, healthy: Sequence[Record]) -> Rescue:
    """Train one run without rollbacks and, if it is lost, again with them, in temporary folders.

    Args:
        setup: name of the setup.
        fault: name of the fault; empty for a healthy run.
        seed: of both runs.
        healthy: the healthy runs of the setup.
    """
    with tempfile.TemporaryDirectory(prefix="rescue") as folder:
        if not fault:
            end = train(setup, fault, seed, Path(folder) / "with", *RESPONSE)
            return Rescue(setup, fault, seed, False, False, end.targets, end.scores, end.diagnosis)
        without = train(setup, fault, seed, Path(folder) / "without")
        if is_good(without.scores, healthy):
            return Rescue(setup, fault, seed, False, False, (), without.scores)
        end = train(setup, fault, seed, Path(folder) / "with", *RESPONSE)
    saved = not end.diagnosis and is_good(end.scores, healthy)
    return Rescue(setup, fault, seed, True, saved, end.targets, end.scores, end.diagnosis)


def train(setup: str, fault: str, seed: int, path: Path, *response: str) -> End:
    """Train one run in a folder.

    Args:
        setup: name of the setup.
        fault: name of the fault; empty for none.
        seed: of the run.
        path: run folder.
        response: further overrides.
    """
    chosen = SETUPS[setup]
    settings = (
        f"run.dir={path.parent}",
        f"checkpoint.every={chosen.images // CHECKPOINTS}",
        f"log.samples_every={chosen.images}",
        "log.details=false",
        "log.num_samples=4",
        *response,
    )
    config = load(overrides=(*overrides(chosen, seed), *injected(fault, chosen), *settings))
    outcome = run_worker(config, path, device=torch.device("cpu"), echo=False)
    targets = tuple(int(row["to"]) for row in read_rollbacks(RunDir(path)))
    return End(last_scores(path, config.train.images), targets, outcome.diagnosis)


def last_scores(path: Path, images: int) -> Mapping[str, float]:
    """Scores of the evaluation at the end; the worst possible ones if there is none, as with non-finite weights.

    Args:
        path: run folder.
        images: of a complete run.
    """
    with suppress(ConfigError):
        last = read_evaluations(path)[-1]
        if last.images >= images:
            return last.numbers()
    return {"frechet": math.nan, "modes": 0.0}


def report(rescues: Sequence[Rescue]) -> tuple[str, bool]:
    """Describe the shares of lost and saved runs, and the healthy runs that were rolled back.

    Args:
        rescues: of all pairs.

    Returns:
        The text, and whether the share of saved runs is at least `LEAST` and no healthy run was rolled back or stopped.
    """
    high, healthy = ([each for each in rescues if bool(each.fault) is faulty] for faulty in (True, False))
    lost = [each for each in high if each.lost]
    saved = [each for each in lost if each.saved]
    disturbed = [each for each in healthy if each.targets or each.diagnosis]
    lines = [f"{len(high)} runs with too high rates; {len(lost)} are lost without rollbacks"]
    for part in ("fault", "setup"):
        right, all_of = (Counter(getattr(each, part) for each in some) for some in (saved, lost))
        lines += [f"  {name:<30}{right[name]:>4} of {number}" for name, number in all_of.items()]
    lines += [
        f"saved {_share(len(saved), len(lost))}",
        f"healthy runs rolled back or stopped: {_share(len(disturbed), len(healthy))}",
    ]
    return "\n".join(lines), len(saved) >= LEAST * len(lost) and not disturbed


def _share(part: int, number: int) -> str:
    """Such as `3 of 4: 0.75 (95 % confidence: 0.30 to 0.95)`."""
    if not number:
        return "none were trained"
    low, high = wilson(part, number, CONFIDENCE)
    return f"{part} of {number}: {part / number:.2f} ({100 * CONFIDENCE:.0f} % confidence: {low:.2f} to {high:.2f})"


HEADING = f"{'setup':<30}{'rates':<12}{'seed':>5}{'lost':>6}{'saved':>7}{'frechet':>10}{'modes':>7}  rolled back to"


def line(each: Rescue) -> str:
    """A row of the table under `HEADING`.

    Args:
        each: one setup and seed.
    """
    numbers = f"{each.lost:>6}{each.saved:>7}{each.scores['frechet']:>10.3g}{each.scores['modes']:>7.0f}"
    targets = ", ".join(map(str, each.targets)) or "-"
    rates = each.fault or "healthy"
    return f"{each.setup:<30}{rates:<12}{each.seed:>5}{numbers}  {targets}  {each.diagnosis}".rstrip()
