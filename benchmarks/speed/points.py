"""What is known of one number of workers."""

from dataclasses import dataclass

from benchmarks.speed.measure import Spread


@dataclass(frozen=True)
class Point:
    """One number of workers, measured.

    Attributes:
        mode: "weak" (the same batch per worker) or "strong" (the same global batch).
        workers: their number.
        images_per_second: of all, median.
        milliseconds: per iteration.
        efficiency: speed over that of as many single workers, paired within rounds.
        communication: share of the iteration that goes when gradients are not reduced.
        predicted: milliseconds per iteration that one worker's own time and the link foretell, nothing overlapping.
        at_best: the same if communication and compute hide behind each other.
    """

    mode: str
    workers: int
    images_per_second: float
    milliseconds: Spread
    efficiency: Spread
    communication: float
    predicted: float
    at_best: float
