"""Tracks a run with TensorBoard. Only this file imports tensorboard; its failures do not stop training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.storage.run_dir import RunDir
from ganscale.tracking import DetailedTracker, EventTracker, Histogram, LateTracker

EVENTS = "events.out.tfevents.*"


class TensorBoardTracker(DetailedTracker, EventTracker, LateTracker):
    """Writes metrics, pictures and histograms as event files in `tensorboard/`; the step is images.

    Args:
        folder: the run's folder.
        info: logs a line.
        images: at which the run resumes; later events of a previous attempt are removed.
    """

    def __init__(self, folder: RunDir, info: Callable[[str], None], *, images: int = 0) -> None:
        self._info = info
        self._writer: Any = None
        self._guard(lambda: self._start(folder.path / "tensorboard", images))

    def _start(self, path: Path, images: int) -> None:
        drop_later(path, images)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(path))

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Write metrics (a `Tracker`)."""

        def send() -> None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, images)
            self._writer.flush()

        self._guarded(send)

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Write scores at the step that they belong to (a `LateTracker`)."""
        for images, numbers in scores.items():
            self.log(images, numbers)

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Write a sample picture (a `Tracker`)."""
        self._guarded(lambda: self._writer.add_image("samples", picture, images, dataformats="HWC"))

    def details(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        """Write pictures and histograms (a `DetailedTracker`)."""

        def send() -> None:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, images, dataformats="HWC")
            for name, histogram in histograms.items():
                self._writer.add_histogram_raw(name, global_step=images, **_raw(histogram))

        self._guarded(send)

    def event(self, images: int, kind: str, text: str) -> None:
        """Write an event as text (an `EventTracker`)."""
        self._guarded(lambda: self._writer.add_text("health", f"{kind}: {text}", images))

    def close(self, *, completed: bool) -> None:
        """Flush and close the file (a `Tracker`)."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._guard(writer.close)

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._writer is not None:
            self._guard(action)

    def _guard(self, action: Callable[[], None]) -> None:
        """Run the action; the first failure is logged and turns TensorBoard off."""
        try:
            action()
        except Exception as error:
            self._writer = None
            self._info(f"TensorBoard failed and is turned off ({type(error).__name__}: {error}); training continues")


def _raw(histogram: Histogram) -> dict[str, Any]:
    """A histogram in TensorBoard's form; sums are approximated by the bin centers."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    centers = (edges[:-1] + edges[1:]) / 2
    return {
        "min": float(edges[0]),
        "max": float(edges[-1]),
        "num": float(counts.sum()),
        "sum": float((counts * centers).sum()),
        "sum_squares": float((counts * centers**2).sum()),
        "bucket_limits": edges[1:].tolist(),
        "bucket_counts": counts.tolist(),
    }


def drop_later(folder: Path, images: int) -> None:
    """Remove later events from the files of previous attempts.

    Args:
        folder: of the event files.
        images: last step to keep.

    Raises:
        OSError: a file cannot be read or replaced.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in folder.glob(EVENTS):
        contents = list(RawEventFileLoader(str(path)).Load())
        kept = [content for content in contents if Event.FromString(content).step <= images]
        if len(kept) == len(contents):
            continue
        aside = path.with_name(f".{path.name}")
        with aside.open("wb") as file:
            writer = RecordWriter(file)
            for content in kept:
                writer.write(content)
        aside.replace(path)
