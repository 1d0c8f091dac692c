"""What an iteration takes on W workers and a link, from one worker's and the list of its all-reduces.

A ring all-reduce of n bytes over W workers takes 2 (W - 1) messages of n / W bytes one after the other (Patarasuk and
Yuan 2009, section 3): 2 (W - 1) (latency + n / (W bandwidth)).
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Between two workers.

    Attributes:
        latency: of a message, seconds; with gloo it holds the CPU's work for it.
        bandwidth: bytes per second.
    """

    latency: float
    bandwidth: float

    def all_reduce(self, size: float, workers: int) -> float:
        """Seconds of one all-reduce of `size` bytes."""
        return 2 * (workers - 1) * (self.latency + size / (workers * self.bandwidth))


@dataclass(frozen=True)
class Prediction:
    """Of one iteration.

    Attributes:
        workers: W.
        compute: seconds without communication.
        communication: seconds of all its all-reduces.
    """

    workers: int
    compute: float
    communication: float

    @property
    def seconds(self) -> float:
        """Of an iteration in which nothing overlaps: the cautious figure."""
        return self.compute + self.communication

    @property
    def at_best(self) -> float:
        """Of an iteration in which all of the shorter one hides behind the longer."""
        return max(self.compute, self.communication)


def predict(
    compute: float, reductions: Sequence[float], link: Link, workers: int, *, crowding: float = 1.0
) -> Prediction:
    """An iteration on `workers` workers.

    Args:
        compute: seconds of one worker's iteration at its share of the batch, alone.
        reductions: bytes of each all-reduce of an iteration.
        link: between neighbors in the ring.
        workers: W.
        crowding: how much slower a worker computes because others share its processor: 1 where each has its own.
    """
    communication = sum(link.all_reduce(size, workers) for size in reductions) if workers > 1 else 0.0
    return Prediction(workers, compute * crowding, communication)


def crowding(workers: int, threads: int, cores: int) -> float:
    """How much slower workers of one machine compute when they want more cores than it has."""
    return max(1.0, workers * threads / cores)


def fit_link(times: Sequence[tuple[float, float]], workers: int) -> Link:
    """The link that explains measured all-reduces best: least squares of relative errors.

    Args:
        times: bytes and seconds of all-reduces of at least two sizes.
        workers: that took part.

    Returns:
        A link whose latency is at least 0 and whose bandwidth is positive.
    """
    # seconds = a + b bytes; each row is divided by its seconds, so that short ones count as much as long ones.
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
