"""Measures what evaluation costs training: the same run without, with `eval.mode: async` and inline, alternating.

A period is `eval.every` images. The first two of each run are a warm-up: the first is evaluated at its end, and in the
second the process of its own starts.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.command import BenchError, changed, configs_of, device_of, markdown, write_json
from benchmarks.speed.measure import Spread, machine
from ganscale.config import Config
from ganscale.run.session import run_worker

MODES = ("none", "async", "inline")
WARM_UP = 2


@dataclass(frozen=True)
class Cost:
    """A run's cost with one way to evaluate.

    Attributes:
        mode: of `MODES`.
        images_per_second: of wall time, over all periods.
        milliseconds: processor time of the training process per 1,000 images, over all periods.
        wall: wall time of a round's periods over that without evaluation in the same round, less 1.
        cpu: the same of processor time.
        evaluations: done and skipped in all rounds.
    """

    mode: str
    images_per_second: Spread
    milliseconds: Spread
    wall: Spread
    cpu: Spread
    evaluations: tuple[int, int]


class Clock:
    """A tracker that records wall and processor time at each row."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []
        """Images, clock and processor time in seconds."""
        self.skipped = 0

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Record the times (a `Tracker`)."""
        self.rows.append((images, time.perf_counter(), time.process_time()))
        self.skipped = int(metrics.get("evaluations_skipped", 0))

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Ignore pictures."""

    def close(self, *, completed: bool) -> None:
        """Nothing to close."""


def periods_of(rows: Sequence[tuple[int, float, float]], every: int) -> list[tuple[float, float]]:
    """Wall and processor time of each period after the warm-up, from the rows of a `Clock`.

    Args:
        rows: images, clock and processor time.
        every: images per period.
    """
    ends = [row for row in rows if row[0] % every == 0]
    return [(after[1] - before[1], after[2] - before[2]) for before, after in pairwise(ends)][WARM_UP - 1 :]


def run_once(config: Config, mode: str, *, periods: int) -> tuple[list[tuple[float, float]], tuple[int, int]]:
    """Train with one way to evaluate; return the periods' times, and the evaluations done and skipped.

    Args:
        config: of the run.
        mode: of `MODES`.
        periods: to measure, after the warm-up.
    """
    every = config.eval.every
    images = (WARM_UP + periods) * every + config.log.every  # the end, which waits for evaluations, is not measured
    with tempfile.TemporaryDirectory() as folder:
        config = changed(
            config,
            run={"dir": folder},
            train={"images": images},
            log={"samples_every": images},
            checkpoint={"every": images, "best_metric": ""},
            wandb={"mode": "disabled"},
            eval={"every": 0} if mode == "none" else {"mode": mode},
        )
        clock = Clock()
        path = Path(folder) / config.run.name
        run_worker(config, path, device=device_of(config), echo=False, trackers=[clock])
        done = len(list((path / "evaluations").glob("*.json")))
    return periods_of(clock.rows, every), (done, clock.skipped)


def costs_of(
    rounds: Sequence[Mapping[str, Sequence[tuple[float, float]]]],
    every: int,
    evaluations: Mapping[str, tuple[int, int]],
) -> list[Cost]:
    """What each way to evaluate costs.

    Args:
        rounds: of each round, wall and processor time of the periods by mode.
        every: images per period.
        evaluations: done and skipped, by mode.
    """
    costs = []
    for mode in MODES:
        periods = [period for each in rounds for period in each[mode]]
        wall, cpu = (
            Spread.of([_median(each[mode], part) / _median(each["none"], part) - 1.0 for each in rounds])
            for part in (0, 1)
        )
        costs.append(
            Cost(
                mode,
                Spread.of([every / seconds for seconds, _ in periods]),
                Spread.of([1e6 * seconds / every for _, seconds in periods]),
                wall,
                cpu,
                evaluations[mode],
            )
        )
    return costs


def _median(periods: Sequence[tuple[float, float]], part: int) -> float:
    return statistics.median(period[part] for period in periods)


def table(costs: Sequence[Cost]) -> str:
    """Format the costs as a Markdown table.

    Args:
        costs: one per mode.
    """
    rows: list[tuple[str, ...]] = [
        (
            "evaluation",
            "images/s p50 (p10, p90)",
            "processor ms per 1,000 images p50 (p10, p90)",
            "cost, wall time, median [min..max]",
            "cost, processor time, median [min..max]",
            "evaluations, skipped",
        )
    ]
    for cost in costs:
        speed, cpu = cost.images_per_second, cost.milliseconds
        percent = [
            f"{100 * each.median:+.1f} % [{100 * each.min:+.1f}..{100 * each.max:+.1f}]"
            for each in (cost.wall, cost.cpu)
        ]
        rows.append(
            (
                cost.mode,
                f"{speed.median:,.0f} ({speed.p10:,.0f}, {speed.p90:,.0f})",
                f"{cpu.median:.1f} ({cpu.p10:.1f}, {cpu.p90:.1f})",
                *(percent if cost.mode != "none" else ("", "")),
                f"{cost.evaluations[0]}, {cost.evaluations[1]}",
            )
        )
    return markdown(rows)


def main(options: argparse.Namespace) -> int:
    """Measure the runs and print a table for each.

    Args:
        options: of `parsers`.
    """
    report = {}
    for name, config in configs_of(options).items():
        if not config.eval.every or config.eval.every % config.log.every:
            raise BenchError(f"eval.every = {config.eval.every} is no multiple of log.every = {config.log.every}")
        config = changed(config, cluster={"cpus_per_worker": options.threads}, eval={"cpus": options.threads})
        rounds: list[dict[str, list[tuple[float, float]]]] = []
        evaluations: dict[str, tuple[int, int]] = dict.fromkeys(MODES, (0, 0))
        for index in range(options.rounds):
            found = {}
            for mode in MODES[:: -1 if index % 2 else 1]:
                found[mode], (done, skipped) = run_once(config, mode, periods=options.periods)
                evaluations[mode] = evaluations[mode][0] + done, evaluations[mode][1] + skipped
            rounds.append(found)
        costs = costs_of(rounds, config.eval.every, evaluations)
        print(f"\n{name}: {config.eval.num_samples:,} samples per {config.eval.every:,} images\n\n{table(costs)}")
        report[name] = [asdict(cost) for cost in costs]
    write_json(options.json, {"machine": machine(torch.device("cpu")), "evaluation": report})
    return 0
