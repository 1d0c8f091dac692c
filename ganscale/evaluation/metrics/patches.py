"""Sliced Wasserstein distance of patches from Laplacian pyramids (Karras et al. 2018, section 5): needs no weights.

Each level of an image's pyramid is one band of frequencies. Patches of 7 x 7 pixels from each level are compared as
sets, so the distance sees textures and edges of every size. It does not see how an image is arranged as a whole, nor,
as each set is normalized by itself, an error of brightness or contrast alone.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, pad

from ganscale.config import Dataset
from ganscale.evaluation.metrics.extractors import Observed
from ganscale.evaluation.metrics.scores import Reference, Setting, Value
from ganscale.parallel.collectives import all_reduce_sum
from ganscale.parallel.random import Stream, permutation

SIDE = 7
"""Height and width of a patch."""
SMALLEST = 16
"""Side of the coarsest level, at least, where an image has several."""
PER_IMAGE = 8
"""Patches of an image and level; the paper has 128, of fewer images."""
BLOCKS, DIRECTIONS = 4, 128
"""Random directions: the paper's 512."""
GROUPS = 10
"""Of images, each left out once for the error."""
THUMBNAIL = 16
"""Side of the thumbnails in pixels, or that of smaller images."""
UNIT = 1000.0
"""The value is given in thousandths, as in the paper."""
_PLACES = 250
"""Images after which places repeat: the evaluator's chunk, so that they do not depend on the number of replicas."""


def num_levels(*sides: int) -> int:
    """Levels of an image's pyramid: halved while that leaves at least `SMALLEST` whole pixels on each side.

    Args:
        sides: of the images in pixels.
    """
    levels = 1
    while all(side % 2 == 0 and side // 2 >= SMALLEST for side in sides):
        sides, levels = tuple(side // 2 for side in sides), levels + 1
    return levels


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Bands of frequencies from fine to coarse, the last one low-pass (Burt and Adelson 1983).

    Args:
        images: `[N, C, H, W]`, both sides divisible by 2^(levels - 1).
        levels: number of bands.

    Returns:
        Level l is `[N, C, H / 2^l, W / 2^l]`.
    """
    bands = [images]
    for _ in range(levels - 1):
        smaller = _blur(bands[-1])[..., ::2, ::2]
        larger = torch.zeros_like(bands[-1])
        larger[..., ::2, ::2] = smaller
        bands[-1] = bands[-1] - 4.0 * _blur(larger)
        bands.append(smaller)
    return bands


def _blur(images: Tensor) -> Tensor:
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16.0
    planes = pad(images.flatten(0, 1).unsqueeze(1), (2, 2, 2, 2), mode="reflect")
    blurred = conv2d(conv2d(planes, line.view(1, 1, 1, 5)), line.view(1, 1, 5, 1))
    return blurred.view_as(images)


class PatchExtractor:
    """Random patches of each level of an image's Laplacian pyramid.

    Args:
        shape: of one example, `(C, H, W)`.

    Raises:
        ValueError: the images are smaller than a patch.
    """

    name = "patches"
    sha256 = ""
    num_modes = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or min(shape[1:]) < SIDE:
            raise ValueError(f"examples of shape {list(shape)} have no patches of {SIDE} x {SIDE} pixels")
        self._levels = num_levels(*shape[1:])

    def __call__(self, examples: Tensor) -> Observed:
        """Features `[N, levels, PER_IMAGE, C, SIDE^2]`; thumbnails as bytes, uint8 `[N, C THUMBNAIL^2]`."""
        found = []
        for level, band in enumerate(laplacian_pyramid(examples.float(), self._levels)):
            stream = Stream(0, f"evaluation/patches/{level}")
            rows = torch.arange(len(band), device=band.device)
            drawn = [stream.integers(0, _PLACES, side - SIDE + 1, (PER_IMAGE, 2)) for side in band.shape[2:]]
            at = torch.stack((drawn[0][..., 0], drawn[1][..., 1]), 2).to(band.device)[rows % _PLACES]
            windows = band.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
            found.append(windows[rows.unsqueeze(1), :, at[..., 0], at[..., 1]].flatten(3))
        small = adaptive_avg_pool2d(examples.float(), min(THUMBNAIL, examples.shape[2]))
        thumbnails = ((small + 1.0) * 127.5).round().clamp(0, 255).byte().flatten(1)
        return Observed(torch.stack(found, 1), thumbnails=thumbnails)


def open_patches(data: Dataset, shape: tuple[int, ...], weights: str, device: torch.device) -> PatchExtractor:
    """The extractor for a data set's images.

    Args:
        data: not used.
        shape: of one example, `(C, H, W)`.
        weights: not used.
        device: not used.
    """
    return PatchExtractor(shape)


def normalized(patches: Tensor) -> Tensor:
    """Patches with mean 0 and standard deviation 1 in each channel, as float64 rows `[M, C D]`.

    Args:
        patches: `[M, C, D]`; a constant channel becomes 0.
    """
    around = patches.double() - patches.mean((0, 2), keepdim=True, dtype=torch.float64)
    deviation = around.square().mean((0, 2), keepdim=True).sqrt()
    return (around / torch.where(deviation > 0, deviation, 1.0)).flatten(1)


def directions(size: int, seed: int, block: int) -> Tensor:
    """Random unit vectors: float64 `[size, DIRECTIONS]`.

    Args:
        size: their length.
        seed: of the draw.
        block: number of the block of directions.
    """
    drawn = Stream(seed, "swd/directions").normal(block * size, (block + 1) * size, (DIRECTIONS,), torch.float64)
    return drawn / drawn.norm(dim=0)


def _distances(real: Tensor, fake: Tensor, along: Tensor, *, by_group: bool) -> tuple[Tensor, Tensor | float]:
    """Mean distance of the sorted projections `[DIRECTIONS]`; if asked for, its mean without each group of images."""
    (x, order_x), (y, order_y) = ((side @ along).T.contiguous().sort(1) for side in (real, fake))
    whole = (x - y).abs().mean(1)
    if not by_group:
        return whole, 0.0
    of_x, of_y = ((order // PER_IMAGE % GROUPS).to(torch.int8) for order in (order_x, order_y))
    without = [
        (x[of_x != group].view(DIRECTIONS, -1) - y[of_y != group].view(DIRECTIONS, -1)).abs().mean()
        for group in range(GROUPS)
    ]
    return whole, torch.stack(without)


def swd(reference: Reference, judged: Observed, setting: Setting) -> Value:
    """Sliced Wasserstein distance of the patches in thousandths, mean over the levels (Karras et al. 2018, section 5).

    Its error covers the choice of images, by leaving out each of `GROUPS` groups of them (jackknife, along one block of
    directions), and that of directions.

    Args:
        reference: what was seen in real examples.
        judged: what was seen in the samples.
        setting: seed of the directions, and who shares the work.
    """
    real, fake = reference.seen.features, judged.features
    count, replica = min(len(real), len(fake)), setting.replica
    real, fake = (_some(side, count, setting.seed) for side in (real, fake))
    levels = real.shape[1]
    whole = torch.zeros(levels, BLOCKS, DIRECTIONS, dtype=torch.float64, device=real.device)
    without = torch.zeros(levels, GROUPS, dtype=torch.float64, device=real.device)
    units = [(level, block) for level in range(levels) for block in range(BLOCKS)]
    for level, block in units[replica.rank :: replica.world_size]:
        x, y = (normalized(side[:, level].flatten(0, 1)) for side in (real, fake))
        along = directions(x.shape[1], setting.seed, block).to(x.device)
        whole[level, block], by_group = _distances(x, y, along, by_group=block == 0)
        without[level] += by_group
    if replica.world_size > 1:
        whole, without = all_reduce_sum(whole), all_reduce_sum(without)
    left_out = without.mean(0)
    by_images = (GROUPS - 1) * left_out.var(correction=0)
    by_directions = (whole.flatten(1).var(1) / (BLOCKS * DIRECTIONS)).sum() / levels**2
    return Value(UNIT * float(whole.mean()), UNIT * float((by_images + by_directions).sqrt()))


def _some(features: Tensor, count: int, seed: int) -> Tensor:
    """`count` random rows, or all."""
    return features if len(features) == count else features[permutation(seed, "swd/rows", len(features))[:count]]
