"""MNIST from the files in the package: no network, no download stampede.

MNIST: Yann LeCun, Corinna Cortes, Christopher J. C. Burges, made from NIST's Special Databases 1 and 3 (CC BY-SA 3.0).
The four IDX files hold the original bytes.
"""

import gzip
import struct
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ganscale.config import Config
from ganscale.config.datasets import Resolution, height_width
from ganscale.data.images import HELD_OUT, ImageSource, StackedSource, held_out_reader, normalize, triple_classes
from ganscale.data.source import LabeledReader
from ganscale.parallel.random import Stream

FILES = Path(__file__).parent / "files"
_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049


def load_mnist(split: Literal["train", "test"] = "train", resolution: int = 28) -> tuple[Tensor, Tensor]:
    """Read a split: images uint8 `[N, 1, resolution, resolution]` and labels int64 `[N]`; N is 60,000 or 10,000.

    28 pixels are the original; 32 adds a black border of 2; other sizes are resized (bilinear, antialiased).

    Args:
        split: train or test.
        resolution: side in pixels.

    Raises:
        ValueError: a bundled file is damaged.
        FileNotFoundError: a bundled file is missing.
    """
    stem = "train" if split == "train" else "t10k"
    images = torch.from_numpy(_read_idx(FILES / f"{stem}-images-idx3-ubyte.gz", _IMAGES_MAGIC)).unsqueeze(1)
    labels = torch.from_numpy(_read_idx(FILES / f"{stem}-labels-idx1-ubyte.gz", _LABELS_MAGIC)).long()
    return fit(images, resolution), labels


def fit(images: Tensor, resolution: int) -> Tensor:
    """Bring images to another resolution, as `load_mnist` describes: uint8 `[N, 1, resolution, resolution]`.

    Args:
        images: uint8 `[N, 1, 28, 28]`.
        resolution: side in pixels.
    """
    if resolution == 28:
        return images
    if resolution == 32:
        return pad(images, (2, 2, 2, 2))
    size = (resolution, resolution)
    resized = [interpolate(part, size, mode="bilinear", antialias=True) for part in images.float().split(10_000)]
    return torch.cat([part.round_().clamp_(0, 255).byte() for part in resized])


@lru_cache(maxsize=2)
def digits(split: Literal["train", "test"], resolution: Resolution) -> tuple[Tensor, Tensor]:
    """A split, read once for all that needs it in one process: runs, D's probe, evaluations; nobody writes to it.

    Args:
        split: train or test.
        resolution: of the images in pixels.
    """
    return load_mnist(split, height_width(resolution)[0])


def open_mnist(config: Config, device: torch.device, dtype: torch.dtype) -> ImageSource:
    """The training digits of a run.

    Args:
        config: the run.
        device: where the images are kept.
        dtype: of the normalized images.
    """
    images, labels = digits("train", config.data.resolution)
    return ImageSource(images, labels, 10, seed=config.run.seed, device=device, dtype=dtype)


def open_stacked_mnist(config: Config, device: torch.device, dtype: torch.dtype) -> StackedSource:
    """The triples of digits of a run.

    Args:
        config: the run.
        device: where the digits are kept.
        dtype: of the normalized images.
    """
    images, labels = digits("train", config.data.resolution)
    return StackedSource(images, labels, config.data.num_images, seed=config.run.seed, device=device, dtype=dtype)


def held_out_digits(config: Config, count: int, seed: int) -> LabeledReader:
    """Random test digits.

    Args:
        config: the run.
        count: how many; with replacement if above 10,000.
        seed: of the draw.
    """
    return held_out_reader(*digits("test", config.data.resolution), count, seed)


def held_out_triples(config: Config, count: int, seed: int) -> LabeledReader:
    """Random triples of test digits.

    Args:
        config: the run.
        count: how many.
        seed: of the draw.
    """
    images, labels = digits("test", config.data.resolution)
    rows = Stream(seed, HELD_OUT).integers(0, count, len(images), (3,))

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        triples = rows[start:stop]
        return normalize(images[triples].squeeze(2), torch.float32), triple_classes(labels[triples])

    return read


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """One IDX file: big-endian magic number and sizes, then bytes."""
    with gzip.open(path, "rb") as file:
        raw = file.read()
    if struct.unpack(">i", raw[:4])[0] != magic:
        raise ValueError(f"{path} is damaged: wrong magic number; reinstall ganscale")
    ndim = raw[3]
    shape = struct.unpack(f">{ndim}i", raw[4 : 4 + 4 * ndim])
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * ndim)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} is damaged: it holds {values.size} bytes, not {np.prod(shape)}; reinstall ganscale")
    return values.reshape(shape).copy()
