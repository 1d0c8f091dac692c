"""The real examples of an evaluation: the reference that samples are compared with, and others that give the floor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ganscale.config import Config
from ganscale.data.cifar10 import load_cifar10
from ganscale.data.gaussians import MIXTURES, PointSource
from ganscale.data.images import normalize
from ganscale.data.mnist import load_mnist
from ganscale.data.source import Finite, Source
from ganscale.parallel.random import Stream, derive_seed, permutation

Reader = Callable[[int, int], Tensor]
"""Rows `start` to `stop - 1` as the networks see them: images in [-1, 1], or points."""

STACKED_REFERENCE = 26_000
"""Triples in the reference of stacked MNIST at least: the benchmark's number of samples."""


@dataclass(frozen=True)
class Reals:
    """Real examples to look at.

    Attributes:
        num_reference: rows of the reference.
        reference: reads them; they are what the run trains on, in a fixed order.
        held_out: reads as many examples as there are samples, from a set that the run never trains on (drawn with
            replacement where that is smaller); None where there is none: the floor then judges draws from one half
            of the reference by the other half.
        identity: of the reference: text that changes when an example changes.
        held_out_identity: likewise.
    """

    num_reference: int
    reference: Reader
    held_out: Reader | None
    identity: str
    held_out_identity: str


def draw(size: int, count: int, *, seed: int, stream: str) -> Tensor:
    """`count` random rows of a set of `size`: all different if it has as many, otherwise independent draws."""
    if count <= size:
        return permutation(seed, stream, size)[:count]
    return Stream(seed, stream).integers(0, count, size).squeeze(-1)


def make_reals(config: Config, source: Source, *, num_samples: int, seed: int) -> Reals:
    """The real examples for a run's data.

    Args:
        config: of the run.
        source: its training data, which are read but not moved on.
        num_samples: number of samples to be judged.
        seed: of the draws.

    Raises:
        FileNotFoundError: the test set is not there.
    """
    if config.data.name in MIXTURES:
        return _points(config.data.name, num_samples, seed)
    assert isinstance(source, Finite), "all sets of images are finite"
    stacked = config.data.name == "stacked_mnist"
    count = min(source.num_images, max(STACKED_REFERENCE, num_samples)) if stacked else source.num_images

    def reference(start: int, stop: int) -> Tensor:
        return source.gather(torch.arange(start, stop))[0]

    identity = f"{config.data.name}/{config.data.resolution}/{count}/{source.state_hash()}"
    return Reals(count, reference, _held_out(config, num_samples, seed), identity, f"{identity}/{num_samples}/{seed}")


def _points(name: str, num_samples: int, seed: int) -> Reals:
    centers, sigma = MIXTURES[name]

    def fresh(stream: str) -> Reader:
        own = derive_seed(seed, f"evaluation/{stream}")
        points = PointSource(centers, sigma, seed=own, device=torch.device("cpu"), dtype=torch.float64)
        return lambda start, stop: points.read(start, stop)[0]

    identity = f"{name}/{num_samples}/{seed}"
    return Reals(num_samples, fresh("reference"), fresh("held_out"), identity, identity)


def _held_out(config: Config, num_samples: int, seed: int) -> Reader | None:
    """Test images, or for stacked MNIST triples of test digits."""
    data = config.data
    if data.name == "folder":
        return None
    if data.name == "cifar10":
        images, _ = load_cifar10(Path(data.path).expanduser(), "test")
    else:
        images, _ = load_mnist("test", data.resolution)
    stream = "evaluation/held_out"
    if data.name == "stacked_mnist":
        rows = Stream(seed, stream).integers(0, num_samples, len(images), (3,))
        return lambda start, stop: normalize(images[rows[start:stop]].squeeze(2), torch.float32)
    rows = draw(len(images), num_samples, seed=seed, stream=stream)
    return lambda start, stop: normalize(images[rows[start:stop]], torch.float32)
