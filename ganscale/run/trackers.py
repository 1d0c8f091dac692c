"""Rank 0's trackers: run folder, W&B, TensorBoard, console, behind one interface."""

from collections.abc import Callable, Sequence
from typing import Any

from ganscale.evaluation.evaluator import store_evaluation
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.parallel.phase import phase
from ganscale.run.callback import Callback
from ganscale.run.samples import SampleRenderer
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place
from ganscale.tracking import (
    CheckpointTracker,
    DetailedTracker,
    EventTracker,
    Histogram,
    LateTracker,
    TableTracker,
    Tracker,
)
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.training.loop import Tick
from ganscale.training.statistics import LOGIT_EDGES


class TrackerCallback(Callback):
    """Rank 0's trackers: rows, evaluations, health events and samples.

    A tracker that cannot write (a full disk) stops neither training nor the other trackers.

    Args:
        trackers: all of them, the console among them.
        folder: the run's, for evaluations.
        info: takes a line for the log.
        renderer: draws sample grids; None for none.
        details: whether trackers that support it get histograms and further pictures (`log.details`).
        tables: whether they get tables of samples (`log.table_samples`).
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        folder: RunDir,
        info: Callable[[str], None] = lambda line: None,
        *,
        renderer: SampleRenderer | None = None,
        details: bool = False,
        tables: bool = False,
    ) -> None:
        self.info = info
        self._trackers, self._folder, self._renderer = trackers, folder, renderer
        self._details, self._tables = details, tables

    def on_start(self, session: Any) -> None:
        """Show samples of the initial generator."""
        if session.images == 0:
            self._show(0)

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Track what the tick has."""
        if tick.is_stop_only:
            return
        images, decision = tick.images, session.decision
        late = session.late_evaluations
        for evaluation in (*late, *([session.evaluation] if session.evaluation else ())):
            self._store(evaluation)
        if late:
            scores = {evaluation.images: evaluation.numbers() for evaluation in late}
            self._each(lambda tracker: tracker.late(scores, at=images), LateTracker)
        self._each(lambda tracker: tracker.log(images, session.metrics))
        if self._details:
            counts = {f"{side}_logits": Histogram(each, LOGIT_EDGES) for side, each in tick.histograms.items()}
            self._each(lambda tracker: tracker.details(images, {}, counts), DetailedTracker)
        if decision.action == "rollback":  # before the event, whose time line counts the rows that this moves
            self._each(lambda tracker: tracker.rewind(decision.target, at=images), JsonlTracker)
        if decision.action != "continue":
            kind = decision.kind if decision.action == "warn" else f"{decision.kind}, {decision.action}"
            self._each(lambda tracker: tracker.event(images, kind, decision.text), EventTracker)
        if decision.action == "stop" or (decision.action != "rollback" and tick.is_due("samples", "end")):
            self._show(images)

    def on_end(self, session: Any, *, completed: bool) -> None:
        """Close the trackers."""
        self._each(lambda tracker: tracker.close(completed=completed))

    def saving(self, images: int) -> None:
        """Announce that a checkpoint is about to be written.

        Args:
            images: so far.
        """
        self._each(lambda tracker: tracker.saving(images), CheckpointTracker)

    def saved(self, images: int, path: Place, *, best: bool) -> None:
        """Announce a new checkpoint.

        Args:
            images: so far.
            path: its folder.
            best: whether it is the best so far.
        """
        self._each(lambda tracker: tracker.saved(images, path, best=best), CheckpointTracker)

    def _store(self, evaluation: Evaluation) -> None:
        self.info(f"evaluation at {evaluation.images:,} images, {evaluation.line()}")
        try:
            store_evaluation(evaluation, self._folder.evaluations)
        except OSError as error:
            self.info(f"the evaluation could not be stored ({error}); training continues")

    def _show(self, images: int) -> None:
        if self._renderer is None:
            return
        with phase("sample grid"):
            picture = self._renderer.render()
            pictures = self._renderer.details(first=images == 0) if self._details else {}
            table = self._renderer.table() if self._tables else None
        self._each(lambda tracker: tracker.samples(images, picture))
        if table:
            self._each(lambda tracker: tracker.table(images, table), TableTracker)
        if self._details:
            self._each(lambda tracker: tracker.details(images, pictures, {}), DetailedTracker)

    def _each(self, action: Callable[[Any], None], kind: type = object) -> None:
        """Call all trackers of a kind."""
        with phase("tracking"):
            for tracker in self._trackers:
                try:
                    if isinstance(tracker, kind):
                        action(tracker)
                except OSError as error:
                    self.info(f"{type(tracker).__name__} could not write ({error}); training continues")
