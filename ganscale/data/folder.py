"""A folder or a zip of pictures, decoded by DataLoader workers ahead of their use.

Classes are the names of the subfolders that hold pictures, sorted; pictures at the top have class 0.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganscale.config import Config, ConfigError
from ganscale.data.copy_ahead import CopyAhead, upload
from ganscale.data.images import mirrored, normalize
from ganscale.data.order import Order
from ganscale.data.source import Finite, Prefetching, Source
from ganscale.parallel.random import Stream

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = (1 << 30) // 12
"""Of a picture, as Pillow's own limit, at which Pillow only warns: 89 million."""
MAX_BYTES = 4 * MAX_PIXELS
"""Of a picture's file or zip entry, uncompressed."""


def list_pictures(path: Path) -> list[str]:
    """Names of all pictures in a folder (any depth) or zip, relative to it, sorted.

    Args:
        path: the folder or zip.

    Raises:
        FileNotFoundError: no such path.
        ValueError: it holds no picture, or is neither a folder nor a zip.
    """
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    elif not path.exists():
        raise FileNotFoundError(f"no such folder or zip: {path}")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    else:
        raise ValueError(f"neither a folder nor a zip: {path}")
    pictures = sorted(name for name in names if PurePosixPath(name).suffix.lower() in ENDINGS)
    if not pictures:
        raise ValueError(f"no picture ({', '.join(sorted(ENDINGS))}) in {path}")
    return pictures


def decode(content: bytes, resolution: int) -> np.ndarray:
    """One picture as bytes `[3, resolution, resolution]`: RGB, its central square, resized (Lanczos).

    Args:
        content: of the picture's file.
        resolution: side of the result in pixels.

    Raises:
        ValueError: it has more than `MAX_PIXELS` pixels.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are more than {MAX_PIXELS:,}")
        picture = opened.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    resized = picture.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    return np.array(resized, dtype=np.uint8).transpose(2, 0, 1)


class _Pictures(Dataset[Tensor]):
    """Decoded pictures by index; each DataLoader worker opens the zip for itself."""

    def __init__(self, path: Path, names: list[str], resolution: int) -> None:
        self.path, self.names, self.resolution = path, names, resolution
        self._archive: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        name = self.names[index]
        try:
            return torch.from_numpy(decode(self._read(name), self.resolution))
        except Exception as error:  # zipfile and Pillow raise many kinds on damaged input
            problem = f"cannot decode the picture {name}: {error}"
            remedy = "remove the picture, or replace it by an intact one of usual size"
            raise ConfigError(problem, key="data.path", value=str(self.path), remedy=remedy) from error

    def _read(self, name: str) -> bytes:
        """The content of a picture's file: never more than its stated size, nor than `MAX_BYTES`."""
        if self.path.is_dir():
            with (self.path / name).open("rb") as file:
                return _bounded(file, os.fstat(file.fileno()).st_size)
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.path)
        entry = self._archive.getinfo(name)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile bounds no other
            raise ValueError("the zip entry is neither stored nor deflated")
        with self._archive.open(entry) as file:
            return _bounded(file, entry.file_size)

    def state_hash(self) -> str:
        """SHA-256 of names and sizes in bytes."""
        if self.path.is_dir():
            sizes = [(self.path / name).stat().st_size for name in self.names]
        else:
            with zipfile.ZipFile(self.path) as archive:
                sizes = [archive.getinfo(name).file_size for name in self.names]
        return hashlib.sha256(repr(list(zip(self.names, sizes, strict=True))).encode()).hexdigest()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}


def _bounded(file: IO[bytes], size: int) -> bytes:
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are more than {MAX_BYTES:,}")
    return file.read(size)


class FolderSource(Source, Finite, Prefetching):
    """The `num_images` pictures of a folder or zip in an order that is a function of (seed, epoch).

    Args:
        path: the folder or zip.
        resolution: side of the images.
        seed: the run's seed.
        device: where batches go.
        dtype: of the normalized images.
        mirror: whether half of the images, by position, are mirrored.
        num_workers: DataLoader processes; 0 decodes in this process.
    """

    def __init__(
        self,
        path: Path,
        resolution: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        mirror: bool = False,
        num_workers: int = 0,
    ) -> None:
        names = list_pictures(path)
        folders = [str(PurePosixPath(name).parent) for name in names]
        classes = {folder: index for index, folder in enumerate(sorted(set(folders)))}
        self.shape: tuple[int, ...] = (3, resolution, resolution)
        self.num_classes = len(classes)
        self.num_images = len(names)
        self._labels = torch.tensor([classes[folder] for folder in folders])
        self._pictures = _Pictures(path, names, resolution)
        self._seed, self._order = seed, Order(seed, len(names))
        self._mirror = Stream(seed, "data/mirror", device) if mirror else None
        self._device, self._dtype, self._num_workers = device, dtype, num_workers
        self._expected: Iterator[tuple[int, int]] = iter(())
        self._ahead: Iterator[Sequence[Tensor]] | None = None

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute the order ahead; with DataLoader workers decode, and copy to a GPU, ahead (part of `Prefetching`)."""
        self._order.expect(requests)
        if self._num_workers:
            self._expected = requests()
            loader = DataLoader(
                self._pictures,
                batch_sampler=_Requests(Order(self._seed, self.num_images), requests),  # pyright: ignore[reportArgumentType]
                num_workers=self._num_workers,
                pin_memory=self._device.type == "cuda",
            )
            batches = self._labeled(iter(loader), requests())
            self._ahead = CopyAhead(batches, self._device) if self._device.type == "cuda" else batches

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images `[stop - start, 3, H, W]` in [-1, 1] and classes `[stop - start]` (part of `Source`).

        Raises:
            ConfigError: a picture is too large or cannot be decoded; the message names it.
        """
        batch = None
        if self._ahead is not None and next(self._expected) == (start, stop):
            with suppress(ConfigError):  # DataLoader drops its key: raise it again below
                batch = next(self._ahead)
        if batch is None:  # not the expected read: decode in this process from now on
            self._ahead = None
            rows = self._order.rows(start, stop)
            pictures = torch.stack([self._pictures[int(row)] for row in rows])
            batch = [upload(tensor, self._device) for tensor in (pictures, self._labels[rows])]
        images, labels = batch
        return mirrored(normalize(images, self._dtype), self._mirror, start), labels

    def _labeled(self, pictures: Iterator[Tensor], requests: Iterator[tuple[int, int]]) -> Iterator[Sequence[Tensor]]:
        """Decoded pictures of the expected reads with their classes, in host memory."""
        for images, (start, stop) in zip(pictures, requests, strict=False):
            yield images, self._labels[self._order.rows(start, stop)]

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 3, H, W]` in [-1, 1] and classes of rows of the sorted names (part of `Finite`).

        Raises:
            ConfigError: as `read`.
        """
        images = torch.stack([self._pictures[int(row)] for row in rows]).to(self._device)
        return normalize(images, self._dtype), self.classes(rows)

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the sorted names (part of `Finite`)."""
        return self._labels[rows.cpu()].to(self._device)

    def state_hash(self) -> str:
        """SHA-256 of the pictures' names and sizes in bytes."""
        return self._pictures.state_hash()


def open_folder(config: Config, device: torch.device, dtype: torch.dtype) -> FolderSource:
    """The pictures of a run.

    Args:
        config: the run.
        device: where batches go.
        dtype: of the images.
    """
    data, path = config.data, Path(config.data.path).expanduser()
    return FolderSource(
        path,
        data.resolution,
        seed=config.run.seed,
        device=device,
        dtype=dtype,
        mirror=data.mirror,
        num_workers=data.num_workers,
    )


class _Requests:
    """Rows of each expected read, for the DataLoader."""

    def __init__(self, order: Order, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        self._order, self._requests = order, requests

    def __iter__(self) -> Iterator[list[int]]:
        self._order.expect(self._requests)
        for start, stop in self._requests():
            yield self._order.rows(start, stop).tolist()
