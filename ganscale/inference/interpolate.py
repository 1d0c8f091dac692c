"""Interpolation in the latent space from seed to seed, as a grid, an animated GIF and an MP4."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.grid import MAX_TILES, settings_text, to_array, to_bytes
from ganscale.tracking.images import image_grid, on_white, write_png

FRAMES = 25
"""Frames from one seed to the next: one second."""

SIDE = 256
"""Least height of an animation in pixels."""


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985, section 3.3; for GANs White 2016), which keeps the norm of normal z.

    Args:
        start: `[..., D]`, not 0.
        end: `[..., D]`, not 0.
        share: of the way, in [0, 1], broadcast against `[..., 1]`.

    Returns:
        sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end, a the angle between them; straight where a is 0 or pi.
    """
    lengths = start.norm(dim=-1, keepdim=True) * end.norm(dim=-1, keepdim=True)
    angle = ((start * end).sum(-1, keepdim=True) / lengths).clamp(-1.0, 1.0).acos()
    sine = angle.sin()
    curved = (((1.0 - share) * angle).sin() * start + (share * angle).sin() * end) / sine
    return torch.where(sine < 1e-6, torch.lerp(start, end, share), curved)


def walk(generator: LoadedGenerator, seeds: Sequence[int], steps: int, *, closed: bool) -> Tensor:
    """Latents between successive seeds, by slerp for normal z and linear for uniform z.

    Args:
        generator: whose latent space it is.
        seeds: at least two.
        steps: latents per pair of successive seeds.
        closed: True for a loop, where each segment excludes its end; False for segments with both ends.

    Returns:
        z `[segments, steps, latent_dim]`.
    """
    z = generator.latents(seeds)
    ends = z.roll(-1, 0) if closed else z[1:]
    starts = z if closed else z[:-1]
    share = torch.linspace(0.0, 1.0, steps + closed, dtype=z.dtype)[:steps].view(1, -1, 1)
    between = torch.lerp if generator.latent == "uniform" else slerp
    shape = (len(ends), steps, z.shape[1])
    return between(starts.unsqueeze(1).expand(shape), ends.unsqueeze(1).expand(shape), share.expand(len(ends), -1, 1))


def save_interpolation(
    generator: LoadedGenerator,
    folder: Path,
    seeds: Sequence[int],
    *,
    steps: int = 10,
    label: int | None = None,
    truncation: float = 1.0,
    settings: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write `interpolation.png` (a row per pair of seeds), `.gif` (a loop through all) and, with an encoder, `.mp4`.

    Args:
        generator: that makes the images.
        folder: where the files go.
        seeds: at least two.
        steps: images per row of the grid, both ends included.
        label: class of all images of a conditional generator; by default that of the first seed.
        truncation: as in `LoadedGenerator.sample`.
        settings: further facts for the PNG's metadata.

    Returns:
        The files; without an MP4 if the package imageio-ffmpeg is not installed.

    Raises:
        ConfigError: fewer than two seeds, no images, or too many for a grid.
        OSError: the folder cannot be written.
    """
    if not generator.description.is_image:
        raise ConfigError(
            "points and latents are no images", key="--interpolate", value="", remedy="name a run of images"
        )
    if len(seeds) < 2 or (len(seeds) - 1) * steps > MAX_TILES:
        remedy = f"name two or more; the grid has at most {MAX_TILES} images"
        raise ConfigError(
            "an interpolation needs at least two seeds", key="--seeds", value=f"{len(seeds)} seeds", remedy=remedy
        )
    classes = generator.classes(seeds[:1], label)
    rows = walk(generator, seeds, steps, closed=False)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "interpolation.png", folder / "interpolation.gif"]
    picture = image_grid(to_array(_decode(generator, rows, classes, truncation)), columns=steps)
    write_png(files[0], picture, settings_text(generator, label=label, truncation=truncation, **(settings or {})))
    loop = walk(generator, seeds, FRAMES, closed=True)
    frames = _enlarge(to_bytes(_decode(generator, loop, classes, truncation)))
    _write_gif(files[1], frames)
    if find_spec("imageio_ffmpeg"):
        files.append(folder / "interpolation.mp4")
        _write_mp4(files[-1], frames)
    return files


def _decode(generator: LoadedGenerator, z: Tensor, classes: Tensor | None, truncation: float) -> Tensor:
    rows = z.flatten(0, 1)
    labels = None if classes is None else classes.expand(len(rows))
    return generator.decode(rows, labels, truncation=truncation)


def _enlarge(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 `[N, H, W, C]` as RGB of even height and width, at least `SIDE` high."""
    frames = frames.repeat(3, axis=3) if frames.shape[3] == 1 else on_white(frames)
    factor = max(1, -(-SIDE // frames.shape[1]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def _write_gif(path: Path, frames: np.ndarray) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    aside = path.with_name(f".{path.name}")
    pictures[0].save(aside, format="GIF", save_all=True, append_images=pictures[1:], duration=1000 // FRAMES, loop=0)
    aside.replace(path)


def _write_mp4(path: Path, frames: np.ndarray) -> None:
    from imageio_ffmpeg import write_frames  # pyright: ignore[reportMissingImports]

    aside = path.with_name(f".{path.name}")
    size = (frames.shape[2], frames.shape[1])
    writer = write_frames(str(aside), size, fps=FRAMES, macro_block_size=2, output_params=["-f", "mp4"])
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    aside.replace(path)
