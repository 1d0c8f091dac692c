"""Whether a roll-back saves a run whose rates are far too high: the same runs with and without it."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from ganscale.comparison import read_evaluations
from ganscale.config import load
from ganscale.healthbench.faults import FAULTS
from ganscale.healthbench.record import Record
from ganscale.healthbench.score import is_good, sound_twins
from ganscale.healthbench.setups import SETUPS, overrides
from ganscale.runfolder import RunFolder
from ganscale.runtime.watch import read_rollbacks
from ganscale.runtime.worker import run_worker

FIRST_SEED = 2000
FAULT = "rates-x100"
RESPONSE = ("health.response=rollback", "health.rate_factor=0.1")
"""Rates that are a hundred times too high need more than the default's careful steps."""
IMAGES = {"ring-mlp-non_saturating": 100_000, "ring-mlp-hinge": 100_000, "ring-mlp-relativistic": 100_000}
"""Setups that such rates always lose, and lengths after which their sound runs have long learned."""
LEAST = 0.8
"""The bar: share of the runs that diverge without roll-back and end well with it."""


class Rescue(NamedTuple):
    """One setup and seed with far too high rates.

    Attributes:
        setup: name of the setup.
        seed: of both runs.
        lost: whether it ends badly when nothing is done.
        saved: whether it ends well with roll-backs.
        rollbacks: how many it took.
        scores: of its last evaluation, with roll-backs.
    """

    setup: str
    seed: int
    lost: bool
    saved: bool
    rollbacks: int
    scores: Mapping[str, float]


def rescue_all(records: Sequence[Record], *, runs: int) -> Iterator[Rescue]:
    """Try the setups of `IMAGES` with seeds of their own.

    Args:
        records: of the benchmark; its sound runs say what ending well is.
        runs: number of seeds for each setup.
    """
    twins = sound_twins(records)
    for seed in range(FIRST_SEED, FIRST_SEED + runs):
        yield from (rescue(setup, seed, twins[setup]) for setup in IMAGES)


def rescue(setup: str, seed: int, twins: Sequence[Record]) -> Rescue:
    """Train one run twice, in folders that do not stay."""
    with tempfile.TemporaryDirectory(prefix="rescue") as folder:
        without, _ = _train(setup, seed, Path(folder) / "without")
        scores, rollbacks = _train(setup, seed, Path(folder) / "with", *RESPONSE)
    return Rescue(setup, seed, not is_good(without, twins), is_good(scores, twins), rollbacks, scores)


def _train(setup: str, seed: int, path: Path, *response: str) -> tuple[Mapping[str, float], int]:
    """Scores of the last evaluation, and the number of roll-backs; a run that was stopped has no scores that count."""
    chosen = replace(SETUPS[setup], images=IMAGES[setup])
    settings = (
        f"run.dir={path.parent}",
        f"checkpoint.every={chosen.images // 8}",
        f"log.samples_every={chosen.images}",
        "log.details=false",
        "log.num_samples=4",
        *response,
    )
    config = load(overrides=(*overrides(chosen, seed), *FAULTS[FAULT].settings(chosen), *settings))
    outcome = run_worker(config, path, device=torch.device("cpu"), echo=False)
    nothing = {"frechet": float("nan"), "modes": 0.0}
    scores = nothing if outcome.diagnosis else max(read_evaluations(path), key=lambda e: e.images).numbers()
    return scores, len(read_rollbacks(RunFolder(path)))


def report(rescues: Sequence[Rescue]) -> tuple[str, bool]:
    """A table as text, and whether the bar is passed."""
    lost = [each for each in rescues if each.lost]
    saved = [each for each in lost if each.saved]
    lines = [f"{'setup':<30}{'seed':>6}{'lost':>6}{'saved':>7}{'roll-backs':>12}{'frechet':>10}{'modes':>7}"]
    lines += map(line, rescues)
    share = len(saved) / len(lost) if lost else 0.0
    lines.append(f"saved {len(saved)} of {len(lost)} runs that are lost without roll-back: {share:.2f}")
    return "\n".join(lines), share >= LEAST


def line(each: Rescue) -> str:
    """A row of the table."""
    counts = f"{each.lost:>6}{each.saved:>7}{each.rollbacks:>12}"
    return f"{each.setup:<30}{each.seed:>6}{counts}{each.scores['frechet']:>10.3g}{each.scores['modes']:>7.0f}"
