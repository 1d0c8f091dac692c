"""Rank 0's trackers: run folder, W&B, TensorBoard, console, behind one interface."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ganscale.evaluation.evaluator import store_evaluation
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.health.policy import Decision
from ganscale.parallel.phase import phase
from ganscale.run.callback import Callback
from ganscale.run.samples import SampleRenderer
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import CheckpointTracker, DetailedTracker, EventTracker, Histogram, Tracker
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.training.loop import Tick
from ganscale.training.statistics import LOGIT_EDGES

if TYPE_CHECKING:
    from ganscale.run.session import Session

T = TypeVar("T", bound=Tracker)


class TrackerGroup:
    """A run's trackers. One that cannot write (a full disk) stops neither training nor the other trackers.

    Args:
        trackers: all of them, the console among them.
        info: takes a line for the log.
        details: whether trackers that support it get histograms and further pictures (`log.details`).
    """

    def __init__(self, trackers: Sequence[Tracker], info: Callable[[str], None], *, details: bool = False) -> None:
        self.info = info
        self._trackers, self._details = trackers, details

    def row(self, tick: Tick, metrics: Mapping[str, float]) -> None:
        """Track a tick's numbers, and histograms of D's logits.

        Args:
            tick: with the histograms.
            metrics: the numbers, by name.
        """
        self._each(self._trackers, lambda tracker: tracker.log(tick.images, metrics))
        counts = tick.histograms.items()
        self._detail(tick.images, {}, {f"{side}_logits": Histogram(each, LOGIT_EDGES) for side, each in counts})

    def decided(self, images: int, decision: Decision) -> None:
        """Track a health verdict and what follows from it.

        Args:
            images: so far.
            decision: what follows.
        """
        if decision.action == "continue":
            return
        kind = decision.kind if decision.action == "warn" else f"{decision.kind}, {decision.action}"
        takers = (tracker for tracker in self._trackers if isinstance(tracker, EventTracker))
        self._each(takers, lambda tracker: tracker.event(images, kind, decision.text))

    def evaluated(self, evaluation: Evaluation, folder: RunDir) -> None:
        """Store scores, with their protocol, in the run folder.

        Args:
            evaluation: the scores.
            folder: the run's.
        """
        self.info(f"evaluation at {evaluation.images:,} images, {evaluation.line()}")
        try:
            store_evaluation(evaluation, folder.evaluations)
        except OSError as error:
            self.info(f"the evaluation could not be stored ({error}); training continues")

    def show(self, images: int, renderer: SampleRenderer) -> None:
        """Track the sample grid.

        Args:
            images: so far.
            renderer: draws it.
        """
        picture = renderer.render()
        self._each(self._trackers, lambda tracker: tracker.samples(images, picture))
        if self._details:
            self._detail(images, renderer.details(first=images == 0), {})

    def saving(self, images: int) -> None:
        """Announce that a checkpoint is about to be written.

        Args:
            images: so far.
        """
        self._each(self._savers(), lambda tracker: tracker.saving(images))

    def saved(self, images: int, path: Path, store: CheckpointStore) -> None:
        """Announce a new checkpoint.

        Args:
            images: so far.
            path: its folder.
            store: the run's checkpoints.
        """
        best = store.best()
        is_best = best is not None and best.images == images
        self._each(self._savers(), lambda tracker: tracker.saved(images, path, best=is_best))

    def rewind(self, images: int) -> None:
        """Take back the rows after a rollback's target, where a tracker can.

        Args:
            images: of the target.
        """
        self._each((each for each in self._trackers if isinstance(each, JsonlTracker)), lambda t: t.rewind(images))

    def close(self, *, completed: bool) -> None:
        """Close all trackers.

        Args:
            completed: whether the run reached its last image.
        """
        self._each(self._trackers, lambda tracker: tracker.close(completed=completed))

    def _savers(self) -> Iterable[CheckpointTracker]:
        return (tracker for tracker in self._trackers if isinstance(tracker, CheckpointTracker))

    def _detail(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        if self._details:
            takers = (tracker for tracker in self._trackers if isinstance(tracker, DetailedTracker))
            self._each(takers, lambda tracker: tracker.details(images, pictures, histograms))

    def _each(self, trackers: Iterable[T], action: Callable[[T], None]) -> None:
        with phase("tracking"):
            for tracker in trackers:
                try:
                    action(tracker)
                except OSError as error:
                    self.info(f"{type(tracker).__name__} could not write ({error}); training continues")


class TrackerCallback(Callback):
    """Rank 0: tracks rows, evaluations, health events and samples.

    Args:
        group: the trackers.
        folder: the run's, for evaluations.
        renderer: draws sample grids; None for none.
    """

    def __init__(self, group: TrackerGroup, folder: RunDir, *, renderer: SampleRenderer | None = None) -> None:
        self._group, self._folder, self._renderer = group, folder, renderer

    def on_start(self, session: "Session") -> None:
        """Show samples of the initial generator."""
        if session.images == 0:
            self._show(0)

    def on_tick(self, tick: Tick, session: "Session") -> None:
        """Track what the tick has."""
        if tick.is_stop_only:
            return
        if session.evaluation:
            self._group.evaluated(session.evaluation, self._folder)
        self._group.row(tick, session.metrics)
        self._group.decided(tick.images, session.decision)
        if session.decision.action == "rollback":
            self._group.rewind(session.decision.target)
        elif session.decision.action == "stop" or tick.is_due("samples", "end"):
            self._show(tick.images)

    def on_end(self, session: "Session", *, completed: bool) -> None:
        """Close the trackers."""
        self._group.close(completed=completed)

    def _show(self, images: int) -> None:
        if self._renderer:
            with phase("sample grid"):
                self._group.show(images, self._renderer)
