"""Predicts the time of an iteration on W workers from one worker's time, its all-reduces and the link.

A ring all-reduce of n bytes over W workers takes 2 (W - 1) consecutive messages of n / W bytes (Patarasuk and
Yuan 2009, section 3): 2 (W - 1) (latency + n / (W bandwidth)).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """The connection between two workers.

    Attributes:
        latency: of a message, seconds, including the CPU's work with gloo.
        bandwidth: bytes per second.
    """

    latency: float
    bandwidth: float

    def all_reduce(self, size: float, workers: int) -> float:
        """Seconds of one ring all-reduce.

        Args:
            size: bytes.
            workers: number of workers.
        """
        return 2 * (workers - 1) * (self.latency + size / (workers * self.bandwidth))


@dataclass(frozen=True)
class Prediction:
    """Predicted time of one iteration.

    Attributes:
        workers: number of workers.
        compute: seconds without communication.
        communication: seconds of its all-reduces.
    """

    workers: int
    compute: float
    communication: float

    @property
    def seconds(self) -> float:
        """Seconds without overlap of compute and communication."""
        return self.compute + self.communication

    @property
    def at_best(self) -> float:
        """Seconds with full overlap of compute and communication."""
        return max(self.compute, self.communication)


def predict(
    compute: float, reductions: Sequence[float], link: Link, workers: int, *, crowding: float = 1.0
) -> Prediction:
    """Predict an iteration.

    Args:
        compute: seconds of one worker's iteration with its share of the batch, without communication.
        reductions: bytes of each all-reduce of an iteration.
        link: between neighbors in the ring.
        workers: number of workers.
        crowding: factor of slower compute on a shared processor; 1 if each worker has its own.
    """
    communication = sum(link.all_reduce(size, workers) for size in reductions) if workers > 1 else 0.0
    return Prediction(workers, compute * crowding, communication)


def crowding(workers: int, threads: int, cores: int) -> float:
    """Factor of slower compute of workers that use more cores than their machine has.

    Args:
        workers: of the machine.
        threads: per worker.
        cores: of the machine.
    """
    return max(1.0, workers * threads / cores)


def fit_link(times: Sequence[tuple[float, float]], workers: int) -> Link:
    """Fit a link to measured all-reduces by least squares of relative errors.

    Args:
        times: bytes and seconds of all-reduces of at least two sizes.
        workers: number of workers.

    Returns:
        A link whose latency is at least 0 and whose bandwidth is positive.
    """
    # seconds = a + b bytes; dividing each row by its seconds gives relative errors.
    rows = [(1.0 / seconds, size / seconds) for size, seconds in times]
    aa = sum(x * x for x, _ in rows)
    ab = sum(x * y for x, y in rows)
    bb = sum(y * y for _, y in rows)
    a0, b0 = sum(x for x, _ in rows), sum(y for _, y in rows)
    determinant = aa * bb - ab * ab
    a, b = (bb * a0 - ab * b0) / determinant, (aa * b0 - ab * a0) / determinant
    if a < 0:
        a, b = 0.0, b0 / bb
    if b <= 0:
        a, b = a0 / aa, 1e-18
    return Link(latency=a / (2 * (workers - 1)), bandwidth=2 * (workers - 1) / (workers * b))
