"""A folder of `.npy` latents converted to a set of `ganscale.data.latents`."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ganscale.config import ConfigError
from ganscale.config.datasets import MAX_SIDE, MIN_SIDE
from ganscale.data.files import ENDINGS, NOT_READ, is_hidden
from ganscale.data.latents import LABELS, LATENTS, MANIFEST, LatentSet, sample_hash
from ganscale.storage.files import write_synced
from ganscale.storage.store import Place

PARTIAL = f".{LATENTS}.partial"
"""Name of the latents until all files of the set are whole: no other file counts as an earlier attempt."""
_PART = 1024


@dataclass(frozen=True)
class _File:
    """A file of latents, by its header: `count` of them, each of `shape` (C, H, W)."""

    path: Path
    count: int
    shape: tuple[int, int, int]
    dtype: np.dtype


def is_latents(source: Place) -> bool:
    """Whether a folder holds `.npy` files, at any depth.

    Args:
        source: of `ganscale prepare`.

    Raises:
        ConfigError: it holds pictures, too.
    """
    if not isinstance(source, Path) or not source.is_dir():
        return False
    latent = next(_walk(source, frozenset({".npy"})), None)
    if latent is None:
        return False
    if picture := next(_walk(source, ENDINGS | NOT_READ), None):
        problem = f"holds latents ({latent.relative_to(source)}) and pictures ({picture.relative_to(source)})"
        raise ConfigError(problem, key="SOURCE", value=str(source), remedy="move one kind to another folder")
    return True


def _walk(source: Path, endings: frozenset[str]) -> Iterator[Path]:
    """The files with one of these endings, but for those that systems leave behind."""
    for path in source.rglob("*"):
        hidden = any(map(is_hidden, path.relative_to(source).parts))
        if path.suffix.lower() in endings and not hidden and path.is_file():
            yield path


def prepare_latents(source: Path, out: Place) -> str:
    """Convert all files below a folder, in the order of their names; the names of its folders are classes.

    The set counts from the moment on when its latents have their name; until then the same command starts again.

    Args:
        source: folder of `.npy` files, each one latent `[C, H, W]` or several `[n, C, H, W]`.
        out: new folder.

    Returns:
        A report for the user.

    Raises:
        ConfigError: a file is no latent, the shapes differ, or the folder cannot be used.
        OSError: it cannot be written.
    """
    out = _begin(source, out)
    paths = sorted(_walk(source, frozenset({".npy"})), key=lambda path: path.relative_to(source).parts)
    files = [_header(path, source) for path in paths]
    for file in files:
        if file.shape != files[0].shape:
            problem = f"has latents of {list(file.shape)}, {paths[0].relative_to(source)} of {list(files[0].shape)}"
            raise _refused(problem, file.path, source)
    folders = [path.relative_to(source).parts[0] if path.parent != source else "" for path in paths]
    classes = tuple(sorted(set(folders))) if all(folders) else ()
    labels = np.array([classes.index(name) if classes else 0 for name in folders], np.int64)
    labels = np.repeat(labels, [file.count for file in files])
    found = _write(files, source, out, labels, classes)
    if classes:
        buffer = io.BytesIO()
        np.save(buffer, labels)
        write_synced(out / LABELS, buffer.getbuffer())
    write_synced(out / MANIFEST, found.as_text().encode())
    (out / PARTIAL).replace(out / LATENTS)
    return _report(found, out)


def _begin(source: Path, out: Place) -> Path:
    """Refuse a folder that holds something else than an interrupted attempt; of that, leave only the latents."""
    if not isinstance(out, Path):
        raise ConfigError("latents go to a folder", key="OUT", value=str(out), remedy="name a new folder")
    problem, one, other = "", out.resolve(), source.resolve()
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if one.is_relative_to(other) or other.is_relative_to(one):
        problem = "and SOURCE lie in each other"
    elif out.exists() and not out.is_dir():
        problem = "is not a folder"
    elif others := found - ({PARTIAL, LABELS, MANIFEST} if PARTIAL in found else set()):
        problem = f"is not empty: it holds {min(others)}"
    if problem:
        raise ConfigError(problem, key="OUT", value=str(out), remedy="name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in (LABELS, MANIFEST):
        (out / name).unlink(missing_ok=True)
    return out


def _write(files: Sequence[_File], source: Path, out: Path, labels: np.ndarray, classes: tuple[str, ...]) -> LatentSet:
    """Copy the latents to `PARTIAL`, and find out what is known of them."""
    shape, dtype = files[0].shape, np.dtype(np.float16 if all(f.dtype.itemsize < 4 for f in files) else np.float32)
    whole = (len(labels), *shape)
    digest = hashlib.sha256(json.dumps([dtype.str, whole, classes, labels.tolist()]).encode())
    sums, squares = np.zeros(shape[0]), np.zeros(shape[0])
    with (out / PARTIAL).open("wb") as target:
        header = {"descr": dtype.str, "fortran_order": False, "shape": whole}
        np.lib.format.write_array_header_1_0(target, header)
        for part in _parts(files, source, dtype):
            sums += part.sum((0, 2, 3), np.float64)
            squares += np.square(part, dtype=np.float64).sum((0, 2, 3))
            digest.update(part.data)
            target.write(part.data)
        target.flush()
        os.fsync(target.fileno())
    size = len(labels) * shape[1] * shape[2]
    mean = sums / size
    std = np.sqrt(np.maximum(squares / size - mean**2, 0.0))
    if constant := np.flatnonzero(std <= 1e-6 * np.abs(mean)).tolist():
        problem, remedy = f"channels {constant} are the same in all latents", "leave them out"
        raise ConfigError(problem, key="SOURCE", value=str(source), remedy=remedy)
    numbers, copied = (tuple(mean.tolist()), tuple(std.tolist())), np.load(out / PARTIAL, mmap_mode="r")
    marks = digest.hexdigest(), sample_hash(copied, labels if classes else None)
    return LatentSet(len(labels), shape, *numbers, classes, *marks)


def _parts(files: Sequence[_File], source: Path, dtype: np.dtype) -> Iterator[np.ndarray]:
    """All latents in order, of a file at most `_PART` at a time."""
    for file in files:
        array = _open(file.path, source)
        if array.shape != (file.count, *file.shape):
            raise _refused("has changed meanwhile", file.path, source)
        for start in range(0, len(array), _PART):
            part = np.ascontiguousarray(array[start : start + _PART], dtype)
            if not np.isfinite(part).all():
                raise _refused("holds numbers that are not finite", file.path, source)
            yield part


def _report(found: LatentSet, out: Path) -> str:
    """The report for the terminal."""
    _, height, width = found.shape
    size, side = "x".join(map(str, found.shape)), str(height) if height == width else f"[{height},{width}]"
    kinds = f" of {len(found.classes)} classes" if found.classes else ""
    numbers = ", ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(found.mean, found.std, strict=True))
    return (
        f"{found.num_images:,} latents {size}{kinds}: {out}\n  channels (mean ± deviation): {numbers}\n"
        f"  train with data.name=latents data.path={out} data.resolution={side}"
    )


def _header(path: Path, source: Path) -> _File:
    """What a file holds. It is not kept open, as a system limits the number of open files."""
    array = _open(path, source)
    count, channels, height, width = array.shape
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        problem = f"has latents of {height} x {width} numbers, and a run takes {MIN_SIDE} to {MAX_SIDE} on each side"
        raise _refused(problem, path, source)
    return _File(path, count, (channels, height, width), array.dtype)


def _open(path: Path, source: Path) -> np.ndarray:
    """A file's latents `[n, C, H, W]`, mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refused(f"cannot be read ({error})", path, source) from None
    if array.ndim not in (3, 4) or array.dtype.kind != "f" or not array.size:
        raise _refused(f"has {array.dtype} {list(array.shape)}, no floats [C, H, W] or [n, C, H, W]", path, source)
    return array if array.ndim == 4 else array[None]


def _refused(problem: str, path: Path, source: Path) -> ConfigError:
    name = str(path.relative_to(source))
    return ConfigError(f"{name} {problem}", key="SOURCE", value=str(source), remedy="repair or remove it")
