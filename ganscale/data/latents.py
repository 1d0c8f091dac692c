"""Prepared latents of an autoencoder: float arrays that a run trains on in place of pictures.

A set, made by `ganscale prepare`, is a folder with `latents.npy` `[N, C, H, W]`, which gets its name last, with classes
`labels.npy` int64 `[N]`, and `latents.json` (`LatentSet`). Networks see each channel with mean 0 and the standard
deviation `SPREAD`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganscale.config import Config, ConfigError
from ganscale.config.checks import MAX_PIXELS
from ganscale.config.datasets import Resolution, as_resolution, height_width
from ganscale.data.order import Order
from ganscale.data.source import Finite, Prefetching, Source

LATENTS, LABELS, MANIFEST = "latents.npy", "labels.npy", "latents.json"
FORMAT = "ganscale.latents/1"
SPREAD = 0.5
"""Standard deviation that networks see, as in EDM2 (Karras et al. 2024): nearly all numbers then lie in [-1, 1]."""
SEEN = 16
"""Latents that are hashed and compared when a set is opened, in place of all."""


@dataclass(frozen=True)
class LatentSet:
    """What is known of a prepared set.

    Attributes:
        num_images: number of latents.
        shape: of one: `(C, H, W)`.
        mean: of each channel.
        std: standard deviation of each channel, above 0.
        classes: their names, in the order of their numbers; empty without classes.
        data_hash: SHA-256 of shape, numbers and classes.
        sample_hash: of `sample_hash`.
    """

    num_images: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    data_hash: str
    sample_hash: str

    def as_text(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"


def sample_hash(latents: np.ndarray, labels: np.ndarray | None) -> str:
    """SHA-256 of some latents and all classes, by which files are noticed that are not those of the set.

    Args:
        latents: `[N, C, H, W]`; `SEEN` of them are read, evenly spaced.
        labels: int64 `[N]`; None without classes.
    """
    rows = sorted({row * len(latents) // SEEN for row in range(SEEN)})
    digest = hashlib.sha256(np.ascontiguousarray(latents[rows]).data)
    digest.update(b"" if labels is None else np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def read_set(path: Path) -> LatentSet:
    """What a prepared set holds.

    Args:
        path: its folder.

    Raises:
        ConfigError: there is none, or its files do not fit together.
    """
    try:
        content: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"{MANIFEST} is not of the format {FORMAT}")
        lists: dict[str, Any] = {name: tuple(x) for name, x in content.items() if isinstance(x, list)}
        found = LatentSet(**content | lists)
        _check_files(path, found)
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "name a set of latents that `ganscale prepare FOLDER OUT` made of .npy files"
        raise ConfigError(f"no prepared latents ({error})", key="data.path", value=str(path), remedy=remedy) from None
    return found


def _check_files(path: Path, found: LatentSet) -> None:
    """Refuse files that do not fit together.

    Raises:
        ValueError: they do not.
        OSError: one cannot be read.
    """
    are_whole = all(len(numbers) == found.shape[0] for numbers in (found.mean, found.std))
    if not (are_whole and all(map(math.isfinite, found.mean + found.std)) and min(found.std) > 0):
        raise ValueError(f"{MANIFEST} does not have a mean and a deviation above 0 of each channel")
    latents = np.load(path / LATENTS, mmap_mode="r")
    if latents.shape != (found.num_images, *found.shape) or latents.dtype not in (np.float16, np.float32):
        raise ValueError(f"{LATENTS} is not the one of {MANIFEST}")
    labels = np.load(path / LABELS) if found.classes else None
    if labels is not None and (labels.shape != (found.num_images,) or labels.dtype != np.int64):
        raise ValueError(f"{LABELS} is not the one of {MANIFEST}")
    if sample_hash(latents, labels) != found.sample_hash:
        raise ValueError(f"{LATENTS} or {LABELS} has been replaced since the set was prepared")


class LatentSource(Source, Finite, Prefetching):
    """Latents in an order that is a function of (seed, epoch), read from the mapped file.

    Args:
        path: folder of the prepared set.
        seed: the run's seed.
        device: where batches go.
        dtype: of the latents.

    Attributes:
        scale: of each channel the latent of the networks' 0, and of their 1 more than that.

    Raises:
        ConfigError: as `read_set`.
    """

    def __init__(self, path: Path, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.found = read_set(path)
        self.shape, self.num_images = self.found.shape, self.found.num_images
        self.num_classes, self.class_names = len(self.found.classes), self.found.classes
        self.scale = tuple((mean, std / SPREAD) for mean, std in zip(self.found.mean, self.found.std, strict=True))
        self.order = Order(seed, self.num_images)
        self._latents = np.load(path / LATENTS, mmap_mode="r")
        labels = np.load(path / LABELS) if self.num_classes else np.zeros(self.num_images, np.int64)
        self._labels = torch.from_numpy(labels).to(device)
        self._device, self._dtype = device, dtype

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute the order ahead (part of `Prefetching`)."""
        self.order.expect(requests)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Latents `[stop - start, C, H, W]` and classes `[stop - start]`, if there are (part of `Source`)."""
        latents, labels = self.gather(self.order.rows(start, stop))
        return latents, labels if self.num_classes else None

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[n, C, H, W]` and classes of rows of the set (part of `Finite`)."""
        found = torch.from_numpy(self._latents[rows.cpu().numpy()]).to(self._device, self._dtype)
        zero, one = torch.tensor(self.scale, dtype=self._dtype, device=self._device).T[:, :, None, None]
        return (found - zero) / one, self.classes(rows)

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the set; 0 where there are none (part of `Finite`)."""
        return self._labels[rows.to(self._device)]

    def state_hash(self) -> str:
        """SHA-256 of all latents and classes, as they were prepared (part of `Finite`)."""
        return self.found.data_hash


def open_latents(config: Config, device: torch.device, dtype: torch.dtype) -> LatentSource:
    """The latents of a run.

    Args:
        config: the run.
        device: where batches go.
        dtype: of the latents.
    """
    return LatentSource(Path(config.data.path).expanduser(), seed=config.run.seed, device=device, dtype=dtype)


def check_latents(config: Config, *, scores: bool = False) -> None:
    """Refuse a set that is not there or does not fit the config.

    Args:
        config: the run.
        scores: whether there must be scores.

    Raises:
        ConfigError: for the first problem.
    """
    found = read_set(Path(config.data.path).expanduser())
    if found.shape[1:] != height_width(config.data.resolution):
        given, wanted = (_as_written(sides) for sides in (config.data.resolution, as_resolution(found.shape[1:])))
        problem = f"the latents have {found.shape[1]} x {found.shape[2]} numbers"
        raise ConfigError(problem, key="data.resolution", value=given, remedy=f"use {wanted}")
    size = math.prod(found.shape)
    if size > MAX_PIXELS and (scores or 0 < config.eval.every <= config.train.images):
        problem = f"latents of {size} numbers are too large to be their own features (at most {MAX_PIXELS})"
        if scores:
            remedy = "score the pictures that they are decoded to, with another program"
            raise ConfigError(problem, key="eval.extractor", value=config.eval.extractor, remedy=remedy)
        raise ConfigError(problem, key="eval.every", value=config.eval.every, remedy="use 0: no evaluation")


def _as_written(resolution: Resolution) -> int | list[int]:
    return resolution if isinstance(resolution, int) else list(resolution)
