"""Where rank 0's numbers, pictures and words go: run folder, W&B, TensorBoard, console, all through one door."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ganscale.checkpoint import CheckpointStore
from ganscale.evaluation import store_evaluation
from ganscale.loop import Tick
from ganscale.metrics.result import Evaluation
from ganscale.response import Decision
from ganscale.runfolder import RunFolder
from ganscale.runtime.painter import Painter
from ganscale.step import LOGIT_EDGES
from ganscale.tracking import CheckpointTracker, DetailedTracker, EventTracker, Histogram, Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.local import LocalTracker

T = TypeVar("T", bound=Tracker)


class Outlets:
    """A run's trackers. One that cannot write (a full disk) does not stop training, nor keep the others from it.

    Args:
        trackers: all of them, the console among them.
        console: where is said what could not be written.
        details: whether those that take them get histograms and further pictures (`log.details`).
    """

    def __init__(self, trackers: Sequence[Tracker], console: Console, *, details: bool) -> None:
        self._trackers, self._console, self._details = trackers, console, details

    def row(self, tick: Tick, metrics: dict[str, float]) -> None:
        """A tick's numbers, and histograms of D's logits."""
        self._each(self._trackers, lambda tracker: tracker.log(tick.images, metrics))
        counts = tick.histograms.items()
        self._detail(tick.images, {}, {f"{side}_logits": Histogram(each, LOGIT_EDGES) for side, each in counts})

    def decided(self, images: int, decision: Decision) -> None:
        """A verdict, and what is done about it, to those trackers that take events."""
        if decision.action == "go on":
            return
        kind = decision.kind if decision.action == "warn" else f"{decision.kind}, {decision.action}"
        takers = (tracker for tracker in self._trackers if isinstance(tracker, EventTracker))
        self._each(takers, lambda tracker: tracker.event(images, kind, decision.text))

    def evaluated(self, evaluation: Evaluation, folder: RunFolder) -> None:
        """Scores, with their protocol, into the run folder."""
        self._console.say(f"evaluation at {evaluation.images:,} images, {evaluation.line()}")
        try:
            store_evaluation(evaluation, folder.evaluations)
        except OSError as error:
            self._console.say(f"the evaluation could not be stored ({error}); training goes on")

    def show(self, images: int, painter: Painter) -> None:
        """The sample grid."""
        picture = painter.paint()
        self._each(self._trackers, lambda tracker: tracker.samples(images, picture))
        if self._details:
            self._detail(images, painter.details(first=images == 0), {})

    def saving(self, images: int) -> None:
        """A checkpoint is about to be written."""
        self._each(self._savers(), lambda tracker: tracker.saving(images))

    def saved(self, images: int, path: Path, store: CheckpointStore) -> None:
        """A new checkpoint is there."""
        best = store.best()
        is_best = best is not None and best.images == images
        self._each(self._savers(), lambda tracker: tracker.saved(images, path, best=is_best))

    def close(self, *, completed: bool) -> None:
        """No more will come."""
        self._each(self._trackers, lambda tracker: tracker.close(completed=completed))

    def rewind(self, tracker: LocalTracker, images: int) -> None:
        """Take back what lies behind a roll-back."""
        self._each([tracker], lambda each: each.rewind(images))

    def _savers(self) -> Iterable[CheckpointTracker]:
        return (tracker for tracker in self._trackers if isinstance(tracker, CheckpointTracker))

    def _detail(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        if self._details:
            takers = (tracker for tracker in self._trackers if isinstance(tracker, DetailedTracker))
            self._each(takers, lambda tracker: tracker.details(images, pictures, histograms))

    def _each(self, trackers: Iterable[T], action: Callable[[T], None]) -> None:
        for tracker in trackers:
            try:
                action(tracker)
            except OSError as error:
                self._console.say(f"{type(tracker).__name__} could not write ({error}); training goes on")
