"""What a person sees while a sweep goes on, and what is noted of trials that end otherwise than by themselves."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.tune import Callback

from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.record import read_end
from ganscale.sweep.table import Entry, leaderboard, read_entries
from ganscale.sweep.trainable import IMAGES
from ganscale.sweep.trial import drop_checkpoints, end_trial
from ganscale.tracking.console import clock

PAUSE = 30.0
"""Seconds between two tables."""


class TrialStatusCallback(Callback):
    """Ends in the trials' folders what the scheduler stopped and what failed for good.

    Args:
        trials: folder of the trials.
    """

    def __init__(self, trials: Path) -> None:
        self._trials = trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that was stopped."""
        number = int(str(trial))
        folder = self._trials / f"{number:04d}"
        if not read_end(folder)[0]:
            end_trial(folder, "stopped", f"by the scheduler at {(trial.last_result or {}).get(IMAGES, 0):,} images")
            for run in folder.glob("seed-*"):
                drop_checkpoints(run, 0)
        self.ended(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that failed by itself; one that was killed, or lost its machine, stays open."""
        number = int(str(trial))
        error = trial.get_error()
        if error is None or (isinstance(error, RayError) and not isinstance(error, RayTaskError)):
            return
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {cause}"
        end_trial(self._trials / f"{number:04d}", "failed", " ".join(reason.split())[-400:])
        self.ended(number)

    def ended(self, number: int) -> None:
        """Called when a trial is done."""


class ProgressCallback(TrialStatusCallback):
    """Also shows each trial's end, the best configurations now and then, and the time left.

    Args:
        plan: the sweep.
        trials: folder of its trials.
        show: takes texts for the user.
    """

    def __init__(self, plan: SweepPlan, trials: Path, show: Callable[[str], None]) -> None:
        super().__init__(trials)
        self._plan, self._show = plan, show
        self._started = self._shown = time.monotonic()
        self._at_first = sum(entry.spent for entry in self._entries())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the table now and then."""
        if time.monotonic() - self._shown > PAUSE:
            self._table(self._entries())

    def ended(self, number: int) -> None:
        """Show how a trial ended."""
        entries = self._entries()
        entry = next(e for e in entries if e.index == number)
        done, total = sum(bool(e.status) for e in entries), len(self._plan.sampler)
        how = f"{entry.status} {entry.reason}".strip()
        self._show(f"[{done}/{total}] trial {number:04d} {how}; time left {self._left(entries)}")
        if done == total or time.monotonic() - self._shown > PAUSE:
            self._table(entries)

    def _entries(self) -> list[Entry]:
        return read_entries(self._trials, self._plan.metrics, self._plan.sweep.sweep)

    def _left(self, entries: Sequence[Entry]) -> str:
        """At the speed of this command so far; an upper bound where trials stop early."""
        each = len(self._plan.seeds) * self._plan.config.train.images
        ended = sum(bool(entry.status) for entry in entries)
        left = (len(self._plan.sampler) - ended) * each - sum(entry.spent for entry in entries if not entry.status)
        spent = sum(entry.spent for entry in entries) - self._at_first
        return clock((time.monotonic() - self._started) * left / spent) if spent > 0 else "unknown"

    def _table(self, entries: Sequence[Entry]) -> None:
        self._shown = time.monotonic()
        plan = self._plan
        self._show(leaderboard(entries, plan.metrics, plan.names, seeds=len(plan.seeds), most=8))
