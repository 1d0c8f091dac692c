"""Tracks a run in its folder: a JSON row per tick or event, a PNG per sample grid."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir, read_objects
from ganscale.tracking import DetailedTracker, EventTracker, Histogram
from ganscale.tracking.images import write_png


class JsonlTracker(DetailedTracker, EventTracker):
    """Writes `metrics.jsonl`, `health.jsonl` and `samples/`.

    Args:
        folder: the run's folder.
        images: at which the run resumes; later rows and pictures of a previous attempt are removed.
    """

    def __init__(self, folder: RunDir, *, images: int = 0) -> None:
        self.folder = folder
        self._cut(images)
        self._file = folder.metrics.open("a", encoding="utf-8")

    def _cut(self, images: int) -> None:
        rows = [row for row in read_metrics(self.folder) if row["images"] <= images]
        write_atomically(self.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        for path in self.folder.samples.glob("*.png"):
            if path.stem.isdigit() and int(path.stem) > images:
                path.unlink()

    def rewind(self, images: int) -> None:
        """Move later rows to `abandoned.jsonl` and delete later pictures.

        Args:
            images: to rewind to.

        Raises:
            OSError: the storage cannot be written.
        """
        later = [row for row in read_metrics(self.folder) if row["images"] > images]
        with self.folder.abandoned.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in later))
        self._file.close()
        self._cut(images)
        self._file = self.folder.metrics.open("a", encoding="utf-8")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Append a row; non-finite numbers become null (a `Tracker`)."""
        row = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"images": images, **row}) + "\n")
        self._file.flush()

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Write `samples/<images>.png` (a `Tracker`)."""
        write_png(self.folder.samples / f"{images:08d}.png", picture)

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

    def close(self, *, completed: bool) -> None:
        """Close the file (a `Tracker`)."""
        self._file.close()


def read_metrics(folder: RunDir) -> list[dict[str, Any]]:
    """All metric rows of a run, without a last row that a crash truncated.

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


def read_environment(folder: RunDir) -> dict[str, Any]:
    """Environment of the run's last attempt as nested mappings; empty if unknown.

    Args:
        folder: of the run.
    """
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads(folder.environment.read_bytes())
        return raw if isinstance(raw, dict) else {}
    return {}
