"""Nearest training images of samples: does the generator memorize the training set?

The distances of samples are compared with the distances of real images to *their* nearest other real image: samples
much nearer to the training set than its images are to each other were memorized.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ganscale.config import DATASETS, ConfigError
from ganscale.config.checks import extractor_name
from ganscale.data.source import Finite, Indexed
from ganscale.evaluation.metrics.extractors import make_extractor
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.grid import MAX_TILES, settings_text, to_array
from ganscale.storage.files import write_atomically
from ganscale.tracking.images import image_grid, write_png
from ganscale.training.build import build_source

Features = Callable[[Tensor], Tensor]
"""Maps images `[n, C, H, W]` in [-1, 1] to features `[n, F]`."""

BLOCK = 1024
"""Training images that are in memory together, at most."""
BLOCK_BYTES = 2**26
"""Bytes of these as float64, at most, where one alone has no more."""


def block_rows(values: int) -> int:
    """How many images are compared at a time.

    Args:
        values: of one image.
    """
    return max(1, min(BLOCK, BLOCK_BYTES // (8 * values)))


@dataclass(frozen=True)
class Neighbors:
    """The nearest training images of N images, nearest first.

    Attributes:
        distances: Euclidean, between features: float64 `[N, K]`.
        rows: of the training set: int64 `[N, K]`.
    """

    distances: Tensor
    rows: Tensor


def pixels(images: Tensor) -> Tensor:
    """Images `[n, C, H, W]` as features: divided by the root of C H W, so that distances are root mean squares.

    Args:
        images: in [-1, 1].
    """
    return images.flatten(1) / images[0].numel() ** 0.5


def features_of(name: str, generator: LoadedGenerator) -> Features:
    """The features to compare.

    Args:
        name: "pixels", or an extractor of the metrics.
        generator: whose run determines which extractors fit, and the weights of its own (`eval.weights`).

    Raises:
        ConfigError: the extractor does not fit the run's data, or its weights are missing.
    """
    if name == "pixels":
        return pixels
    data = generator.config.data.name if generator.config else ""
    fitting = DATASETS[data].extractors if data else ("pixels",)
    if name not in fitting:
        remedy = f"use {' or '.join(fitting)}"
        raise ConfigError(f"does not fit data.name = {data}", key="--features", value=name, remedy=remedy)
    own = generator.config is not None and extractor_name(generator.config) == name
    weights = generator.config.eval.weights if generator.config and own else ""
    try:
        extractor = make_extractor(name, data, tuple(generator.shape), weights=weights, device=generator.device)
    except ConfigError:
        raise
    except (ImportError, FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error), key="--features", value=name, remedy="see docs/metrics.md") from None
    return lambda images: extractor(images).compared


@torch.no_grad()
def nearest(
    images: Tensor,
    source: Indexed,
    count: int,
    *,
    features: Features = pixels,
    mirror: bool = False,
    without: Tensor | None = None,
    among: Tensor | None = None,
) -> Neighbors:
    """Compare images with the training set, block by block, in float64.

    Args:
        images: `[N, C, H, W]` in [-1, 1].
        source: the training set.
        count: K, neighbors per image; less than the size of the set.
        features: what is compared; by default pixels.
        mirror: also compare with mirrored training images (for runs with `data.mirror`).
        without: for each image a row of the set that is excluded (itself), int64 `[N]`.
        among: rows of the set that are compared, more than K, int64 `[M]`; None for all.

    Returns:
        The K nearest of each image; with `mirror` each training image counts with the nearer of its two sides.
    """
    wanted = features(images).double().cpu()
    best = torch.full((len(images), count), torch.inf, dtype=torch.float64)
    where = torch.full((len(images), count), -1, dtype=torch.int64)
    size = block_rows(images[0].numel())
    for rows in (torch.arange(source.num_images) if among is None else among).split(size):
        reals = source.gather(rows)[0]
        distances = _distances(wanted, features(reals))
        if mirror:
            distances = distances.minimum(_distances(wanted, features(reals.flip(3))))
        if without is not None:
            distances[without.unsqueeze(1) == rows] = torch.inf
        best, order = torch.cat((best, distances), 1).topk(count, largest=False)
        where = torch.cat((where, rows.expand_as(distances)), 1).gather(1, order)
    return Neighbors(best, where)


def _distances(wanted: Tensor, reals: Tensor) -> Tensor:
    """Euclidean distances without matrix products, which lose the digits of small ones."""
    return torch.cdist(wanted, reals.double().cpu(), compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class Report:
    """Files and figures of a comparison.

    Attributes:
        files: the picture and the distances.
        samples: median distance of the samples to the nearest training image.
        reals: median distance of as many training images to their nearest other one.
        num_images: in the training set.
    """

    files: list[Path]
    samples: float
    reals: float
    num_images: int


def save_neighbors(
    generator: LoadedGenerator,
    folder: Path,
    seeds: Sequence[int],
    count: int,
    *,
    labels: Sequence[int] | None = None,
    truncation: float = 1.0,
    features: Features = pixels,
    settings: Mapping[str, object] | None = None,
) -> Report:
    """Write `nearest.png` (a row per sample: the sample, then its neighbors with distances) and `nearest.json`.

    Args:
        generator: what makes the samples; from a run, so that its training set is known.
        folder: where the files go.
        seeds: of the samples.
        count: K, neighbors per sample.
        labels: one per seed; None for `seed % num_classes`.
        truncation: as in `LoadedGenerator.sample`.
        features: what is compared; by default pixels, whose distance is the root mean square on the scale [-1, 1].
        settings: further facts for the PNG's metadata.

    Raises:
        ConfigError: the training set is unknown, infinite or smaller than `count`, or the grid is too large.
        OSError: the folder cannot be written.
    """
    source, mirror = _training_set(generator, count, len(seeds))
    images = generator.sample(seeds, labels, truncation).cpu()
    found = nearest(images, source, count, features=features, mirror=mirror)
    spread = torch.linspace(0, source.num_images - 1, len(seeds)).long()
    between = nearest(source.gather(spread)[0], source, 1, features=features, mirror=mirror, without=spread)
    reals = source.gather(found.rows.flatten())[0].unflatten(0, found.rows.shape)
    folder.mkdir(parents=True, exist_ok=True)
    picture = _picture(to_array(torch.cat((images.unsqueeze(1), reals), 1).flatten(0, 1)), found.distances, seeds)
    facts = settings_text(generator, truncation=truncation, neighbors=count, **(settings or {}))
    write_png(folder / "nearest.png", picture, facts)
    report = Report(
        [folder / "nearest.png", folder / "nearest.json"],
        float(found.distances[:, 0].median()),
        float(between.distances.median()),
        source.num_images,
    )
    summary = {"median_samples": report.samples, "median_reals": report.reals, "training_images": report.num_images}
    rows = [
        {"seed": seed, "distances": near.tolist(), "rows": at.tolist()}
        for seed, near, at in zip(seeds, found.distances, found.rows, strict=True)
    ]
    write_atomically(report.files[1], json.dumps({**facts, **summary, "samples": rows}, indent=1) + "\n")
    return report


def _training_set(generator: LoadedGenerator, count: int, num_samples: int) -> tuple[Finite, bool]:
    """The run's training set, and whether it was mirrored."""
    config, key = generator.config, "--nearest"
    if config is None:
        remedy = "name the run's folder or one of its checkpoints"
        raise ConfigError("an export has no training set", key=key, value=count, remedy=remedy)
    if generator.description.scale:
        raise ConfigError("latents are no images", key=key, value=count, remedy="name a run of images")
    source = build_source(config, torch.device("cpu"))
    if not isinstance(source, Finite):
        raise ConfigError("2-D points have no finite training set", key=key, value=count, remedy="leave it out")
    if count >= source.num_images:
        remedy = f"use less than {source.num_images}, the size of the training set"
        raise ConfigError("too many neighbors", key=key, value=count, remedy=remedy)
    if num_samples * (count + 1) > MAX_TILES:
        remedy = f"use fewer --seeds or neighbors: at most {MAX_TILES} images"
        raise ConfigError("too many images for one picture", key=key, value=count, remedy=remedy)
    return source, config.data.mirror


def _picture(images: np.ndarray, distances: Tensor, seeds: Sequence[int], *, caption: int = 14) -> np.ndarray:
    """A row per sample on white, its seed and each neighbor's distance below it."""
    columns = distances.shape[1] + 1
    picture = Image.fromarray(image_grid(images, columns=columns, padding=caption))
    pen = ImageDraw.Draw(picture)
    height = (picture.height - caption) // len(distances)
    width = (picture.width - caption) // columns
    for row, (seed, near) in enumerate(zip(seeds, distances.tolist(), strict=True)):
        for column, text in enumerate([f"seed {seed}", *(f"{distance:.3f}" for distance in near)]):
            pen.text((caption + column * width, (row + 1) * height + 1), text, fill=(60, 60, 60))
    return np.asarray(picture)
