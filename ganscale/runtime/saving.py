"""Rank 0's checkpoints during a run, with what is said and done when the storage fails or is slow."""

import time
from pathlib import Path

from ganscale.build import Experiment
from ganscale.checkpoint import CheckpointStore
from ganscale.runtime.notice import Notice, Reason
from ganscale.tracking.console import Console

SLOW = 0.1
"""Share of the time between two checkpoints that saving one may take before it is said."""


class Saver:
    """Saves a run's state.

    Args:
        store: where.
        experiment: the run.
        console: takes sentences.
        notice: through which storage that fails stops the run, where `checkpoint.on_failure` says so.
    """

    def __init__(self, store: CheckpointStore, experiment: Experiment, console: Console, notice: Notice) -> None:
        self.store = store
        self._experiment, self._console, self._notice = experiment, console, notice
        self._since = time.monotonic()
        self._told = False

    def __call__(self, metrics: dict[str, float], *, last: bool, suspect: str = "") -> Path | None:
        """Save, and return the checkpoint's folder; None if the storage refused and the run is to go on or to leave.

        Args:
            metrics: to remember with it.
            last: whether nothing else would hold the run's result.
            suspect: why nothing should go on from it, if so.

        Raises:
            OSError: the storage refuses the last one.
        """
        config, state = self._experiment.config, self._experiment.state
        started = time.monotonic()
        try:
            plain = config.model_dump(mode="json")
            saved = self.store.save(state.state_dict(), config=plain, metrics=metrics, suspect=suspect)
        except OSError as error:
            stops = config.checkpoint.on_failure == "stop"
            follows = "the run stops" if stops or last else "training goes on"
            self._console.say(f"the checkpoint could not be saved ({error}); the ones before stay good; {follows}")
            if last:
                raise
            if stops:
                self._notice.request(Reason.STORAGE)
            return None
        self._time(started)
        return saved

    def _time(self, started: float) -> None:
        """Say once that saving takes too much of the run's time."""
        now = time.monotonic()
        took, apart = now - started, now - self._since
        self._since = now
        if not self._told and took > max(1.0, SLOW * apart):
            self._told = True
            self._console.say(
                f"saving a checkpoint took {took:.1f} s of the {apart:.0f} s since the one before: "
                "use faster storage, or a larger checkpoint.every"
            )
