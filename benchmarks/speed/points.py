"""A measured number of workers."""

from dataclasses import dataclass

from benchmarks.speed.measure import Spread


@dataclass(frozen=True)
class Point:
    """Measurements with one number of workers.

    Attributes:
        mode: "weak" (the same batch per worker) or "strong" (the same global batch).
        workers: number of workers.
        images_per_second: of all workers, median.
        milliseconds: per iteration.
        efficiency: speed over that of as many single workers, paired within rounds.
        communication: share of the iteration that is saved without the reduction of gradients.
        predicted: milliseconds per iteration, predicted from one worker's time and the link without overlap.
        at_best: the same with full overlap of communication and compute.
    """

    mode: str
    workers: int
    images_per_second: float
    milliseconds: Spread
    efficiency: Spread
    communication: float
    predicted: float
    at_best: float
