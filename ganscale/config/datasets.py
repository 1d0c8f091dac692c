"""The table of data sets, and the settings of the one that a run uses."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ganscale.config.section import Count, Section, as_tuple, whole
from ganscale.config.table import Choice, Function

Resolution = int | tuple[int, int]
"""Side of square images in pixels, or (height, width)."""
MIN_SIDE, MAX_SIDE = 8, 1024
"""Of images, in pixels."""


def height_width(resolution: Resolution) -> tuple[int, int]:
    """Both sides of an image in pixels.

    Args:
        resolution: `data.resolution`.
    """
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def resolution_text(resolution: Resolution) -> str:
    """`64`, or height and width as `48x64`.

    Args:
        resolution: `data.resolution`.
    """
    return str(resolution) if isinstance(resolution, int) else "x".join(map(str, resolution))


def as_resolution(value: object) -> Any:
    """A whole number, or [height, width]; of equal ones the number.

    Args:
        value: as it is given.

    Raises:
        ValueError: it is something else.
    """
    sides = tuple(map(whole, value)) if isinstance(value, list | tuple) else (whole(value),)
    known = all(isinstance(side, int) and not isinstance(side, bool) and MIN_SIDE <= side <= MAX_SIDE for side in sides)
    if not known or len(sides) not in (1, 2):
        raise ValueError(f"a whole number of pixels from {MIN_SIDE} to {MAX_SIDE}, or [height, width]")
    return sides[0] if len(set(sides)) == 1 else sides


@dataclass(frozen=True)
class Dataset:
    """Everything about a data set.

    Attributes:
        source: `(config, device, dtype) -> ganscale.data.Source`, the real examples to train on.
        description: for the reference page.
        extractors: names of the feature extractors that fit, the default first.
        metrics: what an evaluation computes when `eval.metrics` is empty.
        channels: of its images; of pictures, those of most.
        num_classes: of its labels; None if only its files show it.
        class_names: names of the classes, where they are known without its files.
        path: what `data.path` must name, in words; empty if it needs no files.
        resolution: the only one that it has, in pixels; None for any.
        is_points: whether examples are 2-D points, not images.
        is_latent: whether examples are latents `[C, H, W]` of another network, not images.
        can_mirror: whether a mirrored image is still one of the data set.
        has_pictures: whether `data.labels`, `channels`, `fit`, `background`, `range`, `balance` and `shuffle_block`
            apply.
        check: `(config) -> None`, refuses files that cannot be read, before anything starts; of latents
            `(config, *, scores: bool)`, as `check_files`.
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
    class_names: tuple[str, ...] = ()
    path: str = ""
    resolution: int | None = None
    is_points: bool = False
    is_latent: bool = False
    can_mirror: bool = False
    has_pictures: bool = False
    check: Function | None = None
    held_out: Function | None = None
    reference_size: int = 0
    mixture: object = None

    def shape(self, resolution: Resolution, channels: int | None = None) -> tuple[int, ...]:
        """Shape of one example: `(C, H, W)`, or `(2,)` for points.

        Args:
            resolution: `data.resolution` in pixels.
            channels: of pictures, where they are known.
        """
        return (2,) if self.is_points else (channels or self.channels, *height_width(resolution))


_PICTURES = ("inception", "dinov2", "clip", "openclip", "pixels", "patches")
_POINTS = ("modes", "high_quality", "reverse_kl")

DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        "ganscale.data.mnist:open_mnist",
        "handwritten digits, in the package",
        extractors=("mnist", *_PICTURES),
        metrics=("frechet", "kid", "modes", "reverse_kl"),
        channels=1,
        num_classes=10,
        class_names=tuple("0123456789"),
        held_out="ganscale.data.mnist:held_out_digits",
    ),
    "stacked_mnist": Dataset(
        "ganscale.data.mnist:open_stacked_mnist",
        "three digits as the channels of one image, 1000 modes, in the package",
        extractors=("mnist", *_PICTURES),
        metrics=("frechet", "modes", "reverse_kl", "excess_kl"),
        num_classes=1000,
        class_names=tuple(f"{number:03}" for number in range(1000)),
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
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        path="the folder with cifar-10-batches-py/",
        resolution=32,
        can_mirror=True,
        held_out="ganscale.data.cifar10:held_out_images",
    ),
    "folder": Dataset(
        "ganscale.data.folder:open_folder",
        "a folder or zip of pictures, tar or parquet shards, or a prepared set, at data.path (docs/data.md)",
        extractors=_PICTURES,
        path="a folder or zip of pictures, tar or parquet shards, or a prepared set",
        can_mirror=True,
        has_pictures=True,
        check="ganscale.data.check:check_pictures",
    ),
    "latents": Dataset(
        "ganscale.data.latents:open_latents",
        "latents of an autoencoder that `ganscale prepare` made of .npy files, at data.path (docs/data.md)",
        channels=4,
        path="a prepared set of latents",
        is_latent=True,
        check="ganscale.data.latents:check_latents",
    ),
}
"""Every data set by name."""


def is_pattern(name: str) -> bool:
    """Whether a file name in `data.path` is a pattern of shards, such as `train-*.parquet`.

    Args:
        name: the last part of the path.
    """
    return any(letter in name for letter in "*?[")


MADE_BY = {f"emoji_{side}": "make data-emoji" for side in (32, 64)}
"""Commands that make the prepared sets of configs/, by the folder's name."""


Byte = Annotated[int, Field(ge=0, le=255)]
_FOLDER = "of data.name = folder"


Weight = Annotated[float, Field(ge=0, le=1e6)]


def _named(value: object) -> object:
    """Classes may be called 0, 1, ...: YAML's numbers are names here."""
    return {str(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


class Data(Section):
    """The real examples."""

    name: Annotated[str, Choice(DATASETS)] = Field(default="mnist", description="Data set.")
    path: str = Field(
        default="",
        description="Where the files of the data set lie; every node must see it. A prepared set or tars may lie in a "
        "bucket (s3://, gs://, az://).",
    )
    changed: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="When a run is resumed with data that are not those it began with, by their hash (docs/data.md): "
        "refuse, or accept them from there on.",
    )
    balance: Literal["none", "classes"] = Field(
        default="none",
        description=f"Frequency of classes {_FOLDER}. none: as in the data; classes: equal, or by data.class_weights.",
    )
    class_weights: Annotated[dict[str, Weight], BeforeValidator(_named)] = Field(
        default={},
        description="Relative frequencies of classes by name with data.balance = classes; 1 for those not named, 0 to "
        "leave a class out.",
    )
    shuffle_block: Count = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description=f"Pictures {_FOLDER} that lie side by side and stay close in time, in random order among 16 such "
        "blocks, so that fewer requests read them; 0: one random order of all.",
    )
    cache_mib: Count = Field(
        default=1024,
        ge=0,
        le=10_000_000,
        description="Size of a worker's cache of pictures from a bucket, or of parquet's row groups, in MiB; 0: none, "
        "or one row group per process.",
    )
    cache_dir: str = Field(
        default="", description="Folder of that cache, e.g. /dev/shm for memory; empty: the system's temporary folder."
    )
    mirror: bool = Field(default=False, description="Mirror half of the images; not with digits or 2-D points.")
    num_workers: Count = Field(
        default=2, ge=0, le=256, description="Processes per worker that decode pictures of data.name = folder."
    )
    labels: Literal["auto", "top", "path", "none"] = Field(
        default="auto",
        description=f"Classes {_FOLDER}. auto: dataset.json if it is there, otherwise names of folders one deep; top: "
        "the first folder; path: every folder that holds pictures; none: no classes.",
    )
    channels: Literal["auto", 1, 3, 4] = Field(
        default="auto", description=f"Channels {_FOLDER}: gray, RGB or RGBA. auto: 1 if all pictures are gray, else 3."
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop",
        description=f"Pictures {_FOLDER} of another aspect ratio: keep the center, add bars, or stretch.",
    )
    background: Annotated[tuple[Byte, Byte, Byte], BeforeValidator(as_tuple)] = Field(
        default=(255, 255, 255), description=f"Color behind transparent pixels and of bars {_FOLDER}: RGB, 0 to 255."
    )
    range: Annotated[tuple[float, float] | None, BeforeValidator(as_tuple)] = Field(
        default=None,
        description=f"Values that become black and white in pictures {_FOLDER} with more than 8 bits; null: 0 and "
        "65535, and real numbers are refused.",
    )
    resolution: Annotated[int | tuple[int, int], BeforeValidator(as_resolution)] = Field(
        default=28,
        description=f"Side of the images in pixels, 8 to 1024; {_FOLDER[3:]} and latents also [height, width]. Not for "
        "points.",
    )
    num_images: Count = Field(
        default=128_000, ge=1, description="Number of digit triples of stacked_mnist; the other data sets ignore it."
    )
