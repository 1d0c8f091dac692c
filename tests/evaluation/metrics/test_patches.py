"""The sliced Wasserstein distance of patches, against an implementation with numpy and scipy alone."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor

from ganscale.config import load
from ganscale.config.checks import extractor_name, metric_names
from ganscale.evaluation.metrics import patches
from ganscale.evaluation.metrics.extractors import Observed, make_extractor
from ganscale.evaluation.metrics.patches import (
    BLOCKS,
    PER_IMAGE,
    SIDE,
    PatchExtractor,
    directions,
    laplacian_pyramid,
    num_levels,
    swd,
)
from ganscale.evaluation.metrics.scores import Reference, Setting, Value, compute
from ganscale.parallel.collectives import Replica

KERNEL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256.0
ALONE = Setting(3, 0, Replica())


def textures(count: int, seed: int, smooth: int = 1, channels: int = 3) -> Tensor:
    """Smoothed noise, 32 x 32."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (count, channels, 32, 32))
    for _ in range(smooth):
        noise = convolve(noise, KERNEL[None, None], mode="wrap")
    return torch.from_numpy(noise)


def judge(real: Tensor, fake: Tensor, setting: Setting = ALONE) -> Value:
    look = PatchExtractor(tuple(real.shape[1:]))
    return swd(Reference(look(real)), look(fake), setting)


def plain_pyramid(images: np.ndarray, levels: int) -> list[np.ndarray]:
    """As sliced_wasserstein.py of the paper's code: blurs by a 5 x 5 kernel, mirrored at the border."""
    bands = [images]
    for _ in range(1, levels):
        small = convolve(bands[-1], KERNEL[None, None], mode="mirror")[:, :, ::2, ::2]
        large = np.zeros_like(bands[-1])
        large[:, :, ::2, ::2] = small
        bands[-1] = bands[-1] - convolve(large, 4 * KERNEL[None, None], mode="mirror")
        bands.append(small)
    return bands


def plain_distance(real: np.ndarray, fake: np.ndarray, along: np.ndarray) -> float:
    """As sliced_wasserstein.py of the paper's code: patches `[M, C, D]`, each set normalized by channel."""
    sides = []
    for side in (real, fake):
        side = side.astype(np.float64)
        side = (side - side.mean((0, 2), keepdims=True)) / side.std((0, 2), keepdims=True)
        sides.append(np.sort(side.reshape(len(side), -1) @ along, axis=0))
    return float(np.abs(sides[0] - sides[1]).mean())


def test_the_pyramid_is_that_of_the_papers_code() -> None:
    images = textures(4, 0)
    for found, expected in zip(laplacian_pyramid(images, 3), plain_pyramid(images.numpy(), 3), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "levels"), [(8, 1), (28, 1), (32, 2), (48, 2), (64, 3), (96, 3), (256, 5)])
def test_levels_end_at_16_pixels(side: int, levels: int) -> None:
    assert num_levels(side) == levels


@pytest.mark.parametrize(
    ("sides", "levels"), [((32, 64), 2), ((64, 32), 2), ((64, 48), 2), ((128, 64), 3), ((64, 50), 2)]
)
def test_levels_fit_both_sides(sides: tuple[int, int], levels: int) -> None:
    assert num_levels(*sides) == levels


@pytest.mark.parametrize("axis", [2, 3])
def test_patches_are_from_all_places_of_a_wide_image(axis: int) -> None:
    images = torch.arange(48.0).view(48, 1) if axis == 2 else torch.arange(48.0).view(1, 48)
    images = images.expand(48, 16) if axis == 2 else images.expand(16, 48)
    found = PatchExtractor((1, *images.shape))(images.expand(250, 1, *images.shape)).features
    first = found[..., 0].flatten()
    assert set(first.int().tolist()) == set(range(48 - SIDE + 1))


def test_patches_are_cut_from_their_level() -> None:
    images = textures(5, 1)
    found = PatchExtractor((3, 32, 32))(images).features
    assert found.shape == (5, 2, PER_IMAGE, 3, SIDE * SIDE)
    for level, band in enumerate(plain_pyramid(images.numpy(), 2)):
        windows = np.lib.stride_tricks.sliding_window_view(band[2], (SIDE, SIDE), axis=(1, 2))
        for patch in found[2, level].numpy().reshape(PER_IMAGE, 3, SIDE, SIDE):
            nearest = np.abs(windows - patch[:, None, None]).max((0, 3, 4)).min()
            assert nearest < 1e-6


def test_the_distance_is_that_of_the_papers_code() -> None:
    real, fake = textures(40, 2), textures(40, 3, smooth=2)
    look = PatchExtractor((3, 32, 32))
    x, y = (look(side).features.numpy() for side in (real, fake))
    along = np.hstack([directions(3 * SIDE * SIDE, 3, block).numpy() for block in range(BLOCKS)])
    at = [[side[:, level].reshape(-1, 3, SIDE * SIDE) for side in (x, y)] for level in (0, 1)]
    levels = [plain_distance(one, other, along) for one, other in at]
    assert judge(real, fake).value == pytest.approx(1e3 * np.mean(levels), rel=1e-6)


def test_another_texture_is_farther_than_the_same() -> None:
    real, fake = textures(400, 0), textures(400, 1)
    brushed = sum((fake.roll(by, 3) for by in range(1, 6)), fake)
    same, other = judge(real, fake), judge(real, brushed)
    assert same.error is not None
    assert other.error is not None
    assert other.value - same.value > 4 * (same.error + other.error)


def test_equal_sets_have_distance_zero() -> None:
    assert judge(textures(20, 0), textures(20, 0)) == Value(0.0, 0.0)


def test_the_error_is_the_spread_over_sets() -> None:
    found = [judge(textures(60, 2 * n, channels=1), textures(60, 2 * n + 1, smooth=2, channels=1)) for n in range(12)]
    spread = float(np.std([each.value for each in found], ddof=1))
    assert 0.4 * spread < np.mean([each.error for each in found if each.error is not None]) < 2.5 * spread


def test_replicas_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    look = PatchExtractor((3, 32, 32))
    real, fake = Reference(look(textures(30, 0))), look(textures(30, 1))
    parts: list[list[Tensor]] = []
    for rank in range(3):
        own: list[Tensor] = []
        monkeypatch.setattr(patches, "all_reduce_sum", lambda tensor, own=own: own.append(tensor) or tensor)
        swd(real, fake, Setting(3, 0, Replica(rank, 3)))
        parts.append(own)
    totals = iter([torch.stack(each).sum(0) for each in zip(*parts, strict=True)])
    monkeypatch.setattr(patches, "all_reduce_sum", lambda _: next(totals))
    assert swd(real, fake, Setting(3, 0, Replica(0, 3))) == swd(real, fake, ALONE)


def test_sets_of_other_sizes_and_constant_images() -> None:
    assert judge(textures(50, 0), textures(20, 1)).value > 0
    assert judge(textures(20, 0), torch.zeros(20, 3, 32, 32)).value > 100
    broken = Observed(torch.full((20, 1, PER_IMAGE, 1, SIDE * SIDE), torch.nan))
    assert np.isnan(compute(["swd"], Reference(broken), broken, ALONE)["swd"].value)


def test_the_extractor_has_its_own_metric() -> None:
    config = load(overrides=["eval.extractor=patches"])
    assert (extractor_name(config), metric_names(config)) == ("patches", ("swd",))
    assert make_extractor("patches", "mnist", (1, 28, 28))(torch.zeros(2, 1, 28, 28)).features.shape[1] == 1
    with pytest.raises(ValueError, match="patches of 7"):
        make_extractor("patches", "mnist", (1, 6, 6))
