"""`python -m benchmarks.speed growth`: cost of random streams, sampler and log per replica over the world size."""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.command import configs_of, markdown, write_json
from benchmarks.speed.counting import fake_world
from benchmarks.speed.measure import machine
from benchmarks.speed.scaling import resized
from ganscale.config import Config
from ganscale.data.order import AHEAD
from ganscale.parallel.collectives import Replica
from ganscale.training.batches import BatchSampler, updates_ahead
from ganscale.training.build import build
from ganscale.training.statistics import Statistics, Window

WORLDS = (1, 16, 256, 1024)


class OperationCounter(TorchDispatchMode):
    """Counts torch's operators in the `with` block, and the numbers they return."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        for value in out if isinstance(out, tuple | list) else (out,):
            self.numbers += value.numel() if isinstance(value, torch.Tensor) else 0
        return out


@dataclass(frozen=True)
class Cost:
    """Cost of one of `world_size` replicas apart from its networks, at a fixed number of rows per replica.

    Attributes:
        world_size: number of replicas.
        rows: of this replica.
        batch: microseconds per row for examples, their order and z.
        log: microseconds per row of the log, without communication.
        operators: torch operators per batch, mean over iterations.
        numbers: numbers that these operators return.
        log_operators: torch operators per row of the log.
    """

    world_size: int
    rows: int
    batch: float
    log: float
    operators: float
    numbers: float
    log_operators: int


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(torch.device("cpu")), "growth": {}}
    for title, config in configs_of(options).items():
        costs = [cost(config, world_size, repetitions=options.repetitions) for world_size in WORLDS]
        print(f"{title}: {config.train.batch_size} rows per replica\n\n{table(costs)}")
        report["growth"][title] = [asdict(each) for each in costs]
    write_json(options.json, report)
    return 0


def cost(config: Config, world_size: int, *, repetitions: int) -> Cost:
    """Measure the cost of the last replica.

    Args:
        config: of the run; `train.batch_size` is the number of rows per replica.
        world_size: number of replicas.
        repetitions: number of timings, whose median is reported.
    """
    statistics = _statistics(config)
    config = resized(config, config.train.batch_size * world_size, world_size, config.cluster.cpus_per_worker)
    with fake_world(world_size):
        experiment = build(config, replica=Replica(world_size - 1, world_size))
        sampler = experiment.sampler
        rows = sum(stop - start for start, stop in sampler.rows) * sampler.d_steps
        tick = _tick(statistics, sampler.images_per_iteration, experiment.reference)
        ahead = [updates_ahead(stop - start, config.model.latent_dim) for start, stop in sampler.rows]
        iterations = math.lcm(-(-AHEAD // rows), *ahead)
        batches = _batch_reader(sampler, iterations)
        batches()
        tick()
        with OperationCounter() as data:
            batches()
        with OperationCounter() as log:
            tick()
        return Cost(
            world_size=world_size,
            rows=rows,
            batch=1e6 * _seconds(batches, repetitions) / (rows * iterations),
            log=1e6 * _seconds(tick, repetitions),
            operators=data.operators / iterations,
            numbers=data.numbers / iterations,
            log_operators=log.operators,
        )


def _batch_reader(sampler: BatchSampler, iterations: int) -> Callable[[], None]:
    """A function that prepares the batches of the next `iterations` iterations at each call."""
    images = itertools.count(0, sampler.images_per_iteration)

    def read() -> None:
        for _ in range(iterations):
            sampler.batches(next(images))

    return read


def _seconds(action: Callable[[], Any], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return median(times)


def _statistics(config: Config) -> Statistics:
    """Logging statistics of an iteration on one replica; their size does not depend on the world size."""
    experiment = build(config)
    return experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0, details=True))


def _tick(statistics: Statistics, images_per_iteration: int, reference: Sequence[float]) -> Callable[[], Any]:
    """A function that reduces the statistics of an iteration to a row of the log."""

    def tick() -> Any:
        window = Window()
        window.add(statistics)
        return window.close(statistics, images_per_iteration, reference)

    return tick


def table(costs: Sequence[Cost]) -> str:
    """Format the costs as a Markdown table.

    Args:
        costs: by world size.
    """
    rows = [("world", "batch, us/row", "log row, us", "operators", "numbers", "log operators")]
    for c in costs:
        counts = (f"{c.operators:.2f}", f"{c.numbers:,.0f}", str(c.log_operators))
        rows.append((f"{c.world_size:,}", f"{c.batch:.3f}", f"{c.log:.0f}", *counts))
    return markdown(rows)
