"""The table of data sets, and the settings of the one that a run uses."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ganscale.config.section import Count, Section
from ganscale.config.table import Choice, Function


@dataclass(frozen=True)
class Dataset:
    """Everything about a data set.

    Attributes:
        source: `(config, device, dtype) -> ganscale.data.Source`, the real examples to train on.
        description: for the reference page.
        extractors: names of the feature extractors that fit, the default first.
        metrics: what an evaluation computes when `eval.metrics` is empty.
        channels: of its images.
        num_classes: of its labels; None if only its files show it.
        path: what `data.path` must name, in words; empty if it needs no files.
        resolution: the only one that it has, in pixels; None for any.
        is_points: whether examples are 2-D points, not images.
        can_mirror: whether a mirrored image is still one of the data set.
        held_out: `(config, count, seed) -> read`, where `read(start, stop)` gives rows of `count` real examples that
            are never trained on, and their classes; None if there are none.
        reference_size: training examples that an evaluation compares with, at least as many as samples; 0 for all.
        mixture: the `ganscale.data.gaussians.Mixture` that points come from, so that modes are known; else None.
    """

    source: Function
    description: str = ""
    extractors: tuple[str, ...] = ("pixels",)
    metrics: tuple[str, ...] = ("frechet", "kid")
    channels: int = 3
    num_classes: int | None = None
    path: str = ""
    resolution: int | None = None
    is_points: bool = False
    can_mirror: bool = False
    held_out: Function | None = None
    reference_size: int = 0
    mixture: object = None

    def shape(self, resolution: int) -> tuple[int, ...]:
        """Shape of one example: `(C, H, W)`, or `(2,)` for points.

        Args:
            resolution: `data.resolution` in pixels.
        """
        return (2,) if self.is_points else (self.channels, resolution, resolution)


_PICTURES = ("inception", "pixels")
_POINTS = ("modes", "high_quality", "reverse_kl")

DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        "ganscale.data.mnist:open_mnist",
        "handwritten digits, in the package",
        extractors=("mnist", *_PICTURES),
        metrics=("frechet", "kid", "modes", "reverse_kl"),
        channels=1,
        num_classes=10,
        held_out="ganscale.data.mnist:held_out_digits",
    ),
    "stacked_mnist": Dataset(
        "ganscale.data.mnist:open_stacked_mnist",
        "three digits as the channels of one image, 1000 modes, in the package",
        extractors=("mnist", *_PICTURES),
        metrics=("frechet", "modes", "reverse_kl", "excess_kl"),
        num_classes=1000,
        held_out="ganscale.data.mnist:held_out_triples",
        reference_size=26_000,  # the benchmark's number of samples
    ),
    "ring": Dataset(
        "ganscale.data.gaussians:open_points",
        "8 Gaussians on a circle, 2-D",
        metrics=_POINTS,
        num_classes=8,
        is_points=True,
        held_out="ganscale.data.gaussians:held_out_points",
        mixture="ganscale.data.gaussians:RING",
    ),
    "grid": Dataset(
        "ganscale.data.gaussians:open_points",
        "25 Gaussians on a square, 2-D",
        metrics=_POINTS,
        num_classes=25,
        is_points=True,
        held_out="ganscale.data.gaussians:held_out_points",
        mixture="ganscale.data.gaussians:GRID",
    ),
    "cifar10": Dataset(
        "ganscale.data.cifar10:open_cifar10",
        "CIFAR-10 at data.path",
        extractors=_PICTURES,
        num_classes=10,
        path="the folder with cifar-10-batches-py/",
        resolution=32,
        can_mirror=True,
        held_out="ganscale.data.cifar10:held_out_images",
    ),
    "folder": Dataset(
        "ganscale.data.folder:open_folder",
        "a folder or zip of pictures at data.path, classes by subfolder",
        extractors=_PICTURES,
        path="a folder or zip of pictures",
        can_mirror=True,
    ),
}
"""Every data set by name."""


class Data(Section):
    """The real examples."""

    name: Annotated[str, Choice(DATASETS)] = Field(default="mnist", description="Data set.")
    path: str = Field(default="", description="Where the files of the data set lie; every node must see it.")
    mirror: bool = Field(default=False, description="Mirror half of the images; not with digits or 2-D points.")
    num_workers: Count = Field(
        default=2, ge=0, le=256, description="Processes per worker that decode pictures of data.name = folder."
    )
    resolution: Count = Field(
        default=28, ge=8, le=1024, description="Height and width of the images in pixels; 2-D points ignore it."
    )
    num_images: Count = Field(
        default=128_000, ge=1, description="Number of digit triples of stacked_mnist; the other data sets ignore it."
    )
