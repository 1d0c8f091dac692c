"""Projection: the latent whose image is nearest to a given picture (Karras et al. 2020, section 5 and appendix D).

The distance is that of Laplacian pyramids, and so needs no weights; the paper's is LPIPS. The latent is z, or for
generators with a mapping network w, one for all layers as in the paper. Layers' noise is constant.
"""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.config.datasets import Resolution
from ganscale.data.folder import rules_of
from ganscale.data.pictures import Rules, decode
from ganscale.evaluation.metrics.patches import laplacian_pyramid, num_levels
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.grid import settings_text, to_array
from ganscale.inference.styles import has_styles, num_styles, synthesize
from ganscale.parallel.random import Stream
from ganscale.storage.files import write_atomically, write_bytes_atomically
from ganscale.tracking.images import image_grid, write_png

CANDIDATES = 512
"""Random latents, of which the best are starts of the search; in w their mean is one as well."""
STARTS = 4
"""Searches for a picture, as its distance has local minima; the best one counts."""
RATE, RAMP_UP, RAMP_DOWN = 0.1, 0.05, 0.25
"""Adam's learning rate, and the shares of the search in which it rises and falls."""
NOISE, NOISE_SHARE = 0.05, 0.75
"""Standard deviation of the noise on the latent at the start, in deviations of latents, and the share
of the search in which it fades."""


@dataclass(frozen=True)
class Projection:
    """Latents found for pictures.

    Attributes:
        space: "z" or "w".
        latents: `[N, latent_dim]`, or `[N, w_dim]` in w.
        images: of the latents, `[N, C, H, W]` in [-1, 1].
        distances: root mean square distance of each to its picture, per pixel on the scale [-1, 1], `[N]`.
    """

    space: str
    latents: Tensor
    images: Tensor
    distances: Tensor


def read_pictures(paths: Sequence[Path], generator: LoadedGenerator) -> Tensor:
    """Pictures as the generator would make them: `[N, C, H, W]` in [-1, 1].

    Args:
        paths: of the files.
        generator: gives channels and resolution, and its run how pictures are cropped.

    Raises:
        ConfigError: a file cannot be read as a picture, or the generator makes no images.
    """
    if not generator.description.is_image:
        raise ConfigError("points and latents are no images", key="--project", value="", remedy="name a run of images")
    channels, height, width = generator.shape
    resolution: Resolution = height if height == width else (height, width)
    rules = Rules() if generator.config is None else rules_of(generator.config.data)
    images = []
    for path in paths:
        try:
            pixels = decode(path.read_bytes(), resolution, replace(rules, channels=channels))
        except (OSError, ValueError) as error:
            raise ConfigError(str(error), key="--project", value=str(path), remedy="name pictures") from None
        images.append(torch.from_numpy(pixels).to(generator.dtype) / 127.5 - 1.0)
    return torch.stack(images)


def distance(images: Tensor, targets: Tensor) -> Tensor:
    """Sum over the Laplacian pyramid's bands of the mean square difference: `[N]`.

    Each band counts alike, though a coarse one has few pixels: where things are is found before how sharp they are.

    Args:
        images: `[N, C, H, W]`.
        targets: likewise.
    """
    levels = num_levels(*images.shape[2:])
    bands = laplacian_pyramid(images - targets, levels)
    return torch.stack([band.square().flatten(1).mean(1) for band in bands]).sum(0)


@dataclass(frozen=True)
class _Space:
    """A latent space to search in.

    Attributes:
        image: `(latents, labels) -> images`, differentiable.
        start: first latents of each picture, `[N, starts, ...]`.
        deviation: of latents.
        hold: keeps latents where the generator knows them.
    """

    image: Callable[[Tensor, Tensor | None], Tensor]
    start: Tensor
    deviation: float
    hold: Callable[[Tensor], Tensor]


def _hold_normal(z: Tensor) -> Tensor:
    """In the shell that standard normal latents lie in: a norm of sqrt(D), give or take three deviations (of 1/2)."""
    norm = z.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return z * (norm.clamp(max(0.0, math.sqrt(z.shape[1]) - 1.5), math.sqrt(z.shape[1]) + 1.5) / norm)


def _nearest(generator: LoadedGenerator, targets: Tensor, labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """`CANDIDATES` random z, and for each picture the rows of those whose images are nearest: `[N, count]`."""
    z = generator.latents(range(CANDIDATES)).to(generator.device)
    rows = []
    for row, target in enumerate(targets):
        images = generator.decode(z, None if labels is None else labels[row].cpu().expand(len(z)))
        rows.append(distance(images, target.expand_as(images)).topk(count, largest=False).indices)
    return z, torch.stack(rows)


def _space_z(generator: LoadedGenerator, targets: Tensor, labels: Tensor | None) -> _Space:
    """z in its shell or cube, from the best random ones."""
    z, rows = _nearest(generator, targets, labels, STARTS)
    normal = generator.latent == "normal"
    hold = _hold_normal if normal else (lambda z: z.clamp(-1.0, 1.0))
    return _Space(generator, z[rows], 1.0 if normal else 3.0**-0.5, hold)


def _space_w(generator: LoadedGenerator, targets: Tensor, labels: Tensor | None) -> _Space:
    """w, unbounded, from its mean as in the paper, and from the best random ones."""
    network: Any = generator.network
    z, rows = _nearest(generator, targets, labels, STARTS - 1)
    starts, spread = [], []
    for index, chosen in enumerate(rows):
        w = network.styles(z, None if labels is None else labels[index].expand(len(z)))[:, 0]
        starts.append(torch.cat((w.mean(0, keepdim=True), w[chosen])))
        spread.append(w.std(0).square().mean().sqrt())

    def image(w: Tensor, labels: Tensor | None) -> Tensor:
        return synthesize(generator, w[:, None].expand(-1, num_styles(generator), -1))

    return _Space(image, torch.stack(starts), float(torch.stack(spread).mean()), lambda w: w)


SPACES = {"z": _space_z, "w": _space_w}
"""Latent spaces by name."""


def spaces_of(generator: LoadedGenerator) -> tuple[str, ...]:
    """Names of the spaces that a generator has; the first is the default.

    Args:
        generator: of any architecture.
    """
    return ("w", "z") if has_styles(generator) else ("z",)


def project(
    generator: LoadedGenerator,
    targets: Tensor,
    labels: int | Sequence[int] | Tensor | None = None,
    *,
    space: str | None = None,
    iterations: int = 500,
    seed: int = 0,
) -> Projection:
    """Find latents whose images are near to pictures, by Adam with a noisy latent at first.

    The result depends on the arguments alone.

    Args:
        generator: of images.
        targets: pictures `[N, C, H, W]` in [-1, 1], of the generator's shape.
        labels: a class for all or one per picture; only for conditional generators, by default class 0.
        space: "z" or "w"; by default w where there is a mapping network.
        iterations: of Adam, at least 1.
        seed: of the noise.

    Raises:
        ValueError: shapes or labels do not fit, or the generator has no such space.
    """
    known = spaces_of(generator)
    space = space or known[0]
    if space not in known:
        raise ValueError(f"this generator has no space {space}, only {', '.join(known)}")
    if tuple(targets.shape[1:]) != generator.shape:
        raise ValueError(f"pictures of shape {tuple(targets.shape[1:])}, the generator's have {generator.shape}")
    given = 0 if labels is None and generator.num_classes else labels
    classes = generator.classes(range(len(targets)), given)
    targets = targets.to(generator.device, generator.dtype)
    classes = None if classes is None else classes.to(generator.device)
    stream = Stream(seed, "project", generator.device)
    with torch.no_grad():
        found = SPACES[space](generator, targets, classes)
    starts = found.start.shape[1]
    latents = found.start.flatten(0, 1).requires_grad_(True)
    wanted = targets.repeat_interleave(starts, 0)
    repeated = None if classes is None else classes.repeat_interleave(starts)
    optimizer = torch.optim.Adam([latents], betas=(0.9, 0.999))
    best, least = latents.detach().clone(), torch.full_like(latents[:, 0].detach(), math.inf)
    for step in range(iterations + 1):
        passed = step / iterations
        for group in optimizer.param_groups:
            group["lr"] = RATE * _ramp(passed) * found.deviation
        size = NOISE * found.deviation * max(0.0, 1.0 - passed / NOISE_SHARE) ** 2
        noise = stream.normal(step * len(latents), (step + 1) * len(latents), latents.shape[1:], latents.dtype)
        images = found.image(latents + size * noise, repeated)
        # What lies beyond black or white is as good as these where the picture has them.
        images = torch.where((images.abs() > 1.0) & (images.sign() * wanted >= 1.0), wanted, images)
        distances = distance(images, wanted)
        better = (distances < least) & (size == 0.0)
        best = torch.where(better[:, None], latents.detach(), best)
        least = torch.where(better, distances.detach(), least)
        optimizer.zero_grad()
        distances.sum().backward()
        optimizer.step()
        with torch.no_grad():
            latents.copy_(found.hold(latents))
    rows = torch.arange(len(targets), device=best.device) * starts + least.view(-1, starts).argmin(1)
    best = best[rows]
    with torch.no_grad():
        images = found.image(best, classes).clamp(-1.0, 1.0)
    return Projection(space, best, images, (images - targets).square().flatten(1).mean(1).sqrt())


def _ramp(passed: float) -> float:
    """Share of the learning rate: up over the first and down over the last part of the search (by a cosine)."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - passed) / RAMP_DOWN))
    return down * min(1.0, passed / RAMP_UP)


def save_projection(
    generator: LoadedGenerator,
    folder: Path,
    paths: Sequence[Path],
    *,
    label: int | None = None,
    space: str | None = None,
    iterations: int = 500,
    settings: Mapping[str, object] | None = None,
) -> tuple[list[Path], Projection]:
    """Write `projection.png` (each picture above its image), and the latents as `projection.npz` and `.json`.

    Args:
        generator: of images.
        folder: where the files go.
        paths: of the pictures.
        label: class of all of them, for conditional generators.
        space: as in `project`.
        iterations: as in `project`.
        settings: further facts for the PNG's metadata.

    Raises:
        ConfigError: a file cannot be read, or the generator has no such space.
        OSError: the folder cannot be written.
    """
    known = spaces_of(generator)
    if space is not None and space not in known:
        remedy = f"use {' or '.join(known)}"
        raise ConfigError("this generator has no such space", key="--space", value=space, remedy=remedy)
    targets = read_pictures(paths, generator)
    # One by one: what is found for a picture does not depend on the others.
    parts = [project(generator, part, label, space=space, iterations=iterations) for part in targets.split(1)]
    fields = ("latents", "images", "distances")
    found = Projection(parts[0].space, *(torch.cat([getattr(part, name) for part in parts]) for name in fields))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"projection.{ending}" for ending in ("png", "npz", "json")]
    facts = settings_text(generator, space=found.space, label=label, iterations=iterations, **(settings or {}))
    rows = torch.cat((targets.to(found.images.device), found.images))
    write_png(files[0], image_grid(to_array(rows), columns=len(targets)), facts)
    arrays = io.BytesIO()
    np.savez(arrays, latents=found.latents.cpu().numpy(), space=found.space)
    write_bytes_atomically(files[1], arrays.getvalue())
    listed = [
        {"picture": str(path), "distance": far} for path, far in zip(paths, found.distances.tolist(), strict=True)
    ]
    write_atomically(files[2], json.dumps({**facts, "pictures": listed}, indent=1) + "\n")
    return files, found
