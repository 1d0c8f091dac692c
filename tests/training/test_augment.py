"""Each transform on images made by hand, its derivatives, its random numbers, and how ADA moves p."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ganscale.training.augment import TRANSFORMS, AdaptiveRule, Augmentation, next_p
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.runs import DCGAN, tiny

RAMP = torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4)


def uniform(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def apply(name: str, x: Tensor, first: float, second: float = 0.0) -> Tensor:
    return TRANSFORMS[name](x, uniform(first, second).expand(x.shape[0], -1))


def test_flip() -> None:
    torch.testing.assert_close(apply("flip", RAMP, 0.49), RAMP.flip(3))
    torch.testing.assert_close(apply("flip", RAMP, 0.5), RAMP)


def test_rotate90() -> None:
    for turns, number in enumerate((0.0, 0.25, 0.5, 0.99)):
        torch.testing.assert_close(apply("rotate90", RAMP, number), torch.rot90(RAMP, turns, (2, 3)))


def test_translation() -> None:
    image = torch.arange(1.0, 257.0, dtype=torch.float64).view(1, 1, 16, 16)
    torch.testing.assert_close(apply("translation", image, 0.5, 0.5), image)
    down = apply("translation", image, 0.999, 0.5)  # by 2 of 16 pixels
    torch.testing.assert_close(down[:, :, 2:], image[:, :, :-2])
    assert not down[:, :, :2].any()
    odd = torch.ones(1, 1, 28, 28)
    assert (TRANSFORMS["translation"](odd, torch.tensor([[0.999, 0.5]])) == 0.0).sum() == 4 * 28, "28 / 8, rounded"
    left = apply("translation", image, 0.5, 0.0)
    torch.testing.assert_close(left[:, :, :, :-2], image[:, :, :, 2:])
    assert not left[:, :, :, -2:].any()


def test_cutout() -> None:
    image = torch.ones(1, 2, 8, 8, dtype=torch.float64)
    corner, middle, end = (apply("cutout", image, u, u) for u in (0.0, 0.5, 0.999))
    expected = image.clone()
    expected[:, :, :2, :2] = 0.0
    torch.testing.assert_close(corner, expected)
    expected = image.clone()
    expected[:, :, 2:6, 2:6] = 0.0
    torch.testing.assert_close(middle, expected)
    expected = image.clone()
    expected[:, :, 6:, 6:] = 0.0
    torch.testing.assert_close(end, expected)


def test_brightness_saturation_contrast() -> None:
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(apply("brightness", x, 0.75), x + 0.25)
    gray = x.mean(1, keepdim=True)
    torch.testing.assert_close(apply("saturation", x, 0.0), gray.expand_as(x))
    torch.testing.assert_close(apply("saturation", x, 0.75), gray + 1.5 * (x - gray))
    torch.testing.assert_close(apply("saturation", RAMP, 0.1), RAMP, msg="one channel has no saturation")
    torch.testing.assert_close(apply("contrast", x, 0.0), x.mean() + 0.5 * (x - x.mean()))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_is_differentiable_twice(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, u = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 8, 8), (2, 2)))
    x.requires_grad_(True)

    def curved(x: Tensor) -> Tensor:
        return TRANSFORMS[name](x, u)[:, :, :3, 2:5].square().sum((1, 2, 3))

    assert gradcheck(curved, x)
    assert gradgradcheck(curved, x)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_row_is_transformed_by_its_own_numbers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, u = (torch.rand(*shape, generator=generator) for shape in ((6, 3, 16, 16), (6, 2)))
    whole = TRANSFORMS[name](x, u)
    for row in range(6):
        torch.testing.assert_close(TRANSFORMS[name](x[row : row + 1], u[row : row + 1])[0], whole[row])
    assert not torch.equal(whole, x)


def augmented(p: float, count: int = 400) -> tuple[Tensor, Tensor]:
    augmentation = Augmentation(["cutout", "brightness"])
    assert augmentation.names == ["brightness", "cutout"], "always in this order"
    x = torch.ones(count, 1, 8, 8)
    u = torch.rand(count, augmentation.num_numbers, generator=torch.Generator().manual_seed(0))
    return x, augmentation(x, u, p)


def test_p_is_the_share_of_images_that_are_transformed() -> None:
    x, nothing = augmented(0.0)
    torch.testing.assert_close(nothing, x)
    changed = {}
    for p in (0.25, 1.0):
        x, y = augmented(p)
        bright = (y.amax((1, 2, 3)) != 1.0).double().mean().item()
        cut = (y == 0.0).any(3).any(2).any(1).double().mean().item()
        changed[p] = (bright, cut)
    assert changed[1.0] == (1.0, 1.0)
    assert changed[0.25] == (pytest.approx(0.25, abs=0.06), pytest.approx(0.25, abs=0.06))


def test_next_p() -> None:
    rule = AdaptiveRule(target=0.6, speed=1000, every=4)
    assert next_p(0.5, 0.7, 100, rule) == pytest.approx(0.6)
    assert next_p(0.5, 0.5, 100, rule) == pytest.approx(0.4)
    assert next_p(0.5, 0.6, 100, rule) == 0.5
    assert next_p(0.95, 1.0, 100, rule) == 1.0
    assert next_p(0.05, -1.0, 100, rule) == 0.0


def adapted(*overrides: str) -> list[float]:
    """p after each iteration."""
    ada = ("augment.transforms=[brightness, cutout]", "augment.adaptive=true", "augment.speed=240", "augment.every=2")
    experiment = build(tiny(*DCGAN, *ada, *overrides))
    state = experiment.state
    ticks = train(experiment, intervals={"each": 12}, until=12 * 30)
    return [state.augment_p for _ in ticks]


def test_ada_raises_p_where_d_is_sure_and_lowers_it_where_it_is_not() -> None:
    sure = adapted("augment.p=0", "augment.target=-1", "optim.lr_d=1e-2")
    assert sure[0] == 0.0
    assert sure[1] == pytest.approx(0.1), "24 images of 240"
    assert sure[-1] == 1.0
    unsure = adapted("augment.p=0.5", "augment.target=1")
    assert unsure[:3] == pytest.approx([0.5, 0.4, 0.4])
    assert unsure == sorted(unsure, reverse=True), "where all signs are 1 it stays as it is"
    assert unsure[-1] < 0.4


def test_ada_averages_the_signs_of_the_whole_interval() -> None:
    """Of all D updates between two changes, as each of them saw D."""
    settings = ("augment.p=0.5", "augment.every=3", "augment.target=0.2", "optim.d_steps=2", "optim.lr_d=1e-2")
    experiment = build(tiny(*DCGAN, "augment.transforms=[brightness]", "augment.adaptive=true", *settings))
    state, seen = experiment.state, []
    handle = experiment.step.d.parallel.register_forward_hook(lambda *args: seen.append(args[2].real_logits))
    p, sums = state.augment_p, []
    for iteration, _ in enumerate(train(experiment, intervals={"each": 24}, until=24 * 9)):
        sums.append(state.signs)
        if iteration % 3 == 2:
            signs = torch.cat(seen[-6:]).sign()
            assert signs.numel() == 6 * 12
            p += (1.0 if signs.mean() > 0.2 else -1.0) * 72 / 500_000
            assert state.augment_p == pytest.approx(p)
            assert state.signs == (0.0, 0.0)
        else:
            part = torch.cat(seen[-2 * (iteration % 3 + 1) :])
            assert state.signs == (part.sign().sum().item(), part.numel())
    assert len(set(sums)) > 3, "nothing happened"
    handle.remove()


def test_ada_counts_the_share_of_reals_above_the_boundary() -> None:
    """Least squares has 0.5 as boundary: a D that says 0.3 everywhere is not sure of anything."""
    settings = ("loss.name=least_squares", "augment.target=0", "augment.p=0.5")
    experiment = build(
        tiny(*DCGAN, "augment.transforms=[flip]", "augment.adaptive=true", "augment.speed=240", *settings)
    )
    for level, expected in ((0.3, 0.0), (0.7, 12.0)):
        head = list(experiment.state.discriminator.parameters())[-1]
        with torch.no_grad():
            for parameter in experiment.state.discriminator.parameters():
                parameter.zero_()
            head.fill_(level)
        statistics = experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0, details=True))
        assert statistics.sums["real_right"] == expected
        assert statistics.sums["signs"].tolist() == [2 * expected - 12, 12]
