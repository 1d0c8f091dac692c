"""2-D mixtures of Gaussians: the ring and the grid of VEEGAN and PacGAN (Lin et al. 2018, section 4.1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganscale.config import DATASETS, Config
from ganscale.config.table import resolve
from ganscale.data.images import HELD_OUT
from ganscale.data.source import LabeledReader, Source
from ganscale.parallel.random import Stream, derive_seed


def ring(num_modes: int = 8, radius: float = 1.0) -> Tensor:
    """Centers on a circle: float64 `[num_modes, 2]`. The benchmark's sigma is 0.01.

    Args:
        num_modes: number of centers.
        radius: of the circle.
    """
    angle = torch.arange(num_modes, dtype=torch.float64) * (2.0 * math.pi / num_modes)
    return radius * torch.stack((angle.cos(), angle.sin()), dim=1)


def grid(side: int = 5, spacing: float = 2.0) -> Tensor:
    """Centers on a square grid around 0, {-4, -2, 0, 2, 4}^2: float64 `[side^2, 2]`. The benchmark's sigma is 0.05.

    Args:
        side: centers along each axis.
        spacing: between neighbors.
    """
    line = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    return torch.cartesian_prod(line, line)


class Mixture(NamedTuple):
    """Gaussians of equal weight.

    Attributes:
        centers: of the modes, float64 `[M, 2]`.
        sigma: standard deviation of each mode.
    """

    centers: Tensor
    sigma: float


RING, GRID = Mixture(ring(), 0.01), Mixture(grid(), 0.05)


class PointSource(Source):
    """An endless stream of fresh points: point p is a function of (seed, p).

    Args:
        centers: of the modes, `[M, 2]`.
        sigma: standard deviation of each mode.
        seed: the run's seed.
        device: where the points are made.
        dtype: of the points.
    """

    def __init__(
        self, centers: Tensor, sigma: float, *, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.shape: tuple[int, ...] = (2,)
        self.num_classes = len(centers)
        self.sigma = sigma
        self.centers = centers.to(device=device, dtype=dtype)
        self._modes = Stream(seed, "data/mode", device)
        self._noise = Stream(seed, "data/noise", device)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Points `[stop - start, 2]` and their modes `[stop - start]` (part of `Source`)."""
        modes = self._modes.integers(start, stop, self.num_classes, (1,)).squeeze(1)
        noise = self._noise.normal(start, stop, (2,), self.centers.dtype)
        return self.centers[modes] + self.sigma * noise, modes


def open_points(config: Config, device: torch.device, dtype: torch.dtype) -> PointSource:
    """The points of a run whose data set has a `mixture`.

    Args:
        config: the run.
        device: where the points are made.
        dtype: of the points.
    """
    mixture: Mixture = resolve(DATASETS[config.data.name].mixture)
    return PointSource(*mixture, seed=config.run.seed, device=device, dtype=dtype)


def held_out_points(config: Config, count: int, seed: int) -> LabeledReader:
    """Points that no run trains on, float64.

    Args:
        config: a run whose data set has a `mixture`.
        count: how many; ignored, as there is no end of them.
        seed: of the points.
    """
    mixture: Mixture = resolve(DATASETS[config.data.name].mixture)
    own = derive_seed(seed, HELD_OUT)
    return PointSource(*mixture, seed=own, device=torch.device("cpu"), dtype=torch.float64).read
