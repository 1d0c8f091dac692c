"""R3GAN's pair: the paper's number of parameters, its initialization, and the smooth resampling."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, one_hot

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.inference.foreign import _build, _discriminator
from ganscale.models import Geometry
from ganscale.models.base import Head
from ganscale.models.r3gan import Bottleneck, Resample
from tests.inference import r3gan_layout
from tests.models.nets import assert_same_derivatives, derivatives, latents, num_parameters, pair


def test_number_of_parameters_is_the_papers() -> None:
    """20.7 M for each CIFAR-10 network: 3/4 * 1024 channels, two blocks per resolution, groups of 16, expansion 2."""
    sides = ("generator", "discriminator")
    settings = ("name=r3gan", "width=768", "max_width=768", "depth=2", "expansion=2", "group_size=16")
    overrides = [f"model.{side}.{setting}" for side in sides for setting in settings]
    model = load(overrides=[*overrides, "data.resolution=32"]).model
    geometry = Geometry((3, 32, 32), 64)
    block = 2 * 768 * 1536 + 1536 * 16 * 9 + 2 * 1536
    generator = GENERATORS["r3gan"].make(model.generator, geometry)
    assert num_parameters(generator) == 8 * block + 768 * 16 + 64 * 768 + 768 * 3
    assert abs(num_parameters(generator) / 20.7e6 - 1.0) < 0.01
    discriminator = DISCRIMINATORS["r3gan"].make(model.discriminator, geometry)
    assert num_parameters(discriminator) == 8 * block + 768 * 3 + 768 * 16 + 768
    assert abs(num_parameters(discriminator) / 20.7e6 - 1.0) < 0.01


def test_number_of_conditional_parameters_is_the_originals() -> None:
    """brownvc/R3GAN's preset CIFAR10 for ten classes, counted on its own modules: 21,280,512 in D."""
    settings = ("width=768", "max_width=768", "name=r3gan")
    overrides = [f"model.{side}.{each}" for side in ("generator", "discriminator") for each in settings]
    overrides += ["model.generator.conditioning=concat", "model.discriminator.conditioning=bilinear"]
    model = load(overrides=[*overrides, "data.resolution=32"]).model
    geometry = Geometry((3, 32, 32), 64, 10)
    generator = GENERATORS["r3gan"].make(model.generator, geometry)
    assert num_parameters(DISCRIMINATORS["r3gan"].make(model.discriminator, geometry)) == 21_280_512
    torch.testing.assert_close(generator.class_embedding.std().item(), 10**-0.5, rtol=0.1, atol=0.0)


def test_the_conditional_discriminator_is_the_originals_to_second_order() -> None:
    torch.manual_seed(0)
    theirs = r3gan_layout.networks((8, 8, 8), (1, 1, 1), group_size=4, num_classes=5)["D"].requires_grad_(True)
    layout = _discriminator(theirs.state_dict())
    assert (layout.geometry.shape, layout.geometry.num_classes) == ((3, 16, 16), 5)
    own, theirs = _build("discriminator", layout).double(), theirs.double()
    labels = torch.tensor([0, 3, 3, 4])
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    names = {"EmbeddingLayer.weight": "head.embedding.weight", "ExtractionLayer.Layer.weight": "layers.0.weight"}
    names["MainLayers.2.Layers.1.LinearLayer.weight"] = "head.logit.weight"
    found = derivatives(lambda x: own(x, labels), x, [own.get_parameter(name) for name in names.values()])
    hot = one_hot(labels, 5).double()
    expected = derivatives(lambda x: theirs(x, hot), x, [theirs.get_parameter(f"Model.{name}") for name in names])
    for index in (2, 5):  # theirs has a row per number, ours one per class
        expected[index] = expected[index].t()
    assert_same_derivatives(found, expected)


def test_the_heads_embedding_starts_as_the_originals() -> None:
    """He's scale of one-hot classes, over the square root of its length."""
    head = Head(64, "bilinear", 10, class_dim=200)
    torch.testing.assert_close(head.embedding.weight.std().item(), 2000**-0.5, rtol=0.1, atol=0.0)
    assert head.logit.weight.shape == (200, 64)
    assert head.logit.bias is None


def blocks(network: nn.Module) -> list[Bottleneck]:
    return [module for module in network.modules() if isinstance(module, Bottleneck)]


@pytest.mark.parametrize("resolution", [28, 64])
def test_initial_weights(resolution: int) -> None:
    """He's scale times L^(-1/4) inside a block, and zero at its end: each block starts as the identity."""
    for network in pair("r3gan", "width=32", "max_width=64", "group_size=16", resolution=resolution):
        found = blocks(network)
        levels = {28: 3, 64: 5}[resolution]
        assert len(found) == 2 * levels
        for module in found:
            first, _, grouped, _, last = module.layers
            assert isinstance(first, nn.Conv2d)
            assert isinstance(grouped, nn.Conv2d)
            assert isinstance(last, nn.Conv2d)
            gain = math.sqrt(2.0 / 1.04) * len(found) ** -0.25
            for layer, fan_in in ((first, first.in_channels), (grouped, 16 * 9)):
                torch.testing.assert_close(layer.weight.std().item(), gain / math.sqrt(fan_in), rtol=0.1, atol=0.0)
                assert layer.bias is not None
                assert not layer.bias.any()
            assert not last.weight.any()
            assert last.bias is None
            x = torch.randn(2, first.in_channels, 4, 4, dtype=torch.float64)
            torch.testing.assert_close(module(x), x)


@pytest.mark.parametrize("resolution", [16, 28, 64])
def test_initial_outputs_are_of_order_one(resolution: int) -> None:
    generator, discriminator = pair("r3gan", "width=32", "max_width=64", "group_size=16", resolution=resolution)
    made = generator(latents(32))
    assert 0.2 < made.std() < 2.0
    logits = discriminator(made)
    assert 0.05 < logits.std() < 5.0
    assert logits.abs().max() < 10.0


def test_tanh_bounds_the_image_and_is_off_by_default() -> None:
    free, _ = pair("r3gan")
    bounded, _ = pair("r3gan", "model.generator.output=tanh")
    torch.testing.assert_close(bounded(latents()), free(latents()).tanh())
    assert free(10.0 * latents()).abs().max() > 1.0


def test_resampling_is_bilinear_inside_and_smooth() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    up, down = Resample(up=True).double(), Resample(up=False).double()
    bilinear = interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(up(x)[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    for resample in (up, down):
        made = resample(ones)
        torch.testing.assert_close(made[..., 1:-1, 1:-1], torch.ones_like(made)[..., 1:-1, 1:-1])
    assert down(x).shape == (2, 3, 3, 3)
    # Halving is the adjoint of doubling, up to the factor 4 of the mean.
    y = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(4.0 * (down(x) * y).sum(), (x * up(y)).sum())


def test_groups_and_expansion() -> None:
    generator, _ = pair("r3gan", "width=8", "max_width=8", "group_size=4", "expansion=3", "depth=1")
    first, _, grouped, *_ = blocks(generator)[0].layers
    assert isinstance(first, nn.Conv2d)
    assert isinstance(grouped, nn.Conv2d)
    assert (first.out_channels, grouped.groups) == (24, 6)


def test_nothing_but_what_a_checkpoint_needs_is_saved() -> None:
    for network in pair("r3gan"):
        assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
