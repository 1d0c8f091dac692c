"""What an architecture must fit: the shape of the data and the length of z."""

import math
from dataclasses import dataclass

from ganscale.config.datasets import Resolution


@dataclass(frozen=True)
class Geometry:
    """Shapes that both networks agree on.

    Attributes:
        shape: of one example: `(C, H, W)` for images, `(2,)` for points.
        latent_dim: length of z.
        num_classes: classes of the labels that conditional networks are given; 0 without labels.
    """

    shape: tuple[int, ...]
    latent_dim: int
    num_classes: int = 0

    @property
    def is_image(self) -> bool:
        """Images lie in [-1, 1]; points are unbounded."""
        return len(self.shape) == 3

    @property
    def resolution(self) -> Resolution:
        """Side of square images, or height and width."""
        _, height, width = self.shape
        return height if height == width else (height, width)

    @property
    def size(self) -> int:
        """Numbers in one example."""
        return math.prod(self.shape)
