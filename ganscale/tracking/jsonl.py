"""The run folder as a tracker: a JSON row per tick or event and a PNG per sample grid. Needs nothing but a disk."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir, read_objects
from ganscale.tracking import Histogram
from ganscale.tracking.images import write_png


class JsonlTracker:
    """Writes `metrics.jsonl`, `health.jsonl` and `samples/`.

    Args:
        folder: the run's folder.
        images: where the run goes on; rows and pictures after it are of a life that was lost and are removed.
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
        """Go back to `images`: later rows move to `abandoned.jsonl`, later pictures go.

        Raises:
            OSError: the storage refuses.
        """
        later = [row for row in read_metrics(self.folder) if row["images"] > images]
        with self.folder.abandoned.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in later))
        self._file.close()
        self._cut(images)
        self._file = self.folder.metrics.open("a", encoding="utf-8")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Append a row; a number that JSON cannot hold (not finite) becomes null."""
        row = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"images": images, **row}) + "\n")
        self._file.flush()

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Write `samples/<images>.png`."""
        write_png(self.folder.samples / f"{images:08d}.png", picture)

    def details(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        """Write `real.png` where it is among the pictures; the rest is for places that can show it."""
        if "real" in pictures:
            write_png(self.folder.real, pictures["real"])

    def event(self, images: int, kind: str, text: str) -> None:
        """Add to `health.jsonl` what is not there yet; unlike rows, events of a life that was lost stay."""
        row, rows = {"images": images, "kind": kind, "text": text}, read_events(self.folder)
        if row not in rows:
            write_atomically(self.folder.events, "".join(json.dumps(each) + "\n" for each in (*rows, row)))

    def environment(self, facts: Mapping[str, Any]) -> None:
        """Write what this life of the run runs on; storage that refuses stops nothing."""
        with suppress(OSError):
            write_atomically(self.folder.environment, json.dumps(facts, indent=1) + "\n")

    def close(self, *, completed: bool) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(folder: RunDir) -> list[dict[str, Any]]:
    """All rows of a run; a last row that a crash cut short is left out."""
    return [row for row in read_objects(folder.metrics) if isinstance(row.get("images"), int)]


def read_events(folder: RunDir) -> list[dict[str, Any]]:
    """All health events of a run, in the order in which they happened; damaged ones are left out."""
    return read_objects(folder.events)


def read_environment(folder: RunDir) -> dict[str, Any]:
    """What the run's last life ran on, as plain nested mappings; empty where that is not known."""
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads(folder.environment.read_bytes())
        return raw if isinstance(raw, dict) else {}
    return {}
