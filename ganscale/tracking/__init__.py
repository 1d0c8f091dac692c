"""Protocols of trackers, which record the metrics and pictures of a run on rank 0."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from ganscale.storage.store import Place
    from ganscale.tracking.tables import SampleTable


class Tracker(Protocol):
    """Records metrics and pictures; the x axis is images."""

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Record a row of metrics.

        Args:
            images: images so far, the position on the x axis.
            metrics: numbers by name, which need not be finite.
        """
        ...

    def samples(self, images: int, picture: "np.ndarray") -> None:
        """Record a sample picture.

        Args:
            images: images so far.
            picture: uint8 `[H, W, 3]`.
        """
        ...

    def close(self, *, completed: bool) -> None:
        """Finish; nothing is recorded afterwards.

        Args:
            completed: whether the run reached its last image, or continues in another group (`cluster.recovery: live`).
        """
        ...


class Histogram(NamedTuple):
    """N counts between N + 1 increasing bin edges."""

    counts: Sequence[float]
    edges: Sequence[float]


@runtime_checkable
class DetailedTracker(Tracker, Protocol):
    """A tracker that also records named pictures and histograms."""

    def details(self, images: int, pictures: "Mapping[str, np.ndarray]", histograms: Mapping[str, Histogram]) -> None:
        """Record further pictures and histograms.

        Args:
            images: images so far.
            pictures: uint8 `[H, W, 3]` by name.
            histograms: by name.
        """
        ...


@runtime_checkable
class CheckpointTracker(Tracker, Protocol):
    """A tracker that is notified of checkpoints."""

    def saving(self, images: int) -> None:
        """Called before a checkpoint is written: rows up to its images must be durable when this returns.

        Args:
            images: of the checkpoint.
        """
        ...

    def saved(self, images: int, folder: "Place", *, best: bool) -> None:
        """Called after a checkpoint is written.

        Args:
            images: of the checkpoint.
            folder: of the checkpoint.
            best: whether it is the best by `checkpoint.best_metric`.
        """
        ...


@runtime_checkable
class LateTracker(Tracker, Protocol):
    """A tracker that also records scores which belong to earlier images than the newest row's."""

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Record late scores; called before the row of the tick at which they have come.

        Args:
            scores: numbers of each evaluation by the images that it belongs to, their position on the x axis.
            at: images of the tick, more than all of theirs.
        """
        ...


@runtime_checkable
class TableTracker(Tracker, Protocol):
    """A tracker that also records tables of samples."""

    def table(self, images: int, table: "SampleTable") -> None:
        """Record a table, right after the picture of the same samples.

        Args:
            images: images so far.
            table: a row per sample.
        """
        ...


@runtime_checkable
class EventTracker(Tracker, Protocol):
    """A tracker that records events, such as health verdicts."""

    def event(self, images: int, kind: str, text: str) -> None:
        """Record an event; repeated events are recorded once.

        Args:
            images: images at which it happened.
            kind: a word or two.
            text: a sentence.
        """
        ...
