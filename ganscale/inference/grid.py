"""Pictures of samples: grids, single images, scatter plots. PNGs carry their settings as text chunks."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganscale import __version__
from ganscale.config import ConfigError
from ganscale.inference.generator import MAX_SEED, LoadedGenerator
from ganscale.tracking.images import image_grid, num_shown, scatter, write_png
from ganscale.training.build import build_source

MAX_TILES = 4096
"""Most images in a grid."""

NUM_POINTS = 2500
"""Points in a picture of 2-D samples unless seeds are named, as in training's pictures."""

_PART = 1024


def parse_ranges(text: str) -> Iterator[tuple[str, range | None]]:
    """The parts of a text such as `0-63,100`, each with its range, or None where it is no range.

    Args:
        text: whole numbers and ranges, separated by commas.
    """
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        last = last if dash else first
        valid = first.isdecimal() and last.isdecimal() and int(first) <= int(last)
        yield part.strip(), range(int(first), int(last) + 1) if valid else None


def parse_seeds(text: str, *, key: str = "--seeds") -> list[int]:
    """Seeds such as `0-63,100`, in the order given.

    Args:
        text: whole numbers and ranges, separated by commas.
        key: option that errors name.

    Raises:
        ConfigError: the syntax is wrong, or a seed is too large.
    """
    seeds: list[int] = []
    for part, found in parse_ranges(text):
        if found is None:
            remedy = "write whole numbers and ranges, e.g. 0-63,100"
            raise ConfigError(f"{part!r} is no range of seeds", key=key, value=text, remedy=remedy)
        if found.stop > MAX_SEED or len(found) > 10_000_000:
            remedy = "use seeds below 2^48, at most 10 million; --num-samples makes more"
            raise ConfigError("too large", key=key, value=text, remedy=remedy)
        seeds += found
    return seeds


def parse_labels(text: str, num_classes: int) -> list[int]:
    """Classes such as `3,4`, or `all`.

    Args:
        text: class numbers separated by commas, or `all`.
        num_classes: of the generator; 0 if it takes none.

    Raises:
        ConfigError: the generator takes no labels, or has no such class.
    """
    if not num_classes:
        remedy = "leave it out; a conditional run has model.generator.conditioning"
        raise ConfigError("this generator takes no labels", key="--labels", value=text, remedy=remedy)
    if text == "all":
        return list(range(num_classes))
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) < num_classes for word in words):
        remedy = f"write all, or classes from 0 to {num_classes - 1}, e.g. 0,1"
        raise ConfigError("not all of these are classes", key="--labels", value=text, remedy=remedy)
    return [int(word) for word in words]


def settings_text(generator: LoadedGenerator, **settings: object) -> dict[str, str]:
    """Text chunks for a picture: run, checkpoint, and `settings` such as seeds and truncation.

    Args:
        generator: that made the picture.
        settings: further facts; empty ones are left out.
    """
    description = generator.description
    facts = {
        "ganscale": __version__,
        "run": description.run,
        "checkpoint": f"{description.images}",
        "checkpoint_sha256": description.sha256,
        "average": generator.average.line() if generator.average else "",
        **settings,
    }
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}


def to_array(examples: Tensor) -> np.ndarray:
    """Examples as float64 numbers on the CPU.

    Args:
        examples: of any shape, on any device.
    """
    return examples.double().cpu().numpy()


def to_bytes(images: Tensor) -> np.ndarray:
    """Images as uint8 `[N, H, W, C]`: -1 is 0 and 1 is 255, rounded to the nearest; NaN is 0.

    Args:
        images: `[N, C, H, W]` in [-1, 1]; values beyond are clamped.
    """
    scaled = images.mul(127.5).add_(127.5).round_().nan_to_num_(0.0).clamp_(0.0, 255.0)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def draw(
    generator: LoadedGenerator, seeds: Sequence[int], labels: Sequence[int] | None = None, truncation: float = 1.0
) -> np.ndarray:
    """A grid of images (of latents, their first three channels), or a scatter plot of 2-D points over real ones.

    Args:
        generator: that makes the samples.
        seeds: of the images.
        labels: one row of the grid per class, each with the same seeds; None for a grid close to square, in which the
            classes of a conditional generator alternate.
        truncation: as in `LoadedGenerator.sample`.

    Returns:
        The picture: uint8 `[H, W, 3]`.

    Raises:
        ConfigError: too many images for a grid.
    """
    rows = list(seeds) * len(labels) if labels else list(seeds)
    classes = [label for label in labels for _ in seeds] if labels else None
    if len(generator.shape) == 1:
        samples = to_array(generator.sample(rows, classes, truncation))
        return scatter(samples, _real_points(generator, samples))
    if len(rows) > MAX_TILES:
        remedy = f"name at most {MAX_TILES}, or write single images with --images FOLDER"
        raise ConfigError("too many for a grid", key="--seeds", value=f"{len(rows):,} images", remedy=remedy)
    samples = to_array(generator.sample(rows, classes, truncation))
    if generator.description.scale:  # the first three channels as colors
        zero, one = np.array(generator.description.scale).T[:, :, None, None]
        samples = ((samples - zero) / one)[:, : num_shown(len(zero))]
    return image_grid(samples, columns=len(seeds) if labels else None)


def _real_points(generator: LoadedGenerator, samples: np.ndarray) -> np.ndarray:
    """Real points to draw below the samples; the samples themselves where the run is not known."""
    if generator.config is None:
        return samples
    return to_array(build_source(generator.config, torch.device("cpu")).read(0, NUM_POINTS)[0])


def save_grid(
    generator: LoadedGenerator,
    path: Path,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    truncation: float = 1.0,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Write the picture of `draw` as a PNG, with `settings` as text chunks.

    Args:
        generator: that makes the samples.
        path: of the PNG.
        seeds: of the images.
        labels: as in `draw`.
        truncation: as in `LoadedGenerator.sample`.
        settings: further facts for the metadata.

    Raises:
        ConfigError: too many images for a grid.
        OSError: the file cannot be written.
    """
    picture = draw(generator, seeds, labels, truncation)
    write_png(path, picture, settings_text(generator, truncation=truncation, **(settings or {})))


def save_images(
    generator: LoadedGenerator,
    folder: Path,
    seeds: Sequence[int],
    labels: Sequence[int] | None = None,
    truncation: float = 1.0,
) -> int:
    """Write one PNG per image: `seed000012.png`, with `labels` `seed000012-class3.png` for each seed and class.

    Of latents it is a `.npy` file, float `[C, H, W]`, as the autoencoder takes it.

    Args:
        generator: that makes the images.
        folder: where the PNGs go.
        seeds: of the images.
        labels: classes; None for the default class of each seed.
        truncation: as in `LoadedGenerator.sample`.

    Returns:
        The number of files.

    Raises:
        ConfigError: the examples are 2-D points.
        OSError: the folder cannot be written.
    """
    if len(generator.shape) == 1:
        remedy = "leave it out for a scatter plot, or write numbers with --num-samples"
        raise ConfigError("2-D points are no images", key="--images", value=str(folder), remedy=remedy)
    count = 0
    for seed, label, pixels in _singles(generator, seeds, labels, truncation):
        name = f"seed{seed:06d}" + (f"-class{label}" if labels else "")
        count += 1
        if generator.description.scale:
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}.npy", pixels)
            continue
        text = settings_text(generator, seed=seed, label=label, truncation=truncation)
        write_png(folder / f"{name}.png", pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, text)
    return count


def _singles(
    generator: LoadedGenerator, seeds: Sequence[int], labels: Sequence[int] | None, truncation: float
) -> Iterator[tuple[int, int | None, np.ndarray]]:
    """Seed, class and bytes `[H, W, C]` of each image, or the numbers of each latent."""
    convert = to_bytes if generator.description.is_image else to_array
    for label in labels or [None]:
        for start in range(0, len(seeds), _PART):
            part = seeds[start : start + _PART]
            images = convert(generator.sample(part, label, truncation))
            classes = generator.classes(part, label)
            for row, seed in enumerate(part):
                yield seed, None if classes is None else int(classes[row]), images[row]
