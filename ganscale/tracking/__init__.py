"""Where numbers and pictures go. Rank 0 alone tracks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


class Tracker(Protocol):
    """A place for a run's numbers and pictures; the x axis is images."""

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Keep a row of numbers."""
        ...

    def samples(self, images: int, picture: "np.ndarray") -> None:
        """Keep a picture: uint8 `[H, W, 3]`."""
        ...

    def close(self, *, completed: bool) -> None:
        """Finish; `completed` tells whether the run reached its end."""
        ...


class Histogram(NamedTuple):
    """How many values lie in each bin: N counts between N + 1 rising edges."""

    counts: Sequence[float]
    edges: Sequence[float]


@runtime_checkable
class DetailedTracker(Tracker, Protocol):
    """A tracker that also takes pictures by name and histograms."""

    def details(self, images: int, pictures: "Mapping[str, np.ndarray]", histograms: Mapping[str, Histogram]) -> None:
        """Keep pictures, uint8 `[H, W, 3]`, and histograms, each under its name."""
        ...


@runtime_checkable
class CheckpointTracker(Tracker, Protocol):
    """A tracker that is told of checkpoints."""

    def saving(self, images: int) -> None:
        """A checkpoint of this moment is about to be written: what was tracked up to here should be safe by now."""
        ...

    def saved(self, images: int, folder: Path, *, best: bool) -> None:
        """A checkpoint lies there; `best` tells whether it is the best so far by `checkpoint.best_metric`."""
        ...


@runtime_checkable
class EventTracker(Tracker, Protocol):
    """A tracker that is told what happened to a run, such as a health verdict."""

    def event(self, images: int, kind: str, text: str) -> None:
        """Keep an event: one word or two for its kind, a sentence for people. The same event twice counts once."""
        ...
