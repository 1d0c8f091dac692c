"""Differentiable augmentation of D's inputs (DiffAugment, Zhao et al. 2020; ADA), with ADA's adaptive probability.

Every transform takes images `[N, C, H, W]` and its own uniform numbers `[N, k]` per image, so what happens to an image
depends on its global index alone. All are differentiable any number of times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.training import ada


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right, for half of the images.

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`; the first decides.
    """
    return torch.where((u[:, 0] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)


def rotate90(x: Tensor, u: Tensor) -> Tensor:
    """Turn by 0, 90, 180 or 270 degrees; square images only.

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`; the first is the angle.
    """
    turns = (u[:, 0] * 4).floor().view(-1, 1, 1, 1)
    for k in (1, 2, 3):
        x = torch.where(turns == k, x.rot90(k, (2, 3)), x)
    return x


def translation(x: Tensor, u: Tensor) -> Tensor:
    """Shift by up to an eighth of the side, rounded, each way; the border is filled with 0 (mid gray).

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`: the shifts down and right.
    """
    height, width = x.shape[2:]
    down = _offset(u[:, 0], (height + 4) // 8)
    right = _offset(u[:, 1], (width + 4) // 8)
    x = _shift(x, down, 2)
    return _shift(x, right, 3)


def _offset(u: Tensor, most: int) -> Tensor:
    """Whole numbers from -most to most: `[N]`."""
    return (u * (2 * most + 1)).floor().long() - most


def _shift(x: Tensor, offset: Tensor, dim: int) -> Tensor:
    """Move the content of each image along a dimension, by its own offset."""
    size = x.shape[dim]
    source = torch.arange(size, device=x.device) - offset.view(-1, 1)
    inside = (source >= 0) & (source < size)
    shape = [x.shape[0], 1, 1, 1]
    shape[dim] = size
    index = source.clamp(0, size - 1).view(shape).expand_as(x)
    return x.gather(dim, index) * inside.view(shape).to(x.dtype)


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Set a square of half the side, centered anywhere, to 0 (mid gray).

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`: the center's row and column.
    """
    keep = []
    for dim, position in ((2, u[:, 0]), (3, u[:, 1])):
        size = x.shape[dim]
        length = size // 2
        start = (position * (size + 1 - length % 2)).floor() - length // 2
        at = torch.arange(size, device=x.device).view(1, -1)
        keep.append((at < start.view(-1, 1)) | (at >= start.view(-1, 1) + length))
    outside = keep[0].unsqueeze(2) | keep[1].unsqueeze(1)
    return x * outside.unsqueeze(1).to(x.dtype)


def brightness(x: Tensor, u: Tensor) -> Tensor:
    """Add a number from [-0.5, 0.5).

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`; the first is used.
    """
    return x + (u[:, 0] - 0.5).view(-1, 1, 1, 1).to(x.dtype)


def saturation(x: Tensor, u: Tensor) -> Tensor:
    """Scale the distance from gray by a number from [0, 2).

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`; the first is used.
    """
    gray = x.mean(1, keepdim=True)
    return gray + (x - gray) * (2.0 * u[:, 0]).view(-1, 1, 1, 1).to(x.dtype)


def contrast(x: Tensor, u: Tensor) -> Tensor:
    """Scale the distance from the image's mean by a number from [0.5, 1.5).

    Args:
        x: images `[N, C, H, W]`.
        u: uniform in [0, 1), `[N, 2]`; the first is used.
    """
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (u[:, 0] + 0.5).view(-1, 1, 1, 1).to(x.dtype)


TRANSFORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "flip": flip,
    "rotate90": rotate90,
    "brightness": brightness,
    "saturation": saturation,
    "contrast": contrast,
    "translation": translation,
    "cutout": cutout,
}
_NUMBERS = 3
"""Uniform numbers of an image per transform: one for whether, two for how."""


class Augmentation:
    """Transforms in `TRANSFORMS`' order, each applied to an image with probability p, then those of ADA likewise.

    Args:
        names: of the transforms.
        strength: by which p is multiplied for some of them.

    Attributes:
        num_numbers: uniform numbers that an image needs.
        needs_noise: whether it needs noise too.
    """

    def __init__(self, names: Sequence[str], strength: Mapping[str, float] | None = None) -> None:
        self.names = [name for name in TRANSFORMS if name in names]
        self.decisions = {name: number for name, number in ada.DECISIONS.items() if f"ada_{name}" in names}
        self.strength = strength or {}
        self.num_numbers = _NUMBERS * (len(self.names) + sum(self.decisions.values()))
        self.needs_noise = "noise" in self.decisions

    def __call__(self, x: Tensor, u: Tensor, p: float | Tensor, noise: Tensor | None = None) -> Tensor:
        """Transform images.

        Args:
            x: `[N, C, H, W]`.
            u: uniform in [0, 1), `[N, num_numbers]`.
            p: probability of each transform for each image; a tensor `[]` is below 1.
            noise: standard normal like `x`, if `needs_noise`.
        """
        numbers = iter(u.split(_NUMBERS, 1))
        for name in self.names:
            whether, *how = next(numbers).unbind(1)
            changed, chance = TRANSFORMS[name](x, torch.stack(how, 1)), self._chance(name, p)
            certain = not isinstance(chance, Tensor) and chance >= 1.0
            x = changed if certain else torch.where((whether < chance).view(-1, 1, 1, 1), changed, x)
        if not self.decisions:
            return x
        draws = {}
        for name, number in self.decisions.items():
            chance = self._chance(f"ada_{name}", p)
            if name == "rotate":  # before or after the anisotropic scaling
                chance = 1.0 - (1.0 - chance) ** 0.5
            draws[name] = [ada.Draw(next(numbers), chance) for _ in range(number)]
        return ada.apply(x, draws, noise)

    def _chance(self, name: str, p: float | Tensor) -> float | Tensor:
        return p * self.strength[name] if name in self.strength else p


@dataclass(frozen=True)
class AdaptiveRule:
    """How ADA moves p (Karras et al. 2020, section 3.1).

    Attributes:
        target: wanted mean of sign(D(real)).
        speed: images in which p could go from 0 to 1.
        every: iterations between two changes.
    """

    target: float
    speed: int
    every: int


def next_p(p: float, sign_mean: float, images: int, rule: AdaptiveRule) -> float:
    """ADA's p after `images` more images: up where the mean sign is above the target, else down.

    Args:
        p: before.
        sign_mean: mean of sign(D(real)) since the last change, over all replicas, in [-1, 1].
        images: since the last change.
        rule: target and speed.
    """
    direction = (sign_mean > rule.target) - (sign_mean < rule.target)
    return min(1.0, max(0.0, p + direction * images / rule.speed))
