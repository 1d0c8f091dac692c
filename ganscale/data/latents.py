"""Prepared latents of an autoencoder: float arrays that a run trains on in place of pictures.

A set, made by `ganscale prepare`, is a folder with `latents.npy` `[N, C, H, W]`, with classes `labels.npy` int64 `[N]`,
and `latents.json` (`LatentSet`), which is written last. Networks see each channel with mean 0 and the standard
deviation `SPREAD`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganscale.config import Config, ConfigError
from ganscale.config.checks import MAX_PIXELS
from ganscale.config.datasets import height_width
from ganscale.data.order import Order
from ganscale.data.source import Finite, Prefetching, Source

LATENTS, LABELS, MANIFEST = "latents.npy", "labels.npy", "latents.json"
FORMAT = "ganscale.latents/1"
SPREAD = 0.5
"""Standard deviation that networks see, as in EDM2 (Karras et al. 2024): nearly all numbers then lie in [-1, 1]."""


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
    """

    num_images: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    data_hash: str

    def as_text(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"


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
        if np.load(path / LATENTS, mmap_mode="r").shape != (found.num_images, *found.shape):
            raise ValueError(f"{LATENTS} is not the one of {MANIFEST}")
        if found.classes and np.load(path / LABELS, mmap_mode="r").shape != (found.num_images,):
            raise ValueError(f"{LABELS} is not the one of {MANIFEST}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "name a set of latents that `ganscale prepare FOLDER OUT` made of .npy files"
        raise ConfigError(f"no prepared latents ({error})", key="data.path", value=str(path), remedy=remedy) from None
    return found


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


def check_latents(config: Config) -> None:
    """Refuse a set that is not there or does not fit the config.

    Args:
        config: the run.

    Raises:
        ConfigError: for the first problem.
    """
    found = read_set(Path(config.data.path).expanduser())
    if found.shape[1:] != height_width(config.data.resolution):
        value, wanted = config.data.resolution, found.shape[1] if found.shape[1] == found.shape[2] else found.shape[1:]
        problem, remedy = f"the latents have {found.shape[1]} x {found.shape[2]} numbers", f"use {wanted}"
        raise ConfigError(problem, key="data.resolution", value=value, remedy=remedy)
    size = int(np.prod(found.shape))
    if 0 < config.eval.every <= config.train.images and size > MAX_PIXELS:
        problem = f"latents of {size} numbers are too large to be their own features (at most {MAX_PIXELS})"
        raise ConfigError(problem, key="eval.every", value=config.eval.every, remedy="use 0: no evaluation")
