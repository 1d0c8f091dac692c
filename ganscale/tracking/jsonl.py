"""Tracks a run in its folder: a JSON row per tick or event, a PNG per sample grid.

Scores that come late (`eval.mode: async`) are appended to `metrics.jsonl` as a row of their own with the images that
they belong to, and the images at which they have come in `LATE`; `read_metrics` puts them into the row of their images.
"""

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir, read_objects
from ganscale.tracking import DetailedTracker, EventTracker, Histogram, LateTracker, TableTracker
from ganscale.tracking.images import write_png
from ganscale.tracking.tables import SampleTable, table_path, write_table

LATE = "evaluation_arrived"
"""Column of late rows: images at which they were written."""


class JsonlTracker(DetailedTracker, EventTracker, LateTracker, TableTracker):
    """Writes `metrics.jsonl`, `health.jsonl` and `samples/`.

    Args:
        folder: the run's folder.
        images: at which the run resumes; later rows and pictures of a previous attempt are removed.
        saved: of the newest checkpoint. Where it is later, as the run resumes from memory, the rows up to it stay until
            they are written again: the run would resume from it if all workers died now.
    """

    def __init__(self, folder: RunDir, *, images: int = 0, saved: int = 0) -> None:
        self.folder = folder
        self._cut(max(images, saved))
        self._kept_until = saved if saved > images else 0
        self._file = folder.metrics.open("a", encoding="utf-8")

    def _cut(self, images: int) -> None:
        rows = [row for row in read_raw_metrics(self.folder) if row["images"] <= images]
        write_atomically(self.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for path in self.folder.samples.glob("*"):
            if path.suffix in (".png", ".npz") and path.stem.isdigit() and int(path.stem) > images:
                path.unlink()

    def rewind(self, images: int, *, at: int) -> None:
        """Move later rows, with the late scores of their images, to `abandoned.jsonl` and delete later pictures.

        Args:
            images: to rewind to.
            at: images reached, from which; both are written into each row.

        Raises:
            OSError: the storage cannot be written.
        """
        later = [row | {"at": at, "to": images} for row in read_metrics(self.folder) if row["images"] > images]
        with self.folder.abandoned.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in later))
        self._reopen(images)

    def _reopen(self, images: int) -> None:
        """Remove rows and pictures after `images`, and open the file again."""
        self._file.close()
        self._cut(images)
        self._file = self.folder.metrics.open("a", encoding="utf-8")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Append a row, or write it again; non-finite numbers become null (a `Tracker`)."""
        if images <= self._kept_until:
            self._reopen(images - 1)
        self._write({"images": images, **metrics})

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Append a row with the images that the scores belong to (a `LateTracker`)."""
        for images, numbers in scores.items():
            self._write({"images": images, LATE: at, **numbers})

    def _write(self, row: Mapping[str, float]) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Write `samples/<images>.png` (a `Tracker`)."""
        write_png(self.folder.samples / f"{images:08d}.png", picture)

    def table(self, images: int, table: SampleTable) -> None:
        """Write `samples/<images>.npz` (a `TableTracker`)."""
        write_table(table_path(self.folder.samples, images), table)

    def details(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        """Write the picture `real` to `real.png` and ignore the rest (a `DetailedTracker`)."""
        if "real" in pictures:
            write_png(self.folder.real, pictures["real"])

    def event(self, images: int, kind: str, text: str) -> None:
        """Append a new event to `health.jsonl` (an `EventTracker`); a resumed run keeps later events, unlike rows."""
        row, rows = {"images": images, "kind": kind, "text": text}, read_events(self.folder)
        if row not in rows:
            write_atomically(self.folder.events, "".join(json.dumps(each) + "\n" for each in (*rows, row)))

    def environment(self, facts: Mapping[str, Any]) -> None:
        """Write the environment of this attempt; storage errors are ignored.

        Args:
            facts: JSON-compatible values by name.
        """
        with suppress(OSError):
            write_atomically(self.folder.environment, json.dumps(facts, indent=1) + "\n")

    def attempt(self, images: int, *, workers: int) -> None:
        """Note that an attempt starts, for the time line; storage errors are ignored.

        Args:
            images: at which it starts.
            workers: number of its workers.
        """
        row = {"time": time.time(), "images": images, "workers": workers}
        rows = [*read_attempts(self.folder), row]
        with suppress(OSError):
            write_atomically(self.folder.attempts, "".join(json.dumps(each) + "\n" for each in rows))

    def close(self, *, completed: bool) -> None:
        """Close the file (a `Tracker`)."""
        self._file.close()


def read_metrics(folder: RunDir) -> list[dict[str, Any]]:
    """All metric rows of a run, late scores in the row of their images; without a last row that a crash truncated.

    Args:
        folder: of the run.
    """
    rows = read_raw_metrics(folder)
    found = [row for row in rows if LATE not in row]
    by_images = {row["images"]: row for row in found}
    for late in (row for row in rows if LATE in row):
        if late["images"] in by_images:
            by_images[late["images"]] |= {name: value for name, value in late.items() if name != LATE}
    return found


def read_raw_metrics(folder: RunDir) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in the order in which they were written, late scores in rows of their own.

    Args:
        folder: of the run.
    """
    return [row for row in read_objects(folder.metrics) if isinstance(row.get("images"), int)]


def read_events(folder: RunDir) -> list[dict[str, Any]]:
    """All health events of a run, oldest first, without damaged rows.

    Args:
        folder: of the run.
    """
    return read_objects(folder.events)


def read_attempts(folder: RunDir) -> list[dict[str, Any]]:
    """Time, images and number of workers at the start of each attempt, oldest first, without damaged rows.

    Args:
        folder: of the run.
    """
    return [row for row in read_objects(folder.attempts) if row.keys() >= {"time", "images", "workers"}]


def read_rollbacks(folder: RunDir) -> list[dict[str, Any]]:
    """Rollbacks of a run so far: images at which (`at`), to which (`to`), and the verdict (`kind`).

    Args:
        folder: of the run.
    """
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(folder.rollbacks.read_text(encoding="utf-8"))
        if isinstance(found, list):
            return [row for row in found if isinstance(row, dict)]
    return []


def read_environment(folder: RunDir) -> dict[str, Any]:
    """Environment of the run's last attempt as nested mappings; empty if unknown.

    Args:
        folder: of the run.
    """
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads(folder.environment.read_bytes())
        return raw if isinstance(raw, dict) else {}
    return {}
