"""A folder of `.npy` latents converted to a set of `ganscale.data.latents`."""

import hashlib
import json
from pathlib import Path

import numpy as np

from ganscale.config import ConfigError
from ganscale.data.latents import LABELS, LATENTS, MANIFEST, LatentSet
from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place

_PART = 1024


def is_latents(source: Place) -> bool:
    """Whether a folder holds `.npy` files, at any depth.

    Args:
        source: of `ganscale prepare`.
    """
    return isinstance(source, Path) and source.is_dir() and next(source.rglob("*.npy"), None) is not None


def prepare_latents(source: Path, out: Place) -> str:
    """Convert all files below a folder, in the order of their names; the names of its folders are classes.

    Args:
        source: folder of `.npy` files, each one latent `[C, H, W]` or several `[n, C, H, W]`.
        out: new folder.

    Returns:
        A report for the user.

    Raises:
        ConfigError: a file is no latent, the shapes differ, or the folder cannot be used.
        OSError: it cannot be written.
    """
    if not isinstance(out, Path):
        raise ConfigError("latents go to a folder", key="OUT", value=str(out), remedy="name a new folder")
    if out.exists() and any(path.name != LATENTS for path in out.iterdir()):
        raise ConfigError("holds other files", key="OUT", value=str(out), remedy="name a new folder")
    files = sorted(source.rglob("*.npy"), key=lambda path: path.relative_to(source).parts)
    arrays = [(path, _open(path, source)) for path in files]
    shape, dtype = arrays[0][1].shape[1:], np.result_type(*(array.dtype for _, array in arrays))
    dtype = dtype if dtype.itemsize < 4 else np.dtype(np.float32)
    for path, array in arrays:
        if array.shape[1:] != shape:
            problem = f"has latents of {list(array.shape[1:])}, {files[0].relative_to(source)} of {list(shape)}"
            raise _refused(problem, path, source)
    folders = [path.relative_to(source).parts[0] if path.parent != source else "" for path in files]
    classes = tuple(sorted(set(folders))) if all(folders) else ()
    counts = [len(array) for _, array in arrays]
    labels = np.repeat([classes.index(name) if classes else 0 for name in folders], counts)
    out.mkdir(parents=True, exist_ok=True)
    target = np.lib.format.open_memmap(out / LATENTS, mode="w+", dtype=dtype, shape=(sum(counts), *shape))
    digest = hashlib.sha256(json.dumps([dtype.str, target.shape, classes, labels.tolist()]).encode())
    sums, squares, done = np.zeros(shape[0]), np.zeros(shape[0]), 0
    for path, array in arrays:
        for start in range(0, len(array), _PART):
            part = np.ascontiguousarray(array[start : start + _PART], dtype)
            if not np.isfinite(part).all():
                raise _refused("holds numbers that are not finite", path, source)
            sums += part.sum((0, 2, 3), np.float64)
            squares += np.square(part, dtype=np.float64).sum((0, 2, 3))
            digest.update(part.data)
            target[done : done + len(part)] = part
            done += len(part)
    target.flush()
    mean = sums / target[:, 0].size
    std = np.sqrt(np.maximum(squares / target[:, 0].size - mean**2, 0.0))
    if constant := np.flatnonzero(std <= 1e-6 * np.abs(mean)).tolist():
        problem, remedy = f"channels {constant} are the same in all latents", "leave them out"
        raise ConfigError(problem, key="SOURCE", value=str(source), remedy=remedy)
    if classes:
        np.save(out / LABELS, labels)
    found = LatentSet(done, shape, tuple(mean.tolist()), tuple(std.tolist()), classes, digest.hexdigest())
    write_atomically(out / MANIFEST, found.as_text())
    size = "x".join(map(str, shape))
    kinds = f" of {len(classes)} classes" if classes else ""
    numbers = ", ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(found.mean, found.std, strict=True))
    return (
        f"{done:,} latents {size}{kinds}: {out}\n  channels (mean ± deviation): {numbers}\n"
        f"  train with data.name=latents data.path={out} data.resolution="
        + (str(shape[1]) if shape[1] == shape[2] else f"[{shape[1]},{shape[2]}]")
    )


def _open(path: Path, source: Path) -> np.ndarray:
    """A file's latents `[n, C, H, W]`, mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _refused(f"cannot be read ({error})", path, source) from None
    if array.ndim not in (3, 4) or array.dtype.kind != "f" or not array.size:
        raise _refused(f"has {array.dtype} {list(array.shape)}, no floats [C, H, W] or [n, C, H, W]", path, source)
    return array if array.ndim == 4 else array[None]


def _refused(problem: str, path: Path, source: Path) -> ConfigError:
    name = str(path.relative_to(source))
    return ConfigError(f"{name} {problem}", key="SOURCE", value=str(source), remedy="repair or remove it")
