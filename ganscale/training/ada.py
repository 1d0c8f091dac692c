"""The whole set of transforms of adaptive discriminator augmentation (Karras et al. 2020, appendix B).

As the authors' code has them: geometric transforms are one affine map of the coordinates, colors follow, then filters
and corruptions. Images go through with their own uniform numbers, so what happens to one depends on its global index
alone. All are differentiable any number of times, in float32 or wider also under autocast.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv_transpose1d

_SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
_SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466),
    *(0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578),
    *(0.0017677118642428036, -0.007800708325034148),
)
"""Lowpass filters of symlets (Daubechies 1992, table 6.3): orthogonal, with 2 and 6 vanishing moments."""
_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Expected power of an image in each of the filter's bands, from low to high."""

GEOMETRIC = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
DECISIONS = {**dict.fromkeys((*GEOMETRIC, *COLOR, "noise", "cutout"), 1), "rotate": 2, "filter": len(_POWER)}
"""How many independent decisions each transform takes for an image; all of one transform have its probability."""


class Draw:
    """Random numbers of one decision, for each image.

    Args:
        u: uniform in [0, 1), `[N, 3]`: whether, and two more.
        p: its probability.
    """

    def __init__(self, u: Tensor, p: float | Tensor) -> None:
        self.on = u[:, 0] < p
        self.uniform = u[:, 1:]

    def normal(self) -> Tensor:
        """Two independent standard normal numbers (Box and Muller 1958): `[N, 2]`."""
        radius = (-2.0 * (self.uniform[:, 0] + 2.0**-25).log()).clamp_min(0.0).sqrt()
        angle = 2.0 * math.pi * self.uniform[:, 1]
        return torch.stack((radius * angle.cos(), radius * angle.sin()), 1)

    def pick(self, value: Tensor, neutral: float) -> Tensor:
        """`value` `[N, ...]` where the decision is yes, else what changes nothing.

        Args:
            value: the parameter of the transform.
            neutral: its value without effect.
        """
        on = self.on.view(-1, *[1] * (value.dim() - 1))
        return torch.where(on, value, torch.full_like(value, neutral))


Draws = Mapping[str, list[Draw]]
"""The decisions of each transform that is wanted."""


def geometric(x: Tensor, draws: Draws) -> Tensor:
    """Flips, turns, shifts and scalings as one resampling, reflected at the border.

    Args:
        x: images `[N, C, H, W]`.
        draws: of some of `GEOMETRIC`.
    """
    inverse = torch.eye(3, dtype=x.dtype, device=x.device).expand(x.shape[0], 3, 3)
    active = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    height, width = x.shape[2:]
    for matrix, on in _inverses(draws, height, width):
        inverse, active = (inverse.unsqueeze(3) * matrix.unsqueeze(1)).sum(2), active | on
    return torch.where(active.view(-1, 1, 1, 1), _resample(x, inverse), x)


def _inverses(draws: Draws, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The inverse `[N, 3, 3]` of each transform in its order, and whether an image has it."""
    for draw in draws.get("xflip", []):
        sign = draw.pick(1.0 - 2.0 * (draw.uniform[:, 0] * 2).floor(), 1.0)
        yield _matrix(sign, 0, 0, 0, 1, 0), draw.on
    for draw in draws.get("rotate90", []):
        quarter = draw.pick((draw.uniform[:, 0] * 4).floor(), 0.0)
        cos, sin = ((quarter == k).to(quarter) - (quarter == k + 2).to(quarter) for k in (0, 1))
        yield _matrix(cos, -sin, 0, sin, cos, 0), draw.on
    for draw in draws.get("xint", []):
        shift = draw.pick((draw.uniform * 2.0 - 1.0) * 0.125, 0.0)
        yield _matrix(1, 0, -(shift[:, 0] * width).round(), 0, 1, -(shift[:, 1] * height).round()), draw.on
    turns = draws.get("rotate", [])
    for draw in draws.get("scale", []):
        size = draw.pick(torch.exp2(draw.normal()[:, 0] * 0.2), 1.0)
        yield _matrix(1 / size, 0, 0, 0, 1 / size, 0), draw.on
    for draw in turns[:1]:
        yield _turn(draw), draw.on
    for draw in draws.get("aniso", []):
        size = draw.pick(torch.exp2(draw.normal()[:, 0] * 0.2), 1.0)
        yield _matrix(1 / size, 0, 0, 0, size, 0), draw.on
    for draw in turns[1:]:
        yield _turn(draw), draw.on
    for draw in draws.get("xfrac", []):
        shift = draw.pick(draw.normal() * 0.125, 0.0)
        yield _matrix(1, 0, -shift[:, 0] * width, 0, 1, -shift[:, 1] * height), draw.on


def _turn(draw: Draw) -> Tensor:
    angle = draw.pick((draw.uniform[:, 0] * 2.0 - 1.0) * math.pi, 0.0)
    return _matrix(angle.cos(), -angle.sin(), 0, angle.sin(), angle.cos(), 0)


def _matrix(*entries: Tensor | float) -> Tensor:
    """`[N, 3, 3]` of the first two rows' entries, some of them `[N]`; the third row is 0, 0, 1."""
    like = next(each for each in entries if isinstance(each, Tensor))
    full = [each if isinstance(each, Tensor) else torch.full_like(like, each) for each in (*entries, 0, 0, 1)]
    return torch.stack(full, 1).view(-1, 3, 3)


def _resample(x: Tensor, inverse: Tensor) -> Tensor:
    """Images at the coordinates that `inverse` makes of their own (in pixels around the center, x before y).

    Twice the resolution by an orthogonal lowpass, bilinear there, and back by the same filter: without a transform the
    image itself. Reflected by its whole size each way, 0 beyond.
    """
    size, lowpass = x.shape[2:], _constants(x.dtype, x.device)[0]
    for dim in (2, 3):
        padded = reflect(x, dim, x.shape[dim] - 1)
        x = _along(padded, dim, lambda lines: conv_transpose1d(lines, 2.0 * lowpass, stride=2, padding=5))
    fine = [torch.arange(2 * side + 12, dtype=x.dtype, device=x.device) / 2 - (side + 5) / 2 for side in size]
    down, right = fine[0].view(1, -1, 1), fine[1].view(1, 1, -1)
    across, along = (
        row[:, 0].view(-1, 1, 1) * right + row[:, 1].view(-1, 1, 1) * down + row[:, 2].view(-1, 1, 1)
        for row in inverse.unbind(1)[:2]
    )
    x = _bilinear(x, 2.0 * along + (x.shape[2] / 2 - 1.0), 2.0 * across + (x.shape[3] / 2 - 1.0))
    for dim in (2, 3):
        x = _along(x, dim, lambda lines: conv1d(lines[..., 1:-1], lowpass, stride=2))
    return x


def _along(x: Tensor, dim: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of lines `[M, 1, size]` along a dimension of images."""
    x = x.movedim(dim, 3)
    lines = function(x.reshape(-1, 1, x.shape[3]))
    return lines.view(*x.shape[:3], -1).movedim(3, dim)


def reflect(x: Tensor, dim: int, pad: int) -> Tensor:
    """Continue images by reflection at their outermost pixels, as often as it takes.

    Args:
        x: `[N, C, H, W]`.
        dim: 2 or 3.
        pad: pixels on each side.
    """
    last = max(1, x.shape[dim] - 1)
    places = (torch.arange(-pad, x.shape[dim] + pad, device=x.device) + last) % (2 * last) - last
    return x.index_select(dim, places.abs().clamp(max=x.shape[dim] - 1))


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels at `rows` and `columns` `[N, h, w]`, between four neighbors, 0 outside: `[N, C, h, w]`."""
    height, width = x.shape[2:]
    flat, total = x.flatten(2), torch.zeros_like(x[:, :, :1, :1])
    top, left = rows.floor(), columns.floor()
    for row, by_row in ((top, 1.0 - (rows - top)), (top + 1.0, rows - top)):
        for column, by_column in ((left, 1.0 - (columns - left)), (left + 1.0, columns - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            index = place.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
            weight = (by_row * by_column * inside).unsqueeze(1)
            total = total + weight * flat.gather(2, index).view(*x.shape[:2], *rows.shape[1:])
    return total


def color(x: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation of the first three channels, or of the only one.

    Args:
        x: images `[N, C, H, W]`.
        draws: of some of `COLOR`; hue and saturation change nothing where there is one channel.
    """
    x, rest = x.split((min(3, x.shape[1]), max(0, x.shape[1] - 3)), 1)
    for name in COLOR:
        for draw in draws.get(name, []):
            x = x + _color_change(name, x, draw)
    return torch.cat((x, rest), 1) if rest.shape[1] else x


def _color_change(name: str, x: Tensor, draw: Draw) -> Tensor:
    """What a transform adds to an image; exactly 0 where it is not applied."""
    gray = x.mean(1, keepdim=True)
    if name == "brightness":
        return _spread(draw.pick(draw.normal()[:, 0] * 0.2, 0.0))
    if name == "contrast":
        return (_spread(draw.pick(torch.exp2(draw.normal()[:, 0] * 0.5), 1.0)) - 1.0) * x
    if name == "lumaflip":
        return -2.0 * _spread(draw.pick((draw.uniform[:, 0] * 2).floor(), 0.0)) * gray
    if name == "saturation":
        return (_spread(draw.pick(torch.exp2(draw.normal()[:, 0]), 1.0)) - 1.0) * (x - gray)
    # Hue: turn by an angle around the axis of grays (Rodrigues).
    angle = _spread(draw.pick((draw.uniform[:, 0] * 2.0 - 1.0) * math.pi, 0.0))
    across = (x.roll(1, 1) - x.roll(-1, 1)) / math.sqrt(3.0)
    return (angle.cos() - 1.0) * (x - gray) + angle.sin() * across


def _spread(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def filter_bands(x: Tensor, draws: list[Draw]) -> Tensor:
    """Amplify four frequency bands, at constant expected power.

    Args:
        x: images `[N, C, H, W]`.
        draws: one for each band.
    """
    _, bank, power = _constants(x.dtype, x.device)
    gains, active = torch.ones_like(power).expand(x.shape[0], -1), draws[0].on
    for band, draw in enumerate(draws):
        here = torch.arange(len(draws), device=x.device) == band
        gain = torch.where(here, draw.pick(torch.exp2(draw.normal()[:, :1]), 1.0), torch.ones_like(power))
        gains = gains * gain / (power * gain.square()).sum(1, keepdim=True).sqrt()
        active = active | draw.on
    taps = (gains.unsqueeze(2) * bank).sum(1).repeat_interleave(x.shape[1], 0)
    y = reflect(reflect(x, 2, bank.shape[1] // 2), 3, bank.shape[1] // 2).flatten(0, 1).unsqueeze(0)
    y = conv2d(y, taps.view(-1, 1, 1, bank.shape[1]), groups=taps.shape[0])
    y = conv2d(y, taps.view(-1, 1, bank.shape[1], 1), groups=taps.shape[0])
    return torch.where(active.view(-1, 1, 1, 1), y.view_as(x), x)


def add_noise(x: Tensor, draw: Draw, noise: Tensor) -> Tensor:
    """Add normal noise of a standard deviation that is itself half normal.

    Args:
        x: images `[N, C, H, W]`.
        draw: whether, and how much.
        noise: standard normal, like `x`.
    """
    return x + _spread(draw.pick(draw.normal()[:, 0].abs() * 0.1, 0.0)) * noise


def cut_out(x: Tensor, draw: Draw) -> Tensor:
    """Set a rectangle of half the width and height to 0 (mid gray), centered anywhere.

    Args:
        x: images `[N, C, H, W]`.
        draw: whether, and the center across and down.
    """
    keep = ~draw.on.view(-1, 1, 1)
    for dim, shape in ((3, (1, 1, -1)), (2, (1, -1, 1))):
        places = (torch.arange(x.shape[dim], dtype=x.dtype, device=x.device) + 0.5) / x.shape[dim]
        keep = keep | ((places.view(shape) - draw.uniform[:, 3 - dim].view(-1, 1, 1)).abs() >= 0.25)
    return x * keep.unsqueeze(1).to(x.dtype)


@lru_cache(maxsize=8)
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The lowpass `[1, 1, 12]` of sum 1, the filter bank `[4, taps]`, and the expected powers `[4]`."""
    low = torch.tensor(_SYM2, dtype=torch.float64)
    high = low * torch.tensor((1.0, -1.0, 1.0, -1.0), dtype=torch.float64)
    low2, high2 = (_convolved(each, each.flip(0)) / 2.0 for each in (low, high))
    bank = torch.zeros(4, 1, dtype=torch.float64)
    bank[0] = 1.0
    for band in range(1, 4):
        finer = torch.zeros(4, 2 * bank.shape[1] - 1, dtype=torch.float64)
        finer[:, ::2] = bank
        bank = torch.stack([_convolved(line, low2) for line in finer])
        start = (bank.shape[1] - len(high2)) // 2
        bank[band, start : start + len(high2)] += high2
    lowpass = torch.tensor(_SYM6, dtype=torch.float64).view(1, 1, -1) / math.sqrt(2.0)
    return tuple(each.to(device, dtype) for each in (lowpass, bank, torch.tensor(_POWER, dtype=torch.float64)))  # pyright: ignore


def _convolved(one: Tensor, other: Tensor) -> Tensor:
    """Full convolution of two lines."""
    padded = conv1d(one.view(1, 1, -1), other.flip(0).view(1, 1, -1), padding=len(other) - 1)
    return padded.view(-1)


def apply(x: Tensor, draws: Draws, noise: Tensor | None) -> Tensor:
    """All wanted transforms in the authors' order.

    Args:
        x: images `[N, C, H, W]`, float32 or float64.
        draws: decisions of each wanted transform.
        noise: standard normal like `x`, if "noise" is among them.
    """
    with torch.autocast(x.device.type, enabled=False):
        if not draws.keys().isdisjoint(GEOMETRIC):
            x = geometric(x, draws)
        x = color(x, draws)
        if "filter" in draws:
            x = filter_bands(x, draws["filter"])
        for draw in draws.get("noise", []):
            assert noise is not None, "drawn by the caller"
            x = add_noise(x, draw, noise)
        for draw in draws.get("cutout", []):
            x = cut_out(x, draw)
    return x
