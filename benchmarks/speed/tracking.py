"""Measures the cost of tracking: the time that a run spends outside of training, as a share of training time."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.command import changed
from benchmarks.speed.measure import Spread
from ganscale.config import Config
from ganscale.run.session import run_worker


@dataclass(frozen=True)
class Cost:
    """Cost of tracking of one run, over periods of `log.samples_every` images.

    Attributes:
        name: of the run.
        share: tracking time over training time.
        milliseconds: of tracking per period.
        seconds: of training per period, median.
    """

    name: str
    share: Spread
    milliseconds: Spread
    seconds: float


class Stopwatch:
    """A tracker that records the time of each row and the training time before it.

    The loop measures its own time between two ticks; the rest is tracking, as long as nothing is saved or evaluated.

    Args:
        images_per_iteration: global batch times D updates.
    """

    def __init__(self, images_per_iteration: int) -> None:
        self._images_per_iteration = images_per_iteration
        self.rows: list[tuple[int, float, float]] = []
        """Images, clock in seconds, seconds of training since the previous row."""

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Record the time (a `Tracker`)."""
        iterations = (images - (self.rows[-1][0] if self.rows else 0)) / self._images_per_iteration
        self.rows.append((images, time.perf_counter(), iterations * metrics["seconds_per_iteration"]))

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Ignore pictures."""

    def close(self, *, completed: bool) -> None:
        """Nothing to close."""


def tracking_cost(name: str, config: Config, *, periods: int, device: torch.device) -> Cost:
    """Train with the trackers of a config and measure their cost.

    Args:
        name: of the run.
        config: of the run; its length, evaluations and checkpoints are replaced.
        periods: of `log.samples_every` images, after a warm-up period.
        device: to train on.
    """
    length = (periods + 1) * config.log.samples_every
    with tempfile.TemporaryDirectory() as folder:
        config = changed(
            config,
            train={"images": length},
            eval={"every": 0},
            checkpoint={"every": length, "best_metric": ""},
            run={"dir": folder},
        )
        watch = Stopwatch(config.train.batch_size * config.optim.d_steps)
        run_worker(config, Path(folder) / config.run.name, device=device, echo=False, trackers=[watch])
    return cost_of(name, watch.rows, config.log.samples_every)


def cost_of(name: str, rows: Sequence[tuple[int, float, float]], every: int) -> Cost:
    """Cost per period from the rows of a stopwatch; the first period is a warm-up.

    Args:
        name: of the run.
        rows: of `Stopwatch`.
        every: images per period.
    """
    images = [0, *(row[0] for row in rows)]
    ends = [index for index, (before, after) in enumerate(pairwise(images)) if after // every > before // every]
    training, tracking = [], []
    for first, last in pairwise(ends):
        trained = sum(seconds for _, _, seconds in rows[first + 1 : last + 1])
        training.append(trained)
        tracking.append(rows[last][1] - rows[first][1] - trained)
    shares = [a / b for a, b in zip(tracking, training, strict=True)]
    return Cost(name, Spread.of(shares), Spread.of([1e3 * each for each in tracking]), Spread.of(training).median)


def cost_table(costs: Sequence[Cost]) -> str:
    """Format the costs as a Markdown table.

    Args:
        costs: one per run.
    """
    lines = ["| run | training per period | tracking per period, ms p50 (p10, p90) | share, median [min..max] |"]
    lines.append("|---|---|---|---|")
    for cost in costs:
        ms, share = cost.milliseconds, cost.share
        figures = f"{ms.median:.1f} ({ms.p10:.1f}, {ms.p90:.1f})"
        percent = f"{100 * share.median:.2f} % [{100 * share.min:.2f}..{100 * share.max:.2f}]"
        lines.append(f"| {cost.name} | {cost.seconds:.2f} s | {figures} | {percent} |")
    return "\n".join(lines)
