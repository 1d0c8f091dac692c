"""Image sets that fit on the device: kept there as bytes, gathered and normalized there, no per-image Python."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ganscale.data.order import Order, draw
from ganscale.data.source import Finite, LabeledReader, Prefetching, Source
from ganscale.parallel.random import Stream

HELD_OUT = "evaluation/held_out"
"""Stream of the draws of held-out examples."""


class ImageSource(Source, Finite, Prefetching):
    """A finite set of `num_images` images in an order that is a function of (seed, epoch).

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        num_classes: number of classes.
        seed: the run's seed.
        device: where the images are kept and normalized.
        dtype: of the normalized images.
        mirror: whether half of the images, by position, are mirrored.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        mirror: bool = False,
    ) -> None:
        self.shape = tuple(images.shape[1:])
        self.num_classes = num_classes
        self.num_images = len(images)
        self.dtype = dtype
        self.order = Order(seed, self.num_images, device)
        self._mirror = Stream(seed, "data/mirror", device) if mirror else None
        self.images = images.to(device)
        self.labels = labels.to(device)

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute the order ahead (part of `Prefetching`)."""
        self.order.expect(requests)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images `[stop - start, C, H, W]` in [-1, 1] and classes `[stop - start]` (part of `Source`)."""
        images, labels = self.gather(self.order.rows(start, stop))
        return mirrored(images, self._mirror, start), labels

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, C, H, W]` in [-1, 1] and classes of rows of the set (part of `Finite`)."""
        rows = rows.to(self.images.device)
        return normalize(self.images.index_select(0, rows), self.dtype), self.classes(rows)

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the set (part of `Finite`)."""
        return self.labels.index_select(0, rows.to(self.labels.device))

    def state_hash(self) -> str:
        """SHA-256 of all images and labels."""
        digest = hashlib.sha256(self.images.cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().data)
        return digest.hexdigest()


class StackedSource(ImageSource):
    """Stacked MNIST (Metz et al. 2017): three random digits as the channels of one image, 1000 classes.

    Args:
        images: uint8 digits `[N, 1, H, W]`.
        labels: int64 digits' classes `[N]`, 0 to 9.
        num_images: number of triples in the set.
        seed: the run's seed.
        device: where the digits are kept.
        dtype: of the normalized images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_images: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(images, labels, 1000, seed=seed, device=device, dtype=dtype)
        self.shape = (3, *self.shape[1:])
        self.num_images = num_images
        self.order = Order(seed, num_images, device)
        self.triples = Stream(seed, "data/triples").integers(0, num_images, len(images), (3,)).to(device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 3, H, W]` and classes 100 a + 10 b + c of rows of triples."""
        triples = self.triples.index_select(0, rows.to(self.triples.device))
        images = self.images.index_select(0, triples.flatten()).view(-1, *self.shape)
        return normalize(images, self.dtype), self.classes(rows)

    def classes(self, rows: Tensor) -> Tensor:
        """Classes 100 a + 10 b + c of rows of triples."""
        return triple_classes(self.labels[self.triples.index_select(0, rows.to(self.triples.device))])

    def state_hash(self) -> str:
        """SHA-256 of all digits and triples."""
        triples = hashlib.sha256(self.triples.cpu().numpy().data).hexdigest()
        return f"{super().state_hash()}/{triples}"


def triple_classes(digits: Tensor) -> Tensor:
    """Classes 100 a + 10 b + c of triples: int64 `[n]`.

    Args:
        digits: their digits' classes, int64 `[n, 3]`.
    """
    return digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2]


def held_out_reader(images: Tensor, labels: Tensor, count: int, seed: int) -> LabeledReader:
    """`count` random images of a test set and their classes.

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        count: how many; with replacement if above N.
        seed: of the draw.
    """
    rows = draw(len(images), count, seed=seed, stream=HELD_OUT)
    return lambda start, stop: (normalize(images[rows[start:stop]], torch.float32), labels[rows[start:stop]])


def mirrored(images: Tensor, stream: Stream | None, position: int) -> Tensor:
    """Mirror half of the images, chosen by global position.

    Args:
        images: `[N, C, H, W]`.
        stream: decides by position; None mirrors no image.
        position: global position of the first image.
    """
    if stream is None:
        return images
    chosen = stream.uniform(position, position + len(images)) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def normalize(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes 0 to 255 to numbers in [-1, 1].

    Args:
        images: uint8, any shape.
        dtype: of the result.
    """
    return images.to(dtype).mul_(2.0 / 255.0).sub_(1.0)
