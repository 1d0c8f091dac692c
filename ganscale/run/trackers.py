"""Where rank 0's numbers, pictures and words go: run folder, W&B, TensorBoard, console, all through one door."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ganscale.evaluation.evaluator import store_evaluation
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.health.policy import Decision
from ganscale.run.samples import SampleRenderer
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import CheckpointTracker, DetailedTracker, EventTracker, Histogram, Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.training.loop import Tick
from ganscale.training.statistics import LOGIT_EDGES

T = TypeVar("T", bound=Tracker)


class TrackerGroup:
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
        if decision.action == "continue":
            return
        kind = decision.kind if decision.action == "warn" else f"{decision.kind}, {decision.action}"
        takers = (tracker for tracker in self._trackers if isinstance(tracker, EventTracker))
        self._each(takers, lambda tracker: tracker.event(images, kind, decision.text))

    def evaluated(self, evaluation: Evaluation, folder: RunDir) -> None:
        """Scores, with their protocol, into the run folder."""
        self._console.info(f"evaluation at {evaluation.images:,} images, {evaluation.line()}")
        try:
            store_evaluation(evaluation, folder.evaluations)
        except OSError as error:
            self._console.info(f"the evaluation could not be stored ({error}); training goes on")

    def show(self, images: int, renderer: SampleRenderer) -> None:
        """The sample grid."""
        picture = renderer.render()
        self._each(self._trackers, lambda tracker: tracker.samples(images, picture))
        if self._details:
            self._detail(images, renderer.details(first=images == 0), {})

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

    def rewind(self, tracker: JsonlTracker, images: int) -> None:
        """Take back what lies behind a rollback."""
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
                self._console.info(f"{type(tracker).__name__} could not write ({error}); training goes on")
