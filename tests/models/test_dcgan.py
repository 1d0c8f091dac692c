"""The convolutional pair: shapes at all its resolutions, widths, and initial weights."""

import pytest
import torch
from torch import nn

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.models import Geometry
from ganscale.models.layers import BatchNorm

CHANNELS = {16: (16, 8), 28: (16, 8), 32: (32, 16, 8), 64: (40, 32, 16, 8), 128: (40, 40, 32, 16, 8)}


def pair(resolution: int, *settings: str, channels: int = 3) -> tuple[nn.Module, nn.Module]:
    every = ("name=dcgan", "width=8", "max_width=40", *settings)
    overrides = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in every]
    model = load(overrides=overrides).model
    geometry = Geometry((channels, resolution, resolution), 7)
    return GENERATORS["dcgan"].make(model.generator, geometry), DISCRIMINATORS["dcgan"].make(
        model.discriminator, geometry
    )


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", CHANNELS)
def test_shapes_and_range(resolution: int, channels: int, norm: str) -> None:
    generator, discriminator = pair(resolution, f"norm={norm}", channels=channels)
    made = generator(torch.randn(2, 7))
    assert made.shape == (2, channels, resolution, resolution)
    assert made.abs().max() <= 1.0
    logits = discriminator(made)
    assert logits.shape == (2,)
    logits.sum().backward()
    for network in (generator, discriminator):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("resolution", CHANNELS)
def test_channels_double_up_to_the_bound(resolution: int) -> None:
    generator, discriminator = pair(resolution)
    up = [m.in_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    down = [m.out_channels for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert tuple(up) == tuple(down[::-1]) == CHANNELS[resolution]


@pytest.mark.parametrize("resolution", [8, 12, 30, 36])
def test_other_resolutions_are_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"not {resolution}"):
        pair(resolution)


def test_initial_weights_are_the_papers() -> None:
    for network in pair(64, "width=32", "max_width=256"):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert abs(module.weight.std().item() - 0.02) < 0.002
                assert abs(module.weight.mean().item()) < 0.002
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, BatchNorm):
                weight = module.get_parameter("weight")
                assert abs(weight.mean().item() - 1.0) < 0.02
                assert weight.std() > 0.01


def test_the_first_discriminator_layer_and_the_last_generator_layer_have_no_norm() -> None:
    generator, discriminator = pair(32, "norm=batch")
    kinds = [[type(m).__name__ for m in net.modules() if not list(m.children())] for net in (generator, discriminator)]
    assert kinds[0][-2:] == ["ConvTranspose2d", "Tanh"]
    assert kinds[1][:3] == ["Conv2d", "LeakyReLU", "Conv2d"]
    assert kinds[1].count("BatchNorm") == 2
    assert kinds[0].count("BatchNorm") == 3
