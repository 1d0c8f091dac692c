"""Tables of samples: each picture with its class, D's logit and the nearest real one, as a file of the run's folder."""

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.storage.files import write_bytes_atomically

COLUMNS = ("images", "index", "class", "sample", "logit", "distance", "nearest", "row")
"""Of the table; `images` and `index` name a row in every run, so tables of several runs join on them."""


@dataclass(frozen=True)
class SampleTable:
    """N samples of one moment, by latent index: row i is image i of the sample grid.

    Attributes:
        samples: uint8 `[N, H, W, 3]`.
        classes: name or number of each one's class; empty for unconditional networks.
        logits: what D says of each, float64 `[N]`; NaN where that is not finite.
        nearest: real images, uint8 `[N, H, W, 3]`; no rows where none were searched.
        distances: of these, root mean square on the scale [-1, 1], float64 `[N]` or `[0]`.
        rows: of these in the training set, int64 `[N]` or `[0]`.
    """

    samples: np.ndarray
    classes: Sequence[str | int]
    logits: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    rows: np.ndarray

    def lines(self, images: int) -> list[dict[str, Any]]:
        """The rows by column; pictures are arrays `[H, W, 3]`, what is not known is None.

        Args:
            images: of the run at that moment.
        """
        searched = len(self.rows) > 0
        return [
            {
                "images": images,
                "index": index,
                "class": self.classes[index] if self.classes else None,
                "sample": sample,
                "logit": float(logit) if np.isfinite(logit) else None,
                "distance": float(self.distances[index]) if searched else None,
                "nearest": self.nearest[index] if searched else None,
                "row": int(self.rows[index]) if searched else None,
            }
            for index, (sample, logit) in enumerate(zip(self.samples, self.logits, strict=True))
        ]


def table_path(samples: Path, images: int) -> Path:
    """Where the table of a moment lies: beside the sample grid.

    Args:
        samples: the folder of sample grids.
        images: of the moment.
    """
    return samples / f"{images:08d}.npz"


def write_table(path: Path, table: SampleTable) -> None:
    """Write a table as NumPy's archive, without pickles.

    Args:
        path: of the file; its folder is created.
        table: what to write.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        samples=table.samples,
        classes=np.array(json.dumps(list(table.classes))),
        logits=table.logits,
        nearest=table.nearest,
        distances=table.distances,
        rows=table.rows,
    )
    write_bytes_atomically(path, buffer.getvalue())


def read_table(path: Path) -> SampleTable | None:
    """Read a table; None where it is missing or damaged.

    Args:
        path: of the file.
    """
    with (
        suppress(Exception),
        np.load(path) as file,
    ):  # by where the damage is: of zlib, tokenize and others
        numbers = (file[name] for name in ("logits", "nearest", "distances", "rows"))
        return SampleTable(file["samples"], json.loads(str(file["classes"])), *numbers)
    return None
