"""What a mapping network allows: grids of mixed styles (Karras et al. 2019, section 3.1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.inference.generator import LANES, LoadedGenerator
from ganscale.inference.grid import MAX_TILES, parse_ranges, settings_text, to_array
from ganscale.tracking.images import image_grid, write_png


def has_styles(generator: LoadedGenerator) -> bool:
    """Whether a generator has a mapping network, whose w each layer takes by itself (`stylegan2`).

    Args:
        generator: of any architecture.
    """
    return hasattr(generator.network, "styles")


def num_styles(generator: LoadedGenerator) -> int:
    """Number of the layers that take a w.

    Args:
        generator: that has styles.
    """
    network: Any = generator.network
    return network.layers.num_styles


def styles(
    generator: LoadedGenerator, seeds: Sequence[int], labels: Tensor | None = None, truncation: float = 1.0
) -> Tensor:
    """w of each layer for seeds, as their images are made of: `[N, num_styles, w_dim]`.

    Args:
        generator: that has styles.
        seeds: of the images.
        labels: classes int64 `[N]`; None for a generator without classes.
        truncation: psi in [0, 1]: w is moved towards its mean.
    """
    network: Any = generator.network
    lanes = [seed % LANES for seed in seeds]
    shape = (num_styles(generator), network.average.value.numel())
    return generator.in_blocks(
        lambda z, labels: network.styles(z, labels, None, truncation),
        lanes,
        generator.latents(seeds),
        labels,
        shape=shape,
    )


def synthesize(generator: LoadedGenerator, w: Tensor) -> Tensor:
    """Images `[N, C, H, W]` of styles, with constant noise; not clipped.

    Args:
        generator: that has styles.
        w: of each layer, `[N, num_styles, w_dim]`.
    """
    network: Any = generator.network
    return network.layers(w, None)


def mix(
    generator: LoadedGenerator,
    seeds: Sequence[int],
    sources: Sequence[int],
    layers: Sequence[int],
    *,
    label: int | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Images of `seeds` whose styles at `layers` are those of `sources`: `[len(sources), len(seeds), C, H, W]`.

    Args:
        generator: that has styles.
        seeds: of the columns.
        sources: seeds of the rows.
        layers: whose styles are replaced, from 0 (coarse) to num_styles - 1 (fine).
        label: class of all images of a conditional generator; by default class 0.
        truncation: as in `styles`.
    """
    given = 0 if label is None and generator.num_classes else label
    own, others = (styles(generator, part, generator.classes(part, given), truncation) for part in (seeds, sources))
    lanes = [seed % LANES for seed in seeds]
    rows = []
    for other in others:
        w = own.clone()
        w[:, list(layers)] = other[list(layers)]
        images = generator.in_blocks(lambda w: synthesize(generator, w), lanes, w, shape=generator.shape)
        rows.append(images.clamp(-1.0, 1.0))
    return torch.stack(rows)


def parse_layers(text: str, count: int) -> list[int]:
    """Layers such as `0-3` or `0,1,5`, or `coarse`, `middle`, `fine` (a third of them each).

    Args:
        text: as on the command line.
        count: number of layers.

    Raises:
        ConfigError: the syntax is wrong, or there is no such layer.
    """
    thirds = np.array_split(np.arange(count), 3)
    named = dict(zip(("coarse", "middle", "fine"), thirds, strict=True))
    if text in named:
        return named[text].tolist()
    found: list[int] = []
    for part, layers in parse_ranges(text):
        if layers is None or layers.stop > count:
            remedy = f"write coarse, middle, fine, or layers from 0 to {count - 1}, e.g. 0-{count // 3}"
            raise ConfigError(f"{part!r} is no range of layers", key="--layers", value=text, remedy=remedy)
        found += layers
    return found


def save_mixing(
    generator: LoadedGenerator,
    folder: Path,
    seeds: Sequence[int],
    sources: Sequence[int],
    layers: str = "coarse",
    *,
    label: int | None = None,
    truncation: float = 1.0,
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Write `mixing.png`: seeds along the top, sources down the left, and their mixtures.

    Args:
        generator: of images, with a mapping network.
        folder: where the picture goes.
        seeds: of the columns.
        sources: seeds of the rows, whose styles replace those of the columns.
        layers: which layers' styles, as `parse_layers`.
        label: class of all images, for conditional generators.
        truncation: as in `styles`.
        settings: further facts for the PNG's metadata.

    Raises:
        ConfigError: the generator has no mapping network, there is no such layer, or the grid is too large.
        OSError: the folder cannot be written.
    """
    if not has_styles(generator):
        name = generator.description.generator.get("name")
        remedy = "name a run of stylegan2; --interpolate works for all"
        raise ConfigError(
            f"{name} has no mapping network whose styles could be mixed", key="--mix", value="", remedy=remedy
        )
    if (len(seeds) + 1) * (len(sources) + 1) > MAX_TILES:
        remedy = f"use fewer: a grid has at most {MAX_TILES} images"
        raise ConfigError("too many images for a grid", key="--mix", value=f"{len(sources)} sources", remedy=remedy)
    chosen = parse_layers(layers, num_styles(generator))
    mixed = mix(generator, seeds, sources, chosen, label=label, truncation=truncation)
    given = 0 if label is None and generator.num_classes else label
    top, left = (generator.sample(part, given, truncation) for part in (seeds, sources))
    blank = torch.ones_like(top[:1])
    rows = [torch.cat((blank, top)), *(torch.cat((left[row : row + 1], mixed[row])) for row in range(len(sources)))]
    path = folder / "mixing.png"
    facts = settings_text(generator, layers=layers, label=label, truncation=truncation, **(settings or {}))
    write_png(path, image_grid(to_array(torch.cat(rows)), columns=len(seeds) + 1), facts)
    return path
