"""ADA's transforms against the paper's formulas in numpy and scipy, their derivatives, and their statistics."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ganscale.config import load
from ganscale.config.objective import GROUPS
from ganscale.training import ada
from ganscale.training.augment import Augmentation
from tests.runs import DCGAN

SYM6 = np.array(ada._SYM6)
COUNT = 6
GEOMETRIC, COLORS = GROUPS["bg"], GROUPS["color"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(u: np.ndarray) -> np.ndarray:
    """Box and Muller 1958."""
    size = math.sqrt(-2.0 * math.log(u[0] + 2.0**-25))
    return size * np.array([math.cos(2 * math.pi * u[1]), math.sin(2 * math.pi * u[1])])


def decisions(augmentation: Augmentation, u: np.ndarray, p: float) -> list[tuple[str, np.ndarray]]:
    """The transforms that an image gets, in the order of their numbers, each with its two numbers."""
    found, rest = [], u.reshape(-1, 3)
    for name, count in augmentation.decisions.items():
        chance = 1.0 - math.sqrt(1.0 - p) if name == "rotate" else p
        for index in range(count):
            found += [(f"{name}{index}", rest[0, 1:])] if rest[0, 0] < chance else []
            rest = rest[1:]
    return found


def turn(angle: float) -> np.ndarray:
    """By an angle from x to y, homogeneous."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def forward(name: str, u: np.ndarray, height: int, width: int) -> np.ndarray:
    """What a transform does to the picture (Karras et al. 2020, algorithm 1)."""
    match name:
        case "xflip0":
            return np.diag([1.0 - 2.0 * math.floor(2 * u[0]), 1, 1])
        case "rotate900":
            return turn(-math.pi / 2 * math.floor(4 * u[0]))
        case "xint0":
            return shift(round((2 * u[0] - 1) / 8 * width), round((2 * u[1] - 1) / 8 * height))
        case "scale0":
            return np.diag([2 ** (0.2 * normal(u)[0])] * 2 + [1])
        case "aniso0":
            size = 2 ** (0.2 * normal(u)[0])
            return np.diag([size, 1 / size, 1])
        case "rotate0" | "rotate1":
            return turn(-math.pi * (2 * u[0] - 1))
        case "xfrac0":
            return shift(normal(u)[0] / 8 * width, normal(u)[1] / 8 * height)
    raise AssertionError(name)


ORDER = ["xflip0", "rotate900", "xint0", "scale0", "rotate0", "aniso0", "rotate1", "xfrac0"]


def resampled(image: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Pad, double, look up, halve, one channel at a time."""
    height, width = image.shape
    lowpass = SYM6 / SYM6.sum()
    fine = np.pad(image, ((height - 1,) * 2, (width - 1,) * 2), mode="reflect")
    for axis in (0, 1):
        # upfirdn's output starts 5 taps early; what it lacks at the end are zeros.
        size = 2 * fine.shape[axis]
        whole = scipy.signal.upfirdn(2 * lowpass, fine, up=2, axis=axis)
        whole = np.concatenate([whole, np.zeros_like(whole)], axis)
        fine = whole.take(range(5, 5 + size), axis)
    y, x = np.mgrid[0 : 2 * height + 12, 0 : 2 * width + 12].astype(float)
    y, x = (2 * y - 2 * height - 10) / 4, (2 * x - 2 * width - 10) / 4  # pixels from the center
    at_x, at_y, _ = np.einsum("ij,jhw->ihw", inverse, np.stack([x, y, np.ones_like(x)]))
    places = [2 * at_y + fine.shape[0] / 2 - 1, 2 * at_x + fine.shape[1] / 2 - 1]
    fine = scipy.ndimage.map_coordinates(fine, places, order=1, mode="grid-constant")
    for axis in (0, 1):
        fine = np.apply_along_axis(lambda line: np.correlate(line, lowpass, "valid")[1:-1:2], axis, fine)
    return fine


def colored(image: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
    """By homogeneous 4 x 4 matrices; a gray image has the mean of their rows."""
    axis = np.array([1, 1, 1, 0]) / math.sqrt(3)
    gray, matrix = np.outer(axis, axis), np.eye(4)
    if "brightness0" in given:
        move = np.eye(4)
        move[:3, 3] = 0.2 * normal(given["brightness0"])[0]
        matrix = move @ matrix
    if "contrast0" in given:
        matrix = np.diag([2 ** (0.5 * normal(given["contrast0"])[0])] * 3 + [1]) @ matrix
    if "lumaflip0" in given:
        matrix = (np.eye(4) - 2 * gray * math.floor(2 * given["lumaflip0"][0])) @ matrix
    if "hue0" in given and image.shape[0] > 1:
        angle = math.pi * (2 * given["hue0"][0] - 1)
        cross = np.zeros((4, 4))
        cross[:3, :3] = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
        around = gray + math.cos(angle) * (np.diag([1, 1, 1, 0]) - gray) + math.sin(angle) * cross
        around[3, 3] = 1.0
        matrix = around @ matrix
    if "saturation0" in given and image.shape[0] > 1:
        matrix = (gray + (np.eye(4) - gray) * np.array([2 ** normal(given["saturation0"])[0]] * 3 + [1])) @ matrix
    if image.shape[0] == 1:
        row = matrix[:3].mean(0)
        return image * row[:3].sum() + row[3]
    rgb = np.einsum("ij,jhw->ihw", matrix[:3, :3], image[:3]) + matrix[:3, 3:, None]
    return np.concatenate([rgb, image[3:]])


def filtered(image: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
    """Bands by their frequency responses, products of those of the symlet (appendix B, Eq. 3 on)."""
    power, gains = np.array([10, 1, 1, 1]) / 13, np.ones(4)
    for band in range(4):
        here = np.ones(4)
        if f"filter{band}" in given:
            here[band] = 2 ** normal(given[f"filter{band}"])[0]
        gains *= here / math.sqrt((power * here**2).sum())
    low = np.array(ada._SYM2)
    pad = 40
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")

    def response(size: int) -> np.ndarray:
        w = 2 * np.pi * np.fft.fftfreq(size)
        lows, highs = (
            [abs(sum(h * s**k * np.exp(-1j * k * w * 2**j) for k, h in enumerate(low))) ** 2 / 2 for j in range(3)]
            for s in (1, -1)
        )
        bands = [lows[0] * lows[1] * lows[2], lows[0] * lows[1] * highs[2], lows[0] * highs[1], highs[0]]
        return (gains[:, None] * np.stack(bands)).sum(0)

    spectrum = np.fft.fft2(padded) * response(padded.shape[1])[:, None] * response(padded.shape[2])[None, :]
    return np.fft.ifft2(spectrum).real[:, pad:-pad, pad:-pad]


def rewritten(augmentation: Augmentation, x: Tensor, u: Tensor, p: float, noise: Tensor) -> Tensor:
    """All of it once more, image by image."""
    rows = []
    for image, own, grain in zip(x.numpy(), u.numpy(), noise.numpy(), strict=True):
        given = dict(decisions(augmentation, own, p))
        height, width = image.shape[1:]
        whole = np.eye(3)
        for name in ORDER:
            whole = forward(name, given[name], height, width) @ whole if name in given else whole
        if given.keys() & set(ORDER):
            image = np.stack([resampled(channel, np.linalg.inv(whole)) for channel in image])
        image = filtered(colored(image, given), given)
        if "noise0" in given:
            image = image + 0.1 * abs(normal(given["noise0"])[0]) * grain
        if "cutout0" in given:
            y, x_ = np.mgrid[0:height, 0:width] + 0.5
            inside = (abs(x_ / width - given["cutout0"][0]) < 0.25) & (abs(y / height - given["cutout0"][1]) < 0.25)
            image = image * ~inside
        rows.append(torch.tensor(image))
    return torch.stack(rows)


CASES = {name: (name,) for name in GROUPS["bgcfnc"]} | {name: (name,) for name in ("blit", "geom", "color", "bgcfnc")}


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 16, 10), (4, 9, 9)], ids=str)
@pytest.mark.parametrize("names", CASES.values(), ids=CASES)
def test_each_transform_is_the_papers(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    augmentation = Augmentation([each for name in names for each in GROUPS.get(name, (name,))])
    x, noise = numbers(COUNT, *shape) - 0.5, numbers(COUNT, *shape, seed=1)
    for p, seed in ((1.0, 2), (0.6, 3)):
        u = numbers(COUNT, augmentation.num_numbers, seed=seed)
        y = augmentation(x, u, p, noise)
        torch.testing.assert_close(y, rewritten(augmentation, x, u, p, noise), rtol=1e-10, atol=1e-10)


def test_filters_are_symlets() -> None:
    """Orthogonal to their own shifts by two, with as many vanishing moments as the name has: no other filter is."""
    for taps, moments in ((ada._SYM2, 2), (ada._SYM6, 6)):
        h = np.array(taps)
        assert len(h) == 2 * moments
        for k in range(moments):
            product = (h[2 * k :] * h[: len(h) - 2 * k]).sum()
            assert product == pytest.approx(float(k == 0), abs=1e-12)
            signs = (-1.0) ** np.arange(len(h))
            assert (signs * h * (np.arange(len(h)) - 5.5) ** k).sum() == pytest.approx(0.0, abs=1e-8)


def test_flips_and_turns_are_those_of_their_names_and_whole_shifts_lose_nothing() -> None:
    """The symlet is not quite symmetric, so that the paper's flips and turns filter a little."""
    place = torch.arange(16.0, dtype=torch.float64)
    x = (-((place - 5).view(-1, 1) ** 2 + (place - 9).view(1, -1) ** 2) / 12).exp().view(1, 1, 16, 16)
    for name, u, expected, tolerance in (
        ("ada_xflip", 0.9, x.flip(3), 0.05),
        ("ada_rotate90", 0.3, x.rot90(1, (2, 3)), 0.05),
        ("ada_rotate90", 0.6, x.rot90(2, (2, 3)), 0.05),
        ("ada_rotate90", 0.9, x.rot90(3, (2, 3)), 0.05),
        ("ada_xint", 1.0, torch.nn.functional.pad(x, (2, 0, 2, 0), mode="reflect")[:, :, :16, :16], 1e-11),
    ):
        y = Augmentation([name])(x, torch.tensor([[0.0, u, u]], dtype=torch.float64), 1.0)
        torch.testing.assert_close(y, expected, rtol=0.0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_happens_at_p_0_nor_to_images_that_are_left_out(dtype: torch.dtype) -> None:
    augmentation = Augmentation(GROUPS["bgcfnc"])
    x, noise = (numbers(40, 3, 16, 16, seed=seed).to(dtype) for seed in (0, 1))
    u = numbers(40, augmentation.num_numbers, seed=2).to(dtype)
    assert torch.equal(augmentation(x, u, 0.0, noise), x)
    y = augmentation(x, u, 0.02, noise)
    untouched = (u.view(40, -1, 3)[:, :, 0] >= 0.02).all(1)
    assert 0 < untouched.sum() < 40
    assert torch.equal(y[untouched], x[untouched])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["bg", "color", "ada_filter", "ada_noise", "ada_cutout"])
def test_groups_are_differentiable_twice(name: str, channels: int) -> None:
    augmentation = Augmentation(GROUPS.get(name, (name,)))
    x, noise = (numbers(2, channels, 7, 6, seed=seed).requires_grad_(seed == 0) for seed in (0, 1))
    u = numbers(2, augmentation.num_numbers, seed=4)

    def curved(x: Tensor) -> Tensor:
        return augmentation(x, u, 0.9, noise)[:, :, 2:5, 1:4].square().sum((1, 2, 3))

    assert gradcheck(curved, x)
    assert gradgradcheck(curved, x)


def test_a_row_is_transformed_by_its_own_numbers() -> None:
    augmentation = Augmentation(GROUPS["bgcfnc"])
    x, noise, u = numbers(5, 3, 9, 9), numbers(5, 3, 9, 9, seed=1), numbers(5, augmentation.num_numbers, seed=2)
    whole = augmentation(x, u, 0.7, noise)
    for row in range(5):
        part = slice(row, row + 1)
        torch.testing.assert_close(augmentation(x[part], u[part], 0.7, noise[part])[0], whole[row])


def test_statistics() -> None:
    """Shares and spreads over 20,000 images: within four standard errors."""
    u = numbers(20_000, 3, seed=5)
    draw = ada.Draw(u, 0.3)
    assert draw.on.double().mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 20_000) ** 0.5)
    for side in draw.normal().unbind(1):
        assert side.mean().item() == pytest.approx(0.0, abs=4 / 20_000**0.5)
        assert side.std().item() == pytest.approx(1.0, abs=4 / 40_000**0.5)
        assert side.isfinite().all()
    extremes = ada.Draw(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0 - 2.0**-24, 0.5]]), 1.0).normal()
    assert extremes.isfinite().all()
    rotation = Augmentation(["ada_rotate"])
    x = numbers(1, 1, 6, 6).expand(4000, -1, -1, -1)
    changed = (rotation(x, numbers(4000, 6, seed=6), 0.4) != x).flatten(1).any(1)
    assert changed.double().mean().item() == pytest.approx(0.4, abs=4 * (0.24 / 4000) ** 0.5), "before or after"


def test_strength_multiplies_p_for_some_transforms() -> None:
    settings = ("augment.transforms=[bgc]", "augment.strength={color: 0.5, ada_hue: 0.25}")
    config = load(overrides=(*DCGAN, *settings))
    assert config.augment.names == GROUPS["bgc"]
    expected = dict.fromkeys(COLORS, 0.5) | {"ada_hue": 0.25}
    assert config.augment.factors == expected
    augmentation = Augmentation(("ada_brightness",), config.augment.factors)
    x = numbers(4000, 1, 2, 2)
    changed = (augmentation(x, numbers(4000, 3, seed=7), 0.8) != x).flatten(1).any(1)
    assert changed.double().mean().item() == pytest.approx(0.4, abs=4 * (0.24 / 4000) ** 0.5)


def test_images_of_bfloat16_runs_are_resampled_in_float32() -> None:
    augmentation = Augmentation(GROUPS["bgcf"])
    x, u = numbers(4, 3, 12, 12).float(), numbers(4, augmentation.num_numbers, seed=2).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = augmentation(x, u, 0.8)
    assert torch.equal(y, augmentation(x, u, 0.8))
