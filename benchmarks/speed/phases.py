"""`python -m benchmarks.speed phases`: time of an iteration by phase, its percentiles, model FLOP utilization."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch

from benchmarks.speed.command import configs_of, device_of, markdown, write_json
from benchmarks.speed.counting import FlopCounter
from benchmarks.speed.measure import Spread, machine
from benchmarks.speed.timeline import Timeline, instrumented, replaced
from benchmarks.speed.utilization import peak_flops
from ganscale.config import Config
from ganscale.training.build import Experiment, build
from ganscale.training.loop import train
from ganscale.training.schedules import PenaltyWeights

PHASES = ("discriminator", "generator", "penalties", "optimizer", "data", "ema", "details", "other")


@dataclass(frozen=True)
class Phases:
    """Time of a run's iterations by phase, on one replica.

    Attributes:
        milliseconds: per iteration, without instrumentation.
        p99: 99th percentile of the milliseconds.
        images_per_second: at the median iteration.
        shares: by phase of `PHASES`, adding up to 1. `details`: statistics for the log, averaged over `log.every`.
        gigaflops: per iteration, counted.
        utilization: share of the GPU's peak; None if that is unknown, as for CPUs.
    """

    milliseconds: Spread
    p99: float
    images_per_second: float
    shares: dict[str, float]
    gigaflops: float
    utilization: float | None


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    torch.set_num_threads(options.threads)
    found: dict[str, Phases] = {}
    report: dict[str, Any] = {}
    for title, config in configs_of(options).items():
        device = device_of(config)
        report.setdefault("machine", machine(device))
        found[title] = phases(config, iterations=options.iterations, rounds=options.rounds, device=device)
        print(f"{title}: {line(found[title])}", flush=True)
    print("\n" + phases_table(found))
    write_json(options.json, {**report, "phases": {title: asdict(each) for title, each in found.items()}})
    return 0


def phases(config: Config, *, iterations: int, rounds: int, device: torch.device) -> Phases:
    """Measure a run's phases.

    Blocks of four kinds alternate: unmodified, instrumented, without penalties, and with the statistics for the log in
    every iteration. The costs of penalties and statistics are differences between blocks of a round.

    Args:
        config: of the run.
        iterations: per block.
        rounds: blocks of each kind, after a warm-up.
        device: to measure on.
    """
    experiment = build(config, device=device)
    times: list[float] = []
    booked: dict[str, list[float]] = {name: [] for name in PHASES}
    ticks = max(1.0, config.log.every / experiment.sampler.images_per_iteration)
    for number in range(rounds + 1):
        plain = _block(experiment, iterations)
        parts = _instrumented(experiment, iterations)
        base, penalties = mean(_block(experiment, iterations)), 0.0
        if _is_penalized(config):
            with replaced(experiment.schedule, "penalties", lambda *_, **__: PenaltyWeights()):
                penalties = max(0.0, base - mean(_block(experiment, iterations)))
        details = max(0.0, mean(_block(experiment, iterations, ticks=True)) - base) / ticks
        if number:
            times += plain
            parts |= {"penalties": penalties, "details": details}
            parts["discriminator"] = max(0.0, parts["discriminator"] - penalties)
            for name in PHASES:
                booked[name].append(parts.get(name, 0.0))
    return _summary(experiment, times, {name: median(values) for name, values in booked.items()})


def _instrumented(experiment: Experiment, iterations: int) -> dict[str, float]:
    """Seconds per iteration, by phase."""
    timeline = Timeline(experiment.device)
    with instrumented(experiment, timeline), timeline.phase("other"):
        _run(experiment, iterations, ticks=False)
        timeline.lap()
    laps = timeline.laps[1:-1]
    return {name: sum(lap.get(name, 0.0) for lap in laps) / len(laps) for name in PHASES}


def _is_penalized(config: Config) -> bool:
    return any(getattr(config.penalty, name) for name in ("gp", "r1", "r2", "dragan", "drift", "lecam", "centering"))


def _summary(experiment: Experiment, times: Sequence[float], parts: dict[str, float]) -> Phases:
    with FlopCounter() as counter:
        _run(experiment, iterations=0, ticks=False)
    middle, whole = median(times), sum(parts.values())
    peak = peak_flops(experiment.device, experiment.config.train.precision)
    return Phases(
        milliseconds=Spread.of([1e3 * value for value in times]),
        p99=1e3 * sorted(times)[min(len(times) - 1, int(0.99 * len(times)))],
        images_per_second=experiment.sampler.images_per_iteration / middle,
        shares={name: value / whole for name, value in parts.items()},
        gigaflops=counter.total / 1e9,
        utilization=counter.total / middle / peak if peak else None,
    )


def _block(experiment: Experiment, iterations: int, *, ticks: bool = False) -> list[float]:
    """Seconds of each iteration; with `ticks`, each iteration computes the statistics for the log."""
    stamps: list[float] = []
    read = experiment.sampler.batches

    def batches(images: int) -> Any:
        if experiment.device.type == "cuda":
            torch.cuda.synchronize(experiment.device)
        stamps.append(time.perf_counter())
        return read(images)

    with replaced(experiment.sampler, "batches", batches):
        _run(experiment, iterations, ticks=ticks)
    return [after - before for before, after in pairwise(stamps)]


def _run(experiment: Experiment, iterations: int, *, ticks: bool) -> None:
    """Train for one more iteration: the loop returns a tick in the last one, which must not be timed."""
    state, sampler = experiment.state, experiment.sampler
    size = sampler.images_per_iteration
    until = state.images + (iterations + 1) * size
    for _ in train(experiment, intervals={"log": size} if ticks else {}, until=until):
        pass


def line(found: Phases) -> str:
    """Format the times as one line.

    Args:
        found: of one run.
    """
    ms = found.milliseconds
    text = f"{found.images_per_second:,.0f} images/s; ms/iteration p10 {ms.p10:.2f}, p50 {ms.median:.2f}, "
    text += f"p90 {ms.p90:.2f}, p99 {found.p99:.2f}; {found.gigaflops / ms.median:.3f} TFLOP/s"
    return text if found.utilization is None else text + f", {100 * found.utilization:.1f} % of the GPU's peak"


def phases_table(found: dict[str, Phases]) -> str:
    """Format the shares of the time as a Markdown table.

    Args:
        found: by title of the run.
    """
    rows = [("run", *PHASES)]
    rows += [(title, *(f"{100 * each.shares[name]:.1f} %" for name in PHASES)) for title, each in found.items()]
    return markdown(rows)
