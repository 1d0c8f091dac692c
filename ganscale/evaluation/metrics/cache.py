"""What was seen in real examples, kept in a folder from one run to the next. A failure only costs time."""

import os
import uuid
from contextlib import suppress
from pathlib import Path

import safetensors
import safetensors.torch

from ganscale.evaluation.metrics.extractors import Observed
from ganscale.storage.files import user_cache


def cache_folder() -> Path:
    """The folder: GANSCALE_CACHE, or ~/.cache/ganscale, and in it features/."""
    return user_cache("features")


def load_observed(path: Path, count: int) -> Observed | None:
    """What was seen in `count` examples; None if it is not there or damaged.

    Args:
        path: of the file.
        count: number of examples.
    """
    try:
        parts = safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError):
        return None
    if "features" not in parts or any(len(part) != count for part in parts.values()):
        return None
    return Observed(*(parts.get(name) for name in Observed._fields))  # pyright: ignore[reportArgumentType]


def store_observed(path: Path, seen: Observed) -> None:
    """Keep it; a storage that refuses is ignored.

    Args:
        path: of the file.
        seen: what to keep.
    """
    parts = {name: part.cpu().contiguous() for name, part in seen._asdict().items() if part is not None}
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError, safetensors.SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            safetensors.torch.save_file(parts, aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
