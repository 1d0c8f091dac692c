"""Where numbers and pictures go. Rank 0 alone tracks."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Tracker(Protocol):
    """A place for a run's numbers and pictures; the x axis is images."""

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Keep a row of numbers."""
        ...

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Keep a picture: uint8 `[H, W, 3]`."""
        ...

    def close(self, *, completed: bool) -> None:
        """Finish; `completed` tells whether the run reached its end."""
        ...
