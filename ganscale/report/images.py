"""Pictures as data URIs: evenly spaced sample grids, re-encoded to a byte budget; plots as they are."""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ganscale.report.record import RunRecord

MAX_PER_RUN = 50
MAX_IN_ALL = 150
TOTAL_BYTES = 3_000_000
"""Of all sample grids before base64, which adds a third."""
LADDER: tuple[tuple[int, int], ...] = ((1024, 101), (1024, 90), (1024, 80), (768, 75), (512, 75), (384, 65), (256, 50))
"""Longest edge in pixels and WebP quality, best first; quality 101 is lossless."""


def choose(count: int, limit: int) -> list[int]:
    """Indices of items, evenly spaced, with the first and the last.

    Args:
        count: number of items.
        limit: number of indices at most, at least 1.
    """
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)] if limit > 1 else [count - 1]


def shrunk(path: Path, share: int) -> tuple[bytes, int, int]:
    """Re-encode a picture as WebP.

    Args:
        path: of the picture.
        share: size to stay below, in bytes; `LADDER`'s last step may exceed it.

    Returns:
        The content, its width and its height.

    Raises:
        OSError: the file is not a picture.
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
    """The sample grids of all runs for the slider: index of the run, and items with images, size and data URI.

    Args:
        runs: what was read of them.
    """
    withs = [index for index, run in enumerate(runs) if run.pictures]
    limit = max(3, min(MAX_PER_RUN, MAX_IN_ALL // max(1, len(withs))))
    chosen = {index: [runs[index].pictures[i] for i in choose(len(runs[index].pictures), limit)] for index in withs}
    share = TOTAL_BYTES // max(1, sum(map(len, chosen.values())))
    strips = []
    for index, pictures in chosen.items():
        items = [item for images, path in pictures if (item := _item(images, path, share))]
        if items:
            strips.append({"run": index, "items": items})
    return strips


def real_grids(runs: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """A grid of real images for each data set of the runs, by its name; pictures as in `sample_strips`.

    Args:
        runs: what was read of them.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        facts = [run.settings.get(f"data.{key}") for key in ("name", "resolution", "path")]
        name = " ".join(str(fact) for fact in facts if fact) or run.name
        if run.real and name not in found and (item := _item(0, run.real, TOTAL_BYTES // MAX_PER_RUN)):
            found[name] = item
    return found


def plots(folder: Path) -> dict[str, dict[str, Any]]:
    """The PNGs of a folder as they are, by stem.

    Args:
        folder: of the files; those that cannot be read are left out.
    """
    found = {}
    for path in sorted(folder.glob("*.png")):
        with suppress(OSError, Image.DecompressionBombError), Image.open(path) as file:
            found[path.stem] = _as_item(path.read_bytes(), *file.size, kind="png")
    return found


def _item(images: int, path: Path, share: int) -> dict[str, Any] | None:
    """A re-encoded picture; None if the file cannot be read."""
    try:
        return {"images": images, **_as_item(*shrunk(path, share))}
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _as_item(content: bytes, width: int, height: int, kind: str = "webp") -> dict[str, Any]:
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return {"width": width, "height": height, "source": source}
