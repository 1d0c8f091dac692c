"""Sample grids small enough to lie inside the page: a few per run, each re-encoded to its share of the bytes."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ganscale.reporting.record import RunRecord

MOST_PER_RUN = 50
MOST_IN_ALL = 150
TOTAL_BYTES = 3_000_000
"""Of all pictures before base64, which adds a third."""

LADDER: tuple[tuple[int, int], ...] = ((1024, 101), (1024, 90), (1024, 80), (768, 75), (512, 75), (384, 65), (256, 50))
"""Longest edge in pixels and WebP quality, best first; quality 101 is lossless."""


def choose(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)] if most > 1 else [count - 1]


def shrunk(path: Path, share: int) -> tuple[bytes, int, int]:
    """A picture as WebP of at most `share` bytes, or as small as `LADDER` goes, with its width and height.

    Raises:
        OSError: the file is no picture.
    """
    with Image.open(path) as file:
        picture = file.convert("RGB")
    content, size = b"", (0, 0)
    for edge, quality in LADDER:
        step = picture.copy()
        step.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        step.save(buffer, format="WEBP", lossless=quality > 100, quality=min(quality, 100), method=2)
        content, size = buffer.getvalue(), step.size
        if len(content) <= share:
            break
    return content, *size


def sample_strips(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The sample grids of all runs for the slider: run's index, and its items with images, size and data URI."""
    withs = [index for index, run in enumerate(runs) if run.pictures]
    most = max(3, min(MOST_PER_RUN, MOST_IN_ALL // max(1, len(withs))))
    chosen = {index: [runs[index].pictures[i] for i in choose(len(runs[index].pictures), most)] for index in withs}
    share = TOTAL_BYTES // max(1, sum(map(len, chosen.values())))
    strips = []
    for index, pictures in chosen.items():
        items = [item for images, path in pictures if (item := _item(images, path, share))]
        if items:
            strips.append({"run": index, "items": items})
    return strips


def real_grids(runs: Sequence[RunRecord]) -> list[tuple[str, dict[str, Any]]]:
    """A grid of real examples for each data set among the runs: its name and the picture, as in `sample_strips`."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        data = run.config.get("data")
        facts = data if isinstance(data, dict) else {}
        name = " ".join(str(facts[key]) for key in ("name", "resolution", "path") if facts.get(key)) or run.name
        if run.real and name not in found:
            item = _item(0, run.real, TOTAL_BYTES // MOST_PER_RUN)
            if item:
                found[name] = item
    return list(found.items())


def _item(images: int, path: Path, share: int) -> dict[str, Any] | None:
    """One picture; None if it cannot be read."""
    try:
        content, width, height = shrunk(path, share)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    source = "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
    return {"images": images, "width": width, "height": height, "source": source}
