"""Pictures as data URIs: evenly spaced sample grids, re-encoded to a byte budget; plots as they are."""

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ganscale.config.datasets import DATASETS
from ganscale.config.titles import data_title
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
    """The sample grids of all runs for the slider: index of the run, note, and items with images, size and data URI.

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
            strips.append({"run": index, "note": sample_note(runs[index]), "items": items})
    return strips


def sample_note(run: RunRecord) -> str:
    """What all sample grids of a run have in common: seed, weights and classes; of a trial, which seed's they are.

    Args:
        run: what was read of it.
    """
    if run.is_trial:
        return "first seed, moving average of G"
    settings = run.settings
    parts = [f"seed {settings['run.seed']}"] if "run.seed" in settings else []
    half_life = settings.get("ema.half_life")
    average = f" (half-life {half_life:,.0f} images)" if isinstance(half_life, int | float) and half_life else ""
    return ", ".join([*parts, f"moving average of G{average}", *_classes(settings)])


def _classes(settings: Mapping[str, Any]) -> list[str]:
    """The classes of a conditional run's samples in their order, in words; nothing for other runs."""
    if settings.get("model.generator.conditioning", "none") == "none":
        return []
    facts = DATASETS.get(str(settings.get("data.name")))
    names = facts.class_names if facts else ()
    if not names:
        return ["classes in turn"]
    return [f"classes {names[0]} to {names[-1]} in turn" if names[0].isdigit() else f"in turn {', '.join(names)}"]


def real_grids(runs: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """A grid of real images for each data set of the runs, by its name; pictures as in `sample_strips`.

    Args:
        runs: what was read of them.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        name = data_of(run) or run.name
        if run.real and name not in found and (item := _item(0, run.real, TOTAL_BYTES // MAX_PER_RUN)):
            found[name] = item
    return found


def data_of(run: RunRecord) -> str:
    """Name, size and place of a run's data, e.g. "MNIST at 28 × 28"; empty where its settings are not known.

    Args:
        run: what was read of it.
    """
    name, sides, path = (run.settings.get(f"data.{key}") for key in ("name", "resolution", "path"))
    if not isinstance(name, str) or not name:
        return ""
    is_points = name in DATASETS and DATASETS[name].is_points
    text = "" if is_points or not sides else f" {'x'.join(map(str, sides)) if isinstance(sides, list) else sides}"
    return data_title(f"{name}{text}") + (f" of {path}" if path else "")


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
