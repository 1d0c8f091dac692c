"""Short blocks of training in turn, A B C C B A ..., and ratios of blocks that ran next to each other.

The machine's speed drifts with its other work and its temperature; blocks of one round share that, so that the ratio
within a round says more than two long runs one after the other.
"""

import gc
import os
import platform
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganscale.training.build import Experiment
from ganscale.training.loop import train


class Contender(ABC):
    """A training loop that can be run in blocks, going on where its last block stopped."""

    name: str

    def __init__(self, experiment: Experiment) -> None:
        self.batch_size = experiment.config.train.batch_size
        self.latent_dim = experiment.config.model.latent_dim
        self.device = experiment.device

    @abstractmethod
    def run(self, iterations: int) -> None:
        """Train for some iterations."""


class Ganscale(Contender):
    """ganscale's own loop as a run has it: random streams, EMA, metrics every `log.every` images and once per block."""

    name = "ganscale"

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.experiment = experiment

    def run(self, iterations: int) -> None:
        """Train for some iterations."""
        state, sampler = self.experiment.state, self.experiment.sampler
        until = state.images + iterations * sampler.images_per_iteration
        intervals = {"log": self.experiment.config.log.every}
        for _ in train(self.experiment, intervals=intervals, until=until):
            pass


@dataclass(frozen=True)
class Spread:
    """Quantiles of a sample."""

    median: float
    p10: float
    p90: float
    min: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Linear interpolation between the sorted values, which may be a single one."""
        ordered = sorted(values)

        def quantile(q: float) -> float:
            place = q * (len(ordered) - 1)
            low = int(place)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

        return Spread(statistics.median(ordered), quantile(0.1), quantile(0.9), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Result:
    """What one contender did.

    Attributes:
        images_per_second: median over blocks.
        milliseconds: per iteration; quantiles over the means of blocks.
        ratio: speed of the first contender over this one's, quantiles over rounds; None for the first itself.
    """

    name: str
    images_per_second: float
    milliseconds: Spread
    ratio: Spread | None


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(contenders: Sequence[Contender], *, iterations: int, rounds: int, clock: str = "wall") -> list[Result]:
    """Time `rounds` rounds of one block of `iterations` iterations each, after one round that is not counted.

    Args:
        contenders: the loops; ratios are of the first one's speed.
        iterations: length of a block.
        rounds: number of blocks of each contender.
        clock: of `CLOCKS`; "cpu" counts this process's processor time, so that it does not see other programs' share of
            the machine. With one thread and no GPU it is the wall time of an idle machine.
    """
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    gc.collect()
    for number in range(rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            elapsed = _block(contender, iterations, CLOCKS[clock])
            if number:
                seconds[contender.name].append(elapsed / iterations)
    return summarize(seconds, {contender.name: contender.batch_size for contender in contenders})


def _block(contender: Contender, iterations: int, clock: Callable[[], float]) -> float:
    _wait(contender.device)
    started = clock()
    contender.run(iterations)
    _wait(contender.device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summarize(seconds: Mapping[str, Sequence[float]], images: Mapping[str, int]) -> list[Result]:
    """Results in the order given, the first being the one that the ratios are of.

    Args:
        seconds: per iteration, one number per round, for each contender by name.
        images: per iteration, by name.
    """
    first = next(iter(seconds))
    own = [images[first] / value for value in seconds[first]]
    results = []
    for name, times in seconds.items():
        speeds = [images[name] / value for value in times]
        ratio = None if name == first else Spread.of([a / b for a, b in zip(own, speeds, strict=True)])
        milliseconds = Spread.of([1e3 * value for value in times])
        results.append(Result(name, statistics.median(speeds), milliseconds, ratio))
    return results


def machine(device: torch.device) -> dict[str, Any]:
    """What figures depend on: processor, its count, threads, GPU, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
