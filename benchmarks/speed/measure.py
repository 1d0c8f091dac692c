"""Times alternating short blocks of training, A B C C B A ..., and compares blocks of the same round.

The speed of a machine drifts with load and temperature. Blocks of one round share this drift, so that their ratio
varies less than that of two long runs.
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

import numpy as np
import torch

from ganscale.training.build import Experiment
from ganscale.training.loop import train
from ganscale.training.transactions import Transactions


class Contender(ABC):
    """A training loop that runs in blocks; each block continues the previous one.

    Args:
        experiment: the run to measure.
    """

    name: str

    def __init__(self, experiment: Experiment) -> None:
        self.batch_size = experiment.config.train.batch_size
        self.latent_dim = experiment.config.model.latent_dim
        self.device = experiment.device

    @abstractmethod
    def run(self, iterations: int) -> None:
        """Train.

        Args:
            iterations: number of iterations.
        """


class Ganscale(Contender):
    """The loop of a ganscale run: random streams, EMA, metrics every `log.every` images and once per block.

    Args:
        experiment: the run.
        transactions: copies of its state, as with live recovery.
    """

    name = "ganscale"

    def __init__(self, experiment: Experiment, transactions: Transactions | None = None) -> None:
        super().__init__(experiment)
        self.experiment, self._transactions = experiment, transactions

    def run(self, iterations: int) -> None:
        """Train.

        Args:
            iterations: number of iterations.
        """
        state, sampler = self.experiment.state, self.experiment.sampler
        until = state.images + iterations * sampler.images_per_iteration
        intervals = {"log": self.experiment.config.log.every}
        for _ in train(self.experiment, intervals=intervals, until=until, transactions=self._transactions):
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
        """Interpolate linearly between the sorted values.

        Args:
            values: at least one.
        """
        return Spread(*map(float, np.quantile(values, (0.5, 0.1, 0.9, 0.0, 1.0))))


@dataclass(frozen=True)
class Result:
    """Speed of one contender.

    Attributes:
        images_per_second: median over blocks.
        milliseconds: per iteration; quantiles over the means of blocks.
        ratio: speed of the first contender over this one's, quantiles over rounds; None for the first.
        ratios: of the single rounds.
    """

    name: str
    images_per_second: float
    milliseconds: Spread
    ratio: Spread | None
    ratios: tuple[float, ...] = ()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(contenders: Sequence[Contender], *, iterations: int, rounds: int, clock: str = "wall") -> list[Result]:
    """Time `rounds` rounds of one block of `iterations` iterations each, after one warm-up round.

    Args:
        contenders: the loops; ratios compare the first with each other one.
        iterations: length of a block.
        rounds: number of blocks of each contender.
        clock: of `CLOCKS`; "cpu" is the processor time of this process, which other programs do not affect. With one
            thread and no GPU it equals the wall time of an idle machine.
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
    """Summarize times; ratios compare the first contender with each other one.

    Args:
        seconds: per iteration, one number per round, for each contender by name.
        images: per iteration, by name.
    """
    first = next(iter(seconds))
    own = [images[first] / value for value in seconds[first]]
    results = []
    for name, times in seconds.items():
        speeds = [images[name] / value for value in times]
        ratios = () if name == first else tuple(a / b for a, b in zip(own, speeds, strict=True))
        milliseconds = Spread.of([1e3 * value for value in times])
        results.append(
            Result(name, statistics.median(speeds), milliseconds, Spread.of(ratios) if ratios else None, ratios)
        )
    return results


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine: processor, number of CPUs, threads, GPU, versions.

    Args:
        device: that is measured.
    """
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
