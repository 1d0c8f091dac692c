"""What an architecture must fit: the shape of the data and the length of z."""

import math
from dataclasses import dataclass


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
    def resolution(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.shape[1], self.shape[2]

    @property
    def size(self) -> int:
        """Numbers in one example."""
        return math.prod(self.shape)
