"""Rank 0's snapshots of the averages in `ema.profiles`, from which others are reconstructed after the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganscale.parallel.phase import phase
from ganscale.run.callback import Callback
from ganscale.storage.averages import drop_after, write
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick


class AverageSnapshots(Callback):
    """Writes snapshots; must come before the checkpoints, so that those up to a checkpoint are there when it is.

    Args:
        experiment: the run's objects.
        folder: of the snapshots.
        info: takes a line for the log.
    """

    def __init__(self, experiment: Experiment, folder: Path, info: Callable[[str], None]) -> None:
        self._state, self._settings = experiment.state, experiment.config.ema
        self._folder, self._info = folder, info

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Write a snapshot if it is due; after a rollback delete those of the images that no longer count."""
        if session.decision.action == "rollback":
            self._try(lambda: drop_after(self._folder, self._state.images))
        elif tick.is_due("averages"):
            self.on_quiet_tick(tick, session)

    def on_quiet_tick(self, tick: Tick, session: Any) -> None:
        """Write a snapshot."""
        settings, state = self._settings, self._state
        limits = {"every": settings.snapshot_every, "most": settings.snapshots}
        averages = state.averages.state_dict()
        self._try(lambda: write(self._folder, tick.images, state.iteration, averages, **limits))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            with phase("saving"):
                action()
        except OSError as error:
            self._info(f"the snapshot of the averages could not be saved ({error}); training continues")
