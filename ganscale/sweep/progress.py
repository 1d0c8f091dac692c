"""Ray Tune's callbacks: record how trials end, and log the progress of a sweep."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.tune import Callback

from ganscale.launch.compat import root_cause, trial_error
from ganscale.storage.lease import Fence
from ganscale.storage.store import Place, StorePath, folders
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import Entry, leaderboard, read_end, read_entries
from ganscale.sweep.trainable import IMAGES, trial_number
from ganscale.sweep.trial import drop_checkpoints, end_trial, is_lost
from ganscale.tracking.console import clock

_logger = logging.getLogger(__name__)

TABLE_INTERVAL = 30.0
"""Seconds between two tables."""


class TrialStatusCallback(Callback):
    """Records trials that the scheduler stopped and trials that failed (Ray's protocol).

    Args:
        trials: Folder of the trials.
        driver: The lease of this process, which records nothing once another one has taken the sweep over.
    """

    def __init__(self, trials: Place, driver: Fence) -> None:
        self._trials, self._driver = trials, driver

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that was stopped."""
        number = trial_number(str(trial))
        folder = self._trials / f"{number:04d}"
        with self._outage():
            if not read_end(folder)[0]:
                if self._driver.problem():
                    return
                end_trial(folder, "stopped", f"by the scheduler at {(trial.last_result or {}).get(IMAGES, 0):,} images")
                for name in folders(folder):
                    if name.startswith("seed-"):
                        drop_checkpoints(folder / name, 0)
            self.on_end(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that raised an error; one that was killed, or lost its node or its bucket, stays open."""
        error = trial_error(trial)
        if error is None or (isinstance(error, RayError) and not isinstance(error, RayTaskError)):
            return
        number, cause = trial_number(str(trial)), root_cause(error)
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())
        if isinstance(self._trials, StorePath) and is_lost(cause):
            _logger.warning("trial %04d is interrupted and stays open: %s", number, reason[-400:])
            return
        with self._outage():
            if not self._driver.problem():
                end_trial(self._trials / f"{number:04d}", "failed", reason[-400:])
                self.on_end(number)

    @contextmanager
    def _outage(self) -> Iterator[None]:
        """Leave what a bucket does not take to the next command: Tune takes an exception for the trial's."""
        try:
            yield
        except OSError as error:
            if isinstance(self._trials, Path):
                raise
            _logger.warning("the bucket does not answer as it should (%s); what is missing is resumed", error)

    def on_end(self, number: int) -> None:
        """Called when a trial has ended."""


class ProgressCallback(TrialStatusCallback):
    """Also logs each trial's end, the best configurations at intervals, and the time left.

    Args:
        plan: The sweep.
        trials: Folder of its trials.
        driver: The lease of this process.
    """

    def __init__(self, plan: SweepPlan, trials: Place, driver: Fence) -> None:
        super().__init__(trials, driver)
        self._plan, self._ended = plan, dict[str, Entry]()
        self._started = self._logged = time.monotonic()
        self._spent_before = sum(entry.spent for entry in self._entries())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log the table at intervals."""
        if time.monotonic() - self._logged > TABLE_INTERVAL:
            with self._outage():
                self._log_table(self._entries())

    def on_end(self, number: int) -> None:
        """Log how a trial ended."""
        entries = self._entries()
        entry = next(e for e in entries if e.index == number)
        done, total = sum(bool(e.status) for e in entries), len(self._plan.sampler)
        status = f"{entry.status} {entry.reason}".strip()
        _logger.info("[%d/%d] trial %04d %s; time left %s", done, total, number, status, self._time_left(entries))
        if done == total or time.monotonic() - self._logged > TABLE_INTERVAL:
            self._log_table(entries)

    def _entries(self) -> list[Entry]:
        return read_entries(self._trials, self._plan.metrics, self._plan.sweep.sweep, ended=self._ended)

    def _time_left(self, entries: Sequence[Entry]) -> str:
        """Estimate from this command's throughput; an upper bound where trials stop early."""
        each = len(self._plan.seeds) * self._plan.config.train.images
        ended = sum(bool(entry.status) for entry in entries)
        left = (len(self._plan.sampler) - ended) * each - sum(entry.spent for entry in entries if not entry.status)
        spent = sum(entry.spent for entry in entries) - self._spent_before
        return clock((time.monotonic() - self._started) * left / spent) if spent > 0 else "unknown"

    def _log_table(self, entries: Sequence[Entry]) -> None:
        self._logged = time.monotonic()
        plan = self._plan
        _logger.info(leaderboard(entries, plan.metrics, plan.names, seeds=len(plan.seeds), most=8))
