"""Rank 0's checkpoints during a run: when they are due, and what happens when the storage fails or is slow."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ganscale.parallel.phase import phase
from ganscale.run.callback import Callback
from ganscale.run.snapshot_writer import Saved, SnapshotWriter
from ganscale.run.stop_signal import StopReason, StopSignal
from ganscale.run.trackers import TrackerCallback
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import optimal_interval
from ganscale.storage.files import write_atomically
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick

SLOW = 0.1
"""Share of the time between two checkpoints above which the pause for saving is logged."""
STOP_REASONS = {
    StopReason.RESIZE: "the number of workers changes",
    StopReason.DRAIN: "the node of a worker is draining",
    StopReason.STOP: "a stop was requested; the same command resumes from here",
    StopReason.STORAGE: "a checkpoint could not be saved (checkpoint.on_failure = stop)",
}


class Checkpointer(Callback):
    """Saves a run's state.

    With `checkpoint.mode: async` a due save only takes a snapshot, which a thread writes; what came of it is handled at
    the next tick, so that trackers are called from the training thread alone. An attempt's last checkpoint is written
    inline, after those before it. A run that may roll back keeps every due checkpoint, as the target must not depend on
    how fast the storage is.

    Args:
        store: the run's checkpoints.
        experiment: the run's objects.
        trackers: hear of checkpoints.
        stop_signal: stops the run when the storage fails, where `checkpoint.on_failure` says so.
        remembered: file that keeps the interval that `checkpoint.every: auto` chose, for later attempts.
    """

    def __init__(
        self,
        store: CheckpointStore,
        experiment: Experiment,
        trackers: TrackerCallback,
        stop_signal: StopSignal,
        *,
        remembered: Path,
    ) -> None:
        self.store = store
        self._experiment, self._trackers, self._stop_signal = experiment, trackers, stop_signal
        config = experiment.config
        self._plain = config.model_dump(mode="json")
        self._writer = SnapshotWriter(self._write) if config.checkpoint.mode == "async" else None
        self._keep_all = config.health.response == "rollback"
        self._since = time.monotonic()
        self._warned = False
        self._remembered = remembered
        self._auto = config.checkpoint.every == "auto"
        self._every = read_interval(remembered) if self._auto else None
        self._speed = 0.0
        self._images = experiment.state.images
        self._scores: dict[int, dict[str, float]] = {}  # of late evaluations, until their checkpoints have them

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Save if it is due, the best so far or perhaps so, or the attempt's last tick."""
        ends = tick.is_final or tick.is_stop or session.decision.action == "stop"
        if ends:
            self.flush()
        else:
            self._collect()
        self._score(session)
        decision, metrics = session.decision, session.metrics
        if decision.action == "rollback":
            return
        if decision.action == "stop":
            self._save(metrics, last=True, suspect=decision.text)
            return
        is_best = bool(session.evaluation) and self.store.is_best(metrics)
        may_be_best = bool(self.store.best_metric) and tick.images in session.pending_evaluations
        due = not tick.is_stop_only and (self._due(tick) or is_best or may_be_best)
        if due:
            self._trackers.saving(tick.images)
        if due and self._writer and not ends:
            self._submit(self._writer, metrics, keep=is_best or may_be_best or self._keep_all)
        elif due:
            saved = self._save(metrics, last=tick.is_final)
            if saved:
                self._trackers.saved(tick.images, saved.path, best=saved.is_best)
        elif tick.is_stop and not (tick.is_stop_only and session.stop_reason == StopReason.STORAGE):
            self._save(metrics, last=False)
        if session.stop_reason and tick.is_stop:
            self._trackers.info(f"stopping at {tick.images:,} images: {STOP_REASONS[session.stop_reason]}")

    def on_end(self, session: Any, *, completed: bool) -> None:
        """Wait for what is being written, also after an error: this process is the run's writer until then."""
        if self._writer:
            with phase("saving"):
                self._writer.close()

    def flush(self) -> None:
        """Wait until all snapshots are written, and handle what came of them.

        Raises:
            LeaseLostError: another process has become the run's writer.
        """
        if self._writer:
            with phase("saving"):
                self._writer.wait()
            self._collect()

    def _score(self, session: Any) -> None:
        """Add the scores of late evaluations to their checkpoints; a checkpoint may have become the best by it."""
        self.store.unscored = session.pending_evaluations
        self._scores |= {evaluation.images: evaluation.numbers() for evaluation in session.late_evaluations}
        for images, scores in list(self._scores.items()):
            try:
                saved = self.store.add_scores(images, scores)
            except OSError as error:
                self._trackers.info(f"the scores of the checkpoint at {images:,} images could not be stored ({error})")
                saved = None
            if saved or not self.store.best_metric:  # else it is being written, or could not be
                del self._scores[images]
            best = self.store.best() if saved else None
            if saved and best is not None and best.images == images:
                self._trackers.saved(images, saved, best=True)

    def _due(self, tick: Tick) -> bool:
        """Whether a checkpoint is due; with `auto` at the first row, which measures, then by the chosen interval.

        Only rank 0 saves, at ticks that all replicas have anyway.
        """
        if not self._auto:
            return tick.is_due("checkpoint", "end")
        self._speed = tick.metrics["images_per_second"]
        before, self._images = self._images, tick.images
        if self._every is None:
            passed = not (self._writer and self._writer.is_busy)  # otherwise it measures already
        else:
            passed = tick.images // self._every > before // self._every
        return tick.is_final or (tick.is_due("log") and passed)

    def _write(self, state: dict[str, Any], metrics: Mapping[str, float], suspect: str = "") -> Saved:
        """Write a checkpoint; also called in the writer's thread."""
        started = time.monotonic()
        path = self.store.save(state, config=self._plain, metrics=metrics, suspect=suspect)
        took = time.monotonic() - started
        best = self.store.best()
        return Saved(path, best is not None and best.images == state["images"], took)

    def _save(self, metrics: dict[str, float], *, last: bool, suspect: str = "") -> Saved | None:
        """Save inline, and return the checkpoint; None if the storage refused, which raises for the last one."""
        try:
            with phase("saving"):
                saved = self._write(self._experiment.state.state_dict(), metrics, suspect)
        except OSError as error:
            self._failed(error, last=last)
            if last:
                raise
            return None
        self._learn(paused=saved.seconds, took=saved.seconds)
        return saved

    def _submit(self, writer: SnapshotWriter, metrics: dict[str, float], *, keep: bool) -> None:
        """Take a snapshot for the writer."""
        with phase("saving"):
            writer.submit(self._experiment.state.state_dict(), metrics, keep=keep)
        if writer.skipped and not self._warned:
            self._warned = True
            self._trackers.info(
                "the storage takes longer for a checkpoint than checkpoint.every: only the newest of those that wait "
                "is written"
            )

    def _collect(self) -> None:
        """Handle the snapshots that have been written since the last tick."""
        for write in self._writer.finished() if self._writer else ():
            try:
                saved = write.future.result()
            except OSError as error:
                self._failed(error, last=False)
            else:
                self._learn(paused=write.paused, took=saved.seconds)
                self._trackers.saved(write.images, saved.path, best=saved.is_best)

    def _failed(self, error: OSError, *, last: bool) -> None:
        """Log that the storage refused a checkpoint, and request a stop where the config says so."""
        stops = self._experiment.config.checkpoint.on_failure == "stop"
        follows = "the run stops" if stops or last else "training continues"
        self._trackers.info(f"the checkpoint could not be saved ({error}); earlier ones stay valid; {follows}")
        if stops and not last:
            self._stop_signal.request(StopReason.STORAGE)

    def _learn(self, *, paused: float, took: float) -> None:
        """Learn from how long training paused and how long writing took; warn once if the pause is long."""
        now = time.monotonic()
        apart = now - self._since
        self._since = now
        if self._auto and self._every is None and self._speed > 0:
            self._choose_interval(paused, took)
        if not self._warned and paused > max(1.0, SLOW * apart):
            self._warned = True
            self._trackers.info(
                f"saving a checkpoint took {paused:.1f} s of the {apart:.0f} s since the last one: "
                "use faster storage, or a larger checkpoint.every"
            )

    def _choose_interval(self, paused: float, took: float) -> None:
        """Choose the interval from the cost of saving and the run's speed, and keep it for later attempts."""
        config = self._experiment.config
        hours = config.checkpoint.hours_between_faults
        every = interval(paused, hours, self._speed, config.log.every, least=took)
        self._every = every
        self._trackers.info(
            f"checkpoint.every = auto: {every:,} images, as saving pauses training for {paused:.2f} s and takes "
            f"{took:.2f} s, the run makes {self._speed:,.0f} images/s and a fault comes every {hours:g} h"
        )
        with suppress(OSError):
            row = {"images": every, "seconds_to_save": took, "paused": paused, "images_per_second": self._speed}
            write_atomically(self._remembered, json.dumps(row) + "\n")


def interval(cost: float, hours: float, speed: float, step: int, *, least: float = 0.0) -> int:
    """Images between two checkpoints for which least work is lost, a multiple of `step`.

    Args:
        cost: seconds for which training pauses to save.
        hours: mean time between two faults.
        speed: images per second.
        step: images between two ticks.
        least: seconds that a save takes behind training, which the interval is not shorter than.
    """
    seconds = optimal_interval(max(cost, 1e-3), 3600.0 * hours)
    return step * max(1, math.floor(seconds * speed / step), math.ceil(least * speed / step))


def read_interval(path: Path) -> int | None:
    """The interval in images that an earlier attempt chose, if it did.

    Args:
        path: of its file.
    """
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        if isinstance(images, int) and images >= 1:
            return images
    return None
