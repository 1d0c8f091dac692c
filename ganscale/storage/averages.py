"""Snapshots of a run's averages (`ema.profiles`): `averages/<images>.safetensors`, all widths in one file.

Files of a run in a bucket travel with its other files, so that all snapshots up to a checkpoint are there before it
counts. A run that resumes writes those after its checkpoint once more, with the same bytes.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganscale.storage.files import write_bytes_atomically
from ganscale.storage.store import LocalStore, Place

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_FACTS = "ganscale"
"""The only entry of the file's metadata, whose order would differ from process to process."""

_MAX_HEADER = 100_000_000
"""Bytes, of any file in this format."""


class SnapshotError(ValueError):
    """A snapshot that is incomplete or was altered."""


@dataclass(frozen=True)
class Snapshot:
    """Averages after some updates of the generator.

    Attributes:
        iteration: updates.
        averages: weights by width and name.
    """

    iteration: int
    averages: dict[str, dict[str, "Tensor"]]


def name_of(images: int) -> str:
    """Name of a snapshot's file.

    Args:
        images: of the snapshot.
    """
    return f"{images:012d}{SUFFIX}"


def stride(newest: int, most: int) -> int:
    """Which snapshots are kept: those whose number is a multiple of this power of two.

    Args:
        newest: number of the newest one, from 1.
        most: that are kept.
    """
    step = 1
    while newest // step > most:
        step *= 2
    return step


def write(
    folder: Path, images: int, iteration: int, averages: Mapping[str, Mapping[str, "Tensor"]], *, every: int, most: int
) -> None:
    """Write a snapshot if it is one to keep, and delete those that no longer are.

    Args:
        folder: of the run's snapshots.
        images: so far.
        iteration: updates of the generator so far.
        averages: weights by width and name.
        every: images between two snapshots.
        most: snapshots that are kept.

    Raises:
        OSError: the storage refuses.
    """
    from safetensors.torch import save

    step = stride(images // every, most)
    if images // every % step == 0:
        tensors = {f"{width}/{name}": each for width, weights in averages.items() for name, each in weights.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts = {"iteration": iteration, "sha256": hashlib.sha256(save(tensors)).hexdigest()}
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(folder / name_of(images), save(tensors, {_FACTS: json.dumps(facts)}))
    for each in numbers(folder):
        if each <= images and each // every % step:
            (folder / name_of(each)).unlink(missing_ok=True)


def drop_after(folder: Path, images: int) -> None:
    """Delete the snapshots of more than so many images: a rollback leads elsewhere.

    Args:
        folder: of the run's snapshots.
        images: after the rollback.

    Raises:
        OSError: the storage refuses.
    """
    for each in numbers(folder):
        if each > images:
            (folder / name_of(each)).unlink(missing_ok=True)


def numbers(folder: Place) -> Collection[int]:
    """Images of the snapshots that are there, in order.

    Args:
        folder: of the run's snapshots, which may be missing.

    Raises:
        OSError: the storage fails.
    """
    found = []
    with suppress(FileNotFoundError):
        found = [path.name.removesuffix(SUFFIX) for path in folder.iterdir() if path.name.endswith(SUFFIX)]
    return sorted(int(name) for name in found if name.isdigit())


def read(folder: Place, images: int) -> Snapshot:
    """Load a snapshot; tensors are on the CPU.

    Args:
        folder: of the run's snapshots.
        images: of the snapshot.

    Raises:
        SnapshotError: it is damaged.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    content = (folder / name_of(images)).read_bytes()
    try:
        tensors = load(content)
        facts = _facts(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if facts["sha256"] != hashlib.sha256(save(tensors)).hexdigest():
            raise ValueError("it was altered")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{name_of(images)} cannot be read ({error})") from None
    averages: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        width, _, parameter = name.partition("/")
        averages.setdefault(width, {})[parameter] = tensor
    return Snapshot(int(facts["iteration"]), averages)


def read_iteration(folder: Place, images: int) -> int:
    """Updates in a snapshot, of which only the header is read.

    Args:
        folder: of the run's snapshots.
        images: of the snapshot.

    Raises:
        SnapshotError: the header is damaged.
        OSError: it cannot be read.
    """
    path = folder / name_of(images)
    store, key = (LocalStore(path.parent), path.name) if isinstance(path, Path) else (path.store, path.key)
    size = int.from_bytes(store.read_range(key, 0, 8), "little")
    try:
        if size > _MAX_HEADER:
            raise ValueError("its header has no end")
        return int(_facts(store.read_range(key, 8, 8 + size))["iteration"])
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{name_of(images)} cannot be read ({error})") from None


def _facts(header: bytes) -> dict[str, Any]:
    return json.loads(json.loads(header)["__metadata__"][_FACTS])
