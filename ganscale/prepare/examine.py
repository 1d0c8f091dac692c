"""One picture checked, converted and measured; the work of a process of `ganscale prepare`."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np
from PIL import Image

from ganscale.config.datasets import Resolution
from ganscale.data.files import Files, read
from ganscale.data.pictures import Rules, decode
from ganscale.storage.store import StorePath

CHUNK = 16
"""Pictures that a process is given at a time."""
_WAITING = 4
"""Chunks per process that may be finished or waiting, which bounds the memory."""
_THUMB = (9, 8)


@dataclass(frozen=True)
class Examined:
    """A picture as it will be stored, and what the report needs of it.

    Attributes:
        name: of its source.
        problem: why it cannot be read; empty if it can. The other attributes are then empty.
        content: PNG.
        digest: SHA-256 of the pixels.
        thumb: the picture as `[8, 9]` gray bytes, 72 bytes.
        sums: of the values of each channel.
        squares: sums of their squares.
    """

    name: str
    problem: str = ""
    content: bytes = b""
    digest: bytes = b""
    thumb: bytes = b""
    sums: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()


def examine(content: bytes, name: str, resolution: Resolution, rules: Rules) -> Examined:
    """Decode a picture as training does, and encode it without loss.

    Args:
        content: of its file.
        name: of its file.
        resolution: of the image in pixels.
        rules: by which it is read.

    Raises:
        ValueError: it cannot be read.
    """
    pixels = decode(content, resolution, rules)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    flat = pixels.reshape(len(pixels), -1).astype(np.int64)
    return Examined(
        name,
        content=buffer.getvalue(),
        digest=hashlib.sha256(np.ascontiguousarray(pixels).data).digest(),
        thumb=picture.convert("RGB").convert("L").resize(_THUMB, Image.Resampling.BOX).tobytes(),
        sums=tuple(flat.sum(1).tolist()),
        squares=tuple((flat * flat).sum(1).tolist()),
    )


class _Worker:
    """What a process keeps between chunks."""

    files: Files
    resolution: Resolution
    rules: Rules


def _start(files: Files, resolution: Resolution, rules: Rules) -> None:
    _Worker.files, _Worker.resolution, _Worker.rules = files, resolution, rules


def _examine_all(names: Sequence[str]) -> list[Examined]:
    found = []
    for name in names:
        try:
            found.append(examine(read(_Worker.files, name), name, _Worker.resolution, _Worker.rules))
        except OSError as error:
            if isinstance(_Worker.files.path, StorePath):
                raise  # the storage fails, not the picture
            found.append(Examined(name, f"cannot be read: {error.strerror or error}"))
        except Exception as error:  # zipfile and Pillow raise many kinds on damaged input
            found.append(Examined(name, str(error) if isinstance(error, ValueError) else f"cannot be read: {error}"))
    return found


def examine_all(
    files: Files, names: Sequence[str], resolution: Resolution, rules: Rules, *, workers: int
) -> Iterator[Examined]:
    """All pictures in the order of their names, examined by several processes; memory stays bounded.

    Args:
        files: that hold them.
        names: of the pictures.
        resolution: of the images in pixels.
        rules: by which they are read.
        workers: processes; with 1 this process does the work.
    """
    chunks = (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
    if workers == 1:
        _start(files, resolution, rules)
        for chunk in chunks:
            yield from _examine_all(chunk)
        return
    # Not forked: a bucket's client has threads.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start, initargs=(files, resolution, rules)
    ) as pool:
        waiting: list[Future[list[Examined]]] = []
        try:
            waiting += [pool.submit(_examine_all, chunk) for chunk in islice(chunks, _WAITING * workers)]
            while waiting:
                yield from waiting.pop(0).result()
                waiting += [pool.submit(_examine_all, chunk) for chunk in islice(chunks, 1)]
        finally:
            for future in waiting:
                future.cancel()
