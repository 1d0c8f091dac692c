"""Image sets that fit on the device: kept there as bytes, gathered and normalised there, no per-image Python."""

import torch
from torch import Tensor

from ganscale.random import Stream, permutation


class ImageSource:
    """A finite set of images in an order that is a function of (seed, epoch).

    Args:
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`.
        num_classes: number of classes.
        seed: the run's seed.
        device: where the images live and are normalised.
        dtype: of the normalised images.
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
    ) -> None:
        self.shape = tuple(images.shape[1:])
        self.num_classes = num_classes
        self.size = len(images)
        self.seed = seed
        self.dtype = dtype
        self.images = images.to(device)
        self.labels = labels.to(device)
        self._orders: dict[int, Tensor] = {}

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images `[stop - start, C, H, W]` in [-1, 1] and classes `[stop - start]`."""
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            end = min(self.size, offset + stop - start)
            pieces.append(self._order(epoch)[offset:end])
            start += end - offset
        return self.gather(pieces[0] if len(pieces) == 1 else torch.cat(pieces))

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and classes of rows of the set."""
        return normalise(self.images.index_select(0, rows), self.dtype), self.labels.index_select(0, rows)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            kept = {e: order for e, order in self._orders.items() if e == epoch - 1}
            order = permutation(self.seed, f"data/order/{epoch}", self.size)
            self._orders = {**kept, epoch: order.to(self.images.device)}
        return self._orders[epoch]


class StackedSource(ImageSource):
    """Stacked MNIST (Metz et al. 2017): three random digits as the channels of one image, 1000 classes.

    Args:
        images: uint8 digits `[N, 1, H, W]`.
        labels: int64 digits' classes `[N]`, 0 to 9.
        num_images: number of triples in the set.
        seed: the run's seed.
        device: where the digits live.
        dtype: of the normalised images.
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
        self.size = num_images
        self.triples = Stream(seed, "data/triples").integers(0, num_images, len(images), (3,)).to(device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 3, H, W]` and classes 100 a + 10 b + c of rows of triples."""
        triples = self.triples.index_select(0, rows)
        digits = self.labels[triples]
        classes = digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2]
        images = self.images.index_select(0, triples.flatten()).view(-1, *self.shape)
        return normalise(images, self.dtype), classes


def normalise(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes 0 to 255 to numbers in [-1, 1]."""
    return images.to(dtype).mul_(2.0 / 255.0).sub_(1.0)
