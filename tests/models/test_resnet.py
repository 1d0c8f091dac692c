"""The residual pair: its blocks against the papers' order of operations, sizes and initial weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from ganscale.config.architectures import ResNetDiscriminator
from ganscale.models.resnet import ResidualBlock
from tests.models.nets import latents, num_parameters, pair


def block(before: int, after: int, **options) -> ResidualBlock:
    torch.manual_seed(0)
    return ResidualBlock((before, after), ResNetDiscriminator(), **options).double()


def papers(block: ResidualBlock, x: Tensor, *, up: bool = False, down: bool = False, first: bool = False) -> Tensor:
    """Gulrajani et al. 2017's order: resample where the paper does, shortcut convolution at the larger side."""

    def convolve(layer: nn.Module, value: Tensor) -> Tensor:
        weight = layer.get_parameter("weight")
        return conv2d(value, weight, layer.get_parameter("bias"), padding=weight.shape[-1] // 2)

    def repeat(value: Tensor) -> Tensor:
        return value.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else value

    def shrink(value: Tensor) -> Tensor:
        return avg_pool2d(value, 2) if down else value

    y = x if first else relu(x)
    y = shrink(convolve(block.conv2, relu(convolve(block.conv1, repeat(y)))))
    plain = isinstance(block.shortcut, nn.Identity)
    return y + (x if plain else shrink(convolve(block.shortcut, repeat(x))))


@pytest.mark.parametrize("options", [{}, {"up": True}, {"down": True}, {"down": True, "first": True}], ids=str)
@pytest.mark.parametrize("after", [3, 5])
def test_a_block_is_the_papers(after: int, options: dict[str, bool]) -> None:
    module = block(3, after, **options)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    before = x.clone()
    torch.testing.assert_close(module(x), papers(module, x, **options))
    assert torch.equal(x, before), "the block overwrote its input"


def channels(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.conv1.in_channels, m.conv2.out_channels) for m in network.modules() if isinstance(m, ResidualBlock)]


def test_channels_of_sngan_for_cifar() -> None:
    """Miyato et al. 2018, Table 4: three blocks up in G; two down and two plain ones at 8 x 8 in D."""
    overrides = ("model.discriminator.smallest=8", "model.discriminator.final_blocks=2")
    generator, discriminator = pair("resnet", "width=16", "max_width=16", *overrides, resolution=32)
    assert channels(generator) == [(16, 16)] * 3
    assert channels(discriminator) == [(3, 16), (16, 16), (16, 16), (16, 16)]
    shown = torch.zeros(1, 3, 32, 32).double()
    assert discriminator.layers(shown).shape == (1, 16, 8, 8)  # pyright: ignore[reportCallIssue]
    assert discriminator.features(shown).shape == (1, 16)


def test_channels_of_sngan_for_128_pixels() -> None:
    """Miyato et al. 2018, Tables 5 and 6, with an eighth of the channels."""
    generator, discriminator = pair("resnet", "width=8", "max_width=128", resolution=128)
    assert channels(generator) == [(128, 128), (128, 64), (64, 32), (32, 16), (16, 8)]
    assert channels(discriminator) == [(3, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, 128)]


def test_sngans_number_of_parameters_for_cifar() -> None:
    """Generator 256 wide and discriminator 128 wide: counted by hand from Table 4 (4.07 and 1.05 M with biases)."""
    overrides = ["model.discriminator.smallest=8", "model.discriminator.final_blocks=2", "norm=none"]
    for key in ("width", "max_width"):
        overrides += [f"model.generator.{key}=256", f"model.discriminator.{key}=128"]
    generator, discriminator = pair("resnet", *overrides, resolution=32)
    wide = 256 * 256 * 9 + 256
    assert num_parameters(generator) == 7 * 4096 + 4096 + 3 * (2 * wide + 256 * 256 + 256) + 256 * 3 * 9 + 3
    narrow = 128 * 128 * 9 + 128
    shortcut = 128 * 128 + 128
    first = 3 * 128 * 9 + 128 + narrow + 3 * 128 + 128
    assert num_parameters(discriminator) == first + 3 * 2 * narrow + shortcut + 128 + 1


@pytest.mark.parametrize("depth", [1, 3])
def test_depth_is_the_number_of_blocks_per_resolution(depth: int) -> None:
    generator, discriminator = pair("resnet", f"depth={depth}", resolution=32)
    assert len(channels(generator)) == 3 * depth
    assert len(channels(discriminator)) == 3 * depth + 1


@pytest.mark.parametrize("pooling", ["sum", "mean", "flatten"])
def test_pooling(pooling: str) -> None:
    _, discriminator = pair("resnet", f"model.discriminator.pooling={pooling}")
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    map_ = discriminator.layers(x)  # pyright: ignore[reportCallIssue]
    expected = {"sum": map_.sum((2, 3)), "mean": map_.mean((2, 3)), "flatten": map_.flatten(1)}[pooling]
    torch.testing.assert_close(discriminator.features(x), expected)


@pytest.mark.parametrize("depth", [1, 6])
def test_initial_outputs_are_of_order_one_at_any_depth(depth: int) -> None:
    generator, discriminator = pair("resnet", "norm=none", "width=16", "max_width=32", f"depth={depth}", resolution=32)
    made = generator(latents(16))
    assert 0.1 < made.std() < 0.95
    logits = discriminator(made)
    assert logits.abs().max() < 10.0
    assert logits.std() > 0.01


def test_gains_of_glorots_weights() -> None:
    """sqrt(2) in the blocks' 3x3 convolutions, 1 elsewhere, G's output convolution included (Miyato et al.'s code)."""
    generator, _ = pair("resnet", "norm=none", "width=64", "max_width=64", resolution=32)
    blocks = [module for module in generator.modules() if isinstance(module, ResidualBlock)]
    gains = {blocks[0].conv1: 2.0**0.5, blocks[0].shortcut: 1.0}
    gains |= {module: 1.0 for module in generator.layers if isinstance(module, nn.Conv2d)}  # pyright: ignore
    assert len(gains) == 3
    for layer, gain in gains.items():
        weight = layer.get_parameter("weight")
        fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
        assert weight.abs().max().item() == pytest.approx(gain * (6.0 / fans) ** 0.5, rel=0.01)
