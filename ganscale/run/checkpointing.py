"""Rank 0's checkpoints during a run: when they are due, and what is said when the storage fails or is slow."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path

from ganscale.run.stop_signal import StopReason, StopSignal
from ganscale.storage.checkpoint import CheckpointStore, write_atomically
from ganscale.storage.failures import optimal_interval
from ganscale.tracking.console import Console
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick

SLOW = 0.1
"""Share of the time between two checkpoints that saving one may take before it is said."""


class Checkpointer:
    """Saves a run's state.

    Args:
        store: where.
        experiment: the run.
        console: takes sentences.
        notice: through which storage that fails stops the run, where `checkpoint.on_failure` says so.
        remembered: the file that keeps what `checkpoint.every: auto` came to, for all later lives of the run.
    """

    def __init__(
        self,
        store: CheckpointStore,
        experiment: Experiment,
        console: Console,
        stop_signal: StopSignal,
        *,
        remembered: Path,
    ) -> None:
        self.store = store
        self._experiment, self._console, self._notice = experiment, console, stop_signal
        self._since = time.monotonic()
        self._told = False
        self._remembered = remembered
        self._auto = experiment.config.checkpoint.every == "auto"
        self._every = read_interval(remembered) if self._auto else None
        self._speed = 0.0
        self._images = experiment.state.images

    def due(self, tick: Tick) -> bool:
        """Whether a checkpoint is due at a tick; with `auto` at the first one, which measures, then by what that gave.

        Only rank 0 saves, at ticks that all replicas have anyway: the others need not know of it.
        """
        if not self._auto:
            return bool(tick.due & {"checkpoint", "end"})
        self._speed = tick.metrics["images_per_second"]
        before, self._images = self._images, tick.images
        passed = self._every is None or tick.images // self._every > before // self._every
        return "end" in tick.due or ("log" in tick.due and passed)

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
            self._console.info(f"the checkpoint could not be saved ({error}); the ones before stay good; {follows}")
            if last:
                raise
            if stops:
                self._notice.request(StopReason.STORAGE)
            return None
        self._time(started)
        return saved

    def _time(self, started: float) -> None:
        """Learn from how long saving took; say once that it takes too much of the run's time."""
        now = time.monotonic()
        took, apart = now - started, now - self._since
        self._since = now
        if self._auto and self._every is None and self._speed > 0:
            self._decide(took)
        if not self._told and took > max(1.0, SLOW * apart):
            self._told = True
            self._console.info(
                f"saving a checkpoint took {took:.1f} s of the {apart:.0f} s since the one before: "
                "use faster storage, or a larger checkpoint.every"
            )

    def _decide(self, cost: float) -> None:
        """Choose the interval from what saving costs and how fast the run is, and keep it for all later lives."""
        config = self._experiment.config
        hours = config.checkpoint.hours_between_faults
        every = interval(cost, hours, self._speed, config.log.every)
        self._every = every
        self._console.info(
            f"checkpoint.every = auto: {every:,} images, as saving takes {cost:.2f} s, the run makes "
            f"{self._speed:,.0f} images/s and a fault comes every {hours:g} h"
        )
        with suppress(OSError):
            row = {"images": every, "seconds_to_save": cost, "images_per_second": self._speed}
            write_atomically(self._remembered, json.dumps(row) + "\n")


def interval(cost: float, hours: float, speed: float, step: int) -> int:
    """Images between two checkpoints that lose least, a multiple of `step`.

    Args:
        cost: seconds that saving takes.
        hours: mean time between two faults.
        speed: images per second.
        step: images between two ticks.
    """
    seconds = optimal_interval(max(cost, 1e-3), 3600.0 * hours)
    return step * max(1, math.floor(seconds * speed / step))


def read_interval(path: Path) -> int | None:
    """What an earlier life of the run decided, if it did."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        if isinstance(images, int) and images >= 1:
            return images
    return None
