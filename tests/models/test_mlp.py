"""The fully connected pair: exactly the textbook's sizes by default."""

import pytest
import torch
from torch import nn

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.models import Geometry

MNIST = Geometry((1, 28, 28), 100)


def sizes(module: nn.Module) -> list[int]:
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return [linear[0].in_features, *(m.out_features for m in linear)]


def pair(*overrides: str, geometry: Geometry = MNIST) -> tuple[nn.Module, nn.Module]:
    model = load(overrides=overrides).model
    return GENERATORS["mlp"].make(model.generator, geometry), DISCRIMINATORS["mlp"].make(model.discriminator, geometry)


def test_default_sizes_are_the_textbooks() -> None:
    generator, discriminator = pair()
    assert sizes(generator) == [100, 128, 256, 784]
    assert sizes(discriminator) == [784, 256, 128, 1]
    assert sum(p.numel() for p in generator.parameters()) == 100 * 128 + 128 + 128 * 256 + 256 + 256 * 784 + 784
    assert sum(p.numel() for p in discriminator.parameters()) == 784 * 256 + 256 + 256 * 128 + 128 + 128 + 1


def test_default_layers_are_the_textbooks() -> None:
    generator, discriminator = pair()
    kinds = [[type(m).__name__ for m in net.modules() if not list(m.children())] for net in (generator, discriminator)]
    assert kinds[0] == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "Tanh"]
    assert kinds[1] == ["Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear"]


@pytest.mark.parametrize(
    ("overrides", "generator_sizes", "discriminator_sizes"),
    [
        (("width=5", "depth=3", "growth=2"), [100, 5, 10, 20, 784], [784, 20, 10, 5, 1]),
        (("width=5", "depth=1"), [100, 5, 784], [784, 5, 1]),
        (("width=1", "depth=3", "growth=0.1"), [100, 1, 1, 1, 784], [784, 1, 1, 1, 1]),
        (("width=4", "growth=1"), [100, 4, 4, 784], [784, 4, 4, 1]),
    ],
)
def test_width_depth_and_growth(overrides, generator_sizes: list[int], discriminator_sizes: list[int]) -> None:
    settings = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in overrides]
    generator, discriminator = pair(*settings)
    assert sizes(generator) == generator_sizes
    assert sizes(discriminator) == discriminator_sizes


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8), (2,)], ids=str)
def test_shapes_and_range(shape: tuple[int, ...]) -> None:
    generator, discriminator = pair(geometry=Geometry(shape, 7))
    made = generator(100.0 * torch.randn(5, 7))
    assert made.shape == (5, *shape)
    assert discriminator(made).shape == (5,)
    assert (made.abs().max() <= 1.0) == (len(shape) == 3), "images are bounded, points are not"


@pytest.mark.parametrize(("norm", "bias"), [("none", True), ("layer", True), ("batch", False), ("local_batch", False)])
def test_no_bias_before_a_batch_norm(norm: str, bias: bool) -> None:
    """Its gradient would be rounding noise, which Adam turns into drift that differs from world to world."""
    for net in pair(f"model.generator.norm={norm}", f"model.discriminator.norm={norm}", "cluster.num_workers=1"):
        *hidden, last = [m for m in net.modules() if isinstance(m, nn.Linear)]
        assert all((m.bias is not None) == bias for m in hidden)
        assert last.bias is not None
