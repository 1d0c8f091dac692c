"""A run's checkpoints as Ray Train's reports: `Result.metrics` and `Result.checkpoint` of the run under its own name.

`ray.train.report` is a barrier of all ranks and waits for Ray's controller, so a thread of its own calls it: training
never waits for it. Rank 0 alone decides what is reported; the other ranks' threads wait for its word.
"""

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.fs
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from ganscale.launch.prometheus import evaluation_images
from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place
from ganscale.tracking import CheckpointTracker, LateTracker

REPORT_TIMEOUT = 30.0
"""Seconds of one report after which no further one is made; Ray's controller takes one per two seconds."""
END_TIMEOUT = 10.0
"""Longest wait in seconds for the last report when a run has ended."""
REPORTS_KEPT = 50
"""Number of newest reports in Ray's `Result.best_checkpoints` and `Result.metrics_dataframe`."""
ROWS_KEPT = 64
"""Number of newest rows that wait for a checkpoint at their images."""

_logger = logging.getLogger(__name__)


class Report(NamedTuple):
    """A checkpoint for Ray: the row at its images, and where it lies."""

    metrics: dict[str, float]
    reference: dict[str, Any]


def plain(images: int, metrics: Mapping[str, float]) -> dict[str, float]:
    """A row as Ray can store it: plain finite numbers; one that is not finite is left out.

    Args:
        images: Images of the row, its column `images`.
        metrics: Numbers by name.
    """
    return {"images": images} | {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


class RayChannel:
    """What the threads of all ranks do together: agree that there is a report, and make it."""

    def __init__(self) -> None:
        self._reports = 0

    def send(self, report: Report) -> None:
        """Report to Ray, on rank 0: the checkpoint is a folder with nothing but metadata, which name the real one.

        Args:
            report: What to report.
        """
        self._reports += 1
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            checkpoint.set_metadata(report.reference)
            broadcast_from_rank_zero(True)
            name = f"checkpoint_{self._reports:06d}"
            ray.train.report(report.metrics, checkpoint=checkpoint, checkpoint_dir_name=name)

    def end(self) -> None:
        """End `follow` on the other ranks."""
        broadcast_from_rank_zero(False)

    def follow(self) -> None:
        """Report whenever rank 0 does, until it ends: Ray takes a report when all ranks have made it."""
        while broadcast_from_rank_zero(None):
            ray.train.report({})


class ReportTracker(CheckpointTracker, LateTracker):
    """Rank 0's part: reports the newest checkpoint, in a thread; one that Ray was too slow for is left out.

    A report that fails or takes too long ends the reports of this attempt with one warning.

    Args:
        run: Name of the run.
        channel: Makes the reports.
    """

    def __init__(self, run: str, channel: RayChannel) -> None:
        self._run, self._channel = run, channel
        self._rows: dict[int, dict[str, float]] = {}
        self._late: dict[str, float] = {}  # the newest scores, as long as they came late
        self._changed = threading.Condition()
        self._next: Report | None = None
        self._ends = self._given_up = False
        self._began: float | None = None  # time.monotonic() at which the report in progress began
        self._thread = threading.Thread(target=self._make_reports, name="ray_reports", daemon=True)
        self._thread.start()

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Remember the row until its checkpoint is there (tracker protocol)."""
        self._rows[images] = plain(images, metrics)
        if evaluation_images(images, metrics):
            self._late = {}
        while len(self._rows) > ROWS_KEPT:
            del self._rows[next(iter(self._rows))]

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Add scores to the row of their images, and the newest to the next report (tracker protocol)."""
        for images, numbers in scores.items():
            self._late = plain(images, numbers) | evaluation_images(images, numbers)
            del self._late["images"]
            if images in self._rows:
                self._rows[images] |= self._late

    def saving(self, images: int) -> None:
        """Do nothing: rows are not durable here."""

    def saved(self, images: int, folder: Place, *, best: bool) -> None:
        """Report a checkpoint (tracker protocol); returns at once."""
        reference = {"run": self._run, "path": str(folder), "images": images, "best": best}
        with self._changed:
            if self._began is not None and time.monotonic() - self._began > REPORT_TIMEOUT:
                self._give_up(f"a report has taken more than {REPORT_TIMEOUT:g} s")
            if not self._given_up:
                self._next = Report(self._late | self._rows.get(images, {"images": images}), reference)
                self._changed.notify()

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Do nothing: Ray takes no pictures."""

    def close(self, *, completed: bool) -> None:
        """Do nothing: `finish` waits for the last report, after a failure nothing does."""

    def finish(self) -> None:
        """Wait for the last report, not for long."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join(END_TIMEOUT)
        with self._changed:
            if self._thread.is_alive():
                self._give_up(f"the last report has taken more than {END_TIMEOUT:g} s")

    def _make_reports(self) -> None:
        """Run in the thread."""
        try:
            while (report := self._take()) is not None:
                self._channel.send(report)
                with self._changed:
                    self._began = None
        except Exception as error:  # whatever fails in Ray, training continues
            with self._changed:
                self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        with suppress(Exception):
            self._channel.end()

    def _take(self) -> Report | None:
        """Wait for the next report; None when there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._next or self._ends or self._given_up)
            report, self._next = self._next, None
            self._began = time.monotonic() if report else None
            return report

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            _logger.warning("Ray gets no more reports of this attempt (%s); training is not affected", reason)
        self._given_up, self._next = True, None
        self._changed.notify()


@contextmanager
def reporting(run: str, *, is_rank_zero: bool, channel: RayChannel | None = None) -> Iterator[list[ReportTracker]]:
    """Report to Ray while the block trains; all ranks enter it. After an exception it waits for nothing.

    Args:
        run: Name of the run.
        is_rank_zero: Whether this rank decides.
        channel: Makes the reports; None: through Ray Train.

    Yields:
        The trackers of this rank: rank 0 has one.
    """
    channel = channel or RayChannel()
    if is_rank_zero:
        tracker = ReportTracker(run, channel)
        yield [tracker]
        tracker.finish()
        return

    def follow() -> None:
        with suppress(Exception):  # rank 0 logs it
            channel.follow()

    follower = threading.Thread(target=follow, name="ray_reports", daemon=True)
    follower.start()
    yield []
    follower.join(END_TIMEOUT)


class SnapshotFileSystem(pyarrow.fs.LocalFileSystem):
    """Local or shared files for Ray Train's controller, for which a file that it cannot write is no error.

    The controller writes a list of the reports after each one, and an error there would end the run; the list is for
    `ray.train.Result.from_path` alone. Here it is also replaced as a whole instead of overwritten.
    """

    def __reduce__(self) -> tuple[Callable[[], "SnapshotFileSystem"], tuple[()]]:
        return SnapshotFileSystem, ()

    def open_output_stream(self, path: str, *_: Any, **__: Any) -> Any:
        """A stream whose content is written when it is closed (Ray's protocol: used in a `with` statement).

        Args:
            path: Of the file.
        """
        return _replacing(Path(path))


class _Content(NamedTuple):
    parts: list[bytes]

    def write(self, part: bytes) -> None:
        self.parts.append(part)


@contextmanager
def _replacing(path: Path) -> Iterator[_Content]:
    content = _Content([])
    yield content
    try:
        write_atomically(path, b"".join(content.parts).decode())
    except OSError as error:
        _logger.warning("%s could not be written (%s)", path, error)
