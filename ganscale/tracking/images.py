"""Renders samples as uint8 arrays `[H, W, 3]`: grids of images, scatter plots of points."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

COMPRESSION = 1
"""zlib level of PNG files: half the time of the default 6, a fifth larger files."""


def image_grid(images: np.ndarray, *, columns: int | None = None, padding: int = 2, minimum: int = 56) -> np.ndarray:
    """Tile images in rows on white, each enlarged by a whole factor to at least `minimum` pixels.

    Args:
        images: floats `[N, C, H, W]` in [-1, 1], C = 1, 3 or 4 (RGBA, shown on white); values outside are clipped,
            non-finite ones are black.
        columns: images per row; by default the grid is as square as possible.
        padding: pixels between images.
        minimum: minimal height of an image, in pixels.
    """
    count, _, height, _ = images.shape
    pixels = to_pixels(images)
    factor = max(1, math.ceil(minimum / height))
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    h, w = pixels.shape[1:3]
    canvas = np.full((rows * (h + padding) + padding, columns * (w + padding) + padding, 3), 255, np.uint8)
    for index, tile in enumerate(pixels):
        top, left = padding + index // columns * (h + padding), padding + index % columns * (w + padding)
        canvas[top : top + h, left : left + w] = tile
    return canvas


def num_shown(channels: int) -> int:
    """How many channels of latents a picture shows: the first three as colors, or the first as gray.

    Args:
        channels: of the latents.
    """
    return 3 if channels >= 3 else 1


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Images as RGB.

    Args:
        images: as `image_grid` takes them.

    Returns:
        uint8 `[N, H, W, 3]`.
    """
    pixels = np.nan_to_num((images + 1.0) * 127.5, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round()
    pixels = pixels.astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels.repeat(3, axis=3) if images.shape[1] == 1 else on_white(pixels)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Compose RGBA on white; RGB stays.

    Args:
        pixels: uint8 `[..., 3 or 4]`.

    Returns:
        uint8 `[..., 3]`.
    """
    if pixels.shape[-1] == 3:
        return pixels
    alpha = pixels[..., 3:] / 255.0
    return (pixels[..., :3] * alpha + 255.0 * (1.0 - alpha)).round().astype(np.uint8)


def scatter(points: np.ndarray, reference: np.ndarray, *, size: int = 512, margin: float = 0.25) -> np.ndarray:
    """Draw generated points (blue) over real points (gray), which determine the axes.

    Args:
        points: floats `[N, 2]`.
        reference: real points `[M, 2]`.
        size: height and width of the picture, in pixels.
        margin: on each side, as a fraction of the extent of the real points.
    """
    low, high = reference.min(0), reference.max(0)
    extent = (high - low).max()
    origin = (low + high) / 2 - extent * (0.5 + margin)
    scale = (size - 1) / (extent * (1 + 2 * margin))
    canvas = np.full((size, size, 3), 255, np.uint8)
    for cloud, color in ((reference, (200, 200, 200)), (points, (31, 90, 180))):
        finite = cloud[np.isfinite(cloud).all(1)]
        at = np.rint((finite - origin) * scale)
        at = at[((at >= 1) & (at < size - 1)).all(1)].astype(int)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)):
            canvas[size - 1 - at[:, 1] + dy, at[:, 0] + dx] = color
    return canvas


def write_png(path: Path, picture: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically.

    Args:
        path: of the file; its folder is created.
        picture: uint8 `[H, W, 3]` or `[H, W]`.
        text: PNG metadata by key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    information = PngInfo()
    for key, value in (text or {}).items():
        information.add_text(key, value)
    Image.fromarray(picture).save(aside, format="PNG", pnginfo=information, compress_level=COMPRESSION)
    aside.replace(path)
