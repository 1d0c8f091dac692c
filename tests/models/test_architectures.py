"""What holds for every architecture: shapes, every norm and activation, mixed precision, memory formats, averages."""

import copy

import pytest
import torch
from torch import nn

from ganscale.config import DISCRIMINATORS, load
from ganscale.config.architectures import Activation, Norm
from ganscale.models import Geometry
from ganscale.models.base import Discriminator, Generator
from ganscale.models.layers import (
    ACTIVATIONS,
    CENTERING,
    NORMS,
    MinibatchStddev,
    SelfAttention,
    spectral_norms,
    uses_batch_statistics,
)
from tests.models.nets import CONVOLUTIONAL, LATENT, SMALL, assert_all_trained, latents, pair

NORMED = ("mlp", "dcgan", "resnet", "biggan")
NO_ATTENTION = ("mlp", "stylegan2", "transformer")
NORMED_PAIRS = [(name, norm) for name in NORMED for norm in NORMS if (name, norm) != ("mlp", "instance")]
ALL_ON = {
    "mlp": ("model.discriminator.minibatch_stddev=true", "spectral_norm=true"),
    "dcgan": ("attention=8", "model.discriminator.minibatch_stddev=true", "spectral_norm=true"),
    "resnet": ("attention=8", "model.discriminator.minibatch_stddev=true", "spectral_norm=true", "depth=2"),
    "biggan": ("attention=8", "model.discriminator.minibatch_stddev=true"),
    "r3gan": ("attention=8", "model.discriminator.minibatch_stddev=true", "depth=1"),
    "transformer": (),
    "stylegan2": (),
}


def test_tables_and_config_name_the_same() -> None:
    assert set(NORMS) == set(Norm.__args__)
    assert set(ACTIVATIONS) == set(Activation.__args__)
    assert set(NORMS) >= CENTERING


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 28, 32, 48, 64, 128])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_shapes_at_every_resolution(name: str, resolution: int, channels: int) -> None:
    generator, discriminator = pair(name, resolution=resolution, channels=channels)
    made = generator(latents(2))
    assert made.shape == (2, channels, resolution, resolution)
    logits = discriminator(made)
    assert logits.shape == (2,)
    features = discriminator.features(made)
    assert features.dim() == 2
    torch.testing.assert_close(discriminator.head(features), discriminator(made))
    logits.sum().backward()
    assert_all_trained(generator, discriminator)


@pytest.mark.parametrize(("resolution", "height"), [((16, 24), 4), ((80, 32), 20), ((28, 56), 14)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_images_need_not_be_square(name: str, resolution: tuple[int, int], height: int) -> None:
    settings = () if name in NO_ATTENTION else (f"attention={height}",)
    pooled = ("model.discriminator.pooling=flatten",) if name == "resnet" else ()
    generator, discriminator = pair(name, *settings, *pooled, resolution=resolution)
    made = generator(latents(2))
    assert made.shape == (2, 3, *resolution)
    logits = discriminator(made)
    assert logits.shape == (2,)
    logits.sum().backward()
    assert_all_trained(generator, discriminator)


def test_a_pooled_sum_starts_alike_for_any_shape() -> None:
    """Four times as many pixels in the last map: half the weight."""
    settings = load(overrides=["model.discriminator.name=resnet", "model.discriminator.width=4"]).model.discriminator
    heads = []
    for shape in ((3, 16, 64), (3, 16, 16)):
        torch.manual_seed(0)
        heads.append(DISCRIMINATORS["resnet"].make(settings, Geometry(shape, LATENT)).head)
    for wide, square in zip(*(head.parameters() for head in heads), strict=True):
        torch.testing.assert_close(2 * wide, square)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("name", "norm"), NORMED_PAIRS)
def test_every_activation_and_norm(name: str, norm: str, activation: str) -> None:
    check_finite(*pair(name, f"norm={norm}", f"activation={activation}", channels=1))


def test_transformers_are_finite() -> None:
    check_finite(*pair("transformer", channels=1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_without_norms(activation: str) -> None:
    check_finite(*pair("r3gan", f"activation={activation}", channels=1))


@pytest.mark.parametrize("name", [name for name in SMALL if ALL_ON[name]])
def test_everything_at_once(name: str) -> None:
    generator, discriminator = pair(name, *ALL_ON[name])
    check_finite(generator, discriminator)
    assert uses_batch_statistics(discriminator)
    for network in (generator, discriminator):
        kinds = [type(module) for module in network.modules()]
        assert kinds.count(SelfAttention) == (name not in NO_ATTENTION)
        assert kinds.count(MinibatchStddev) == (network is discriminator)
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        assert len(spectral_norms(network)) == (0 if name in ("r3gan", "stylegan2") else len(layers))


def check_finite(generator: Generator, discriminator: Discriminator) -> None:
    """Finite images, logits, gradients and penalty gradients; rows that differ."""
    z = latents()
    made = generator(z)
    logits = discriminator(made)
    (slope,) = torch.autograd.grad(logits.sum(), made, create_graph=True)
    (logits.sum() + slope.square().sum()).backward()
    assert made.isfinite().all()
    assert logits.isfinite().all()
    assert (made[0] - made[1]).abs().max() > 1e-6, "the image does not depend on z"
    for network in (generator, discriminator):
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("name", "norm"), [*NORMED_PAIRS, ("transformer", "")])
def test_no_parameter_is_without_effect(name: str, norm: str) -> None:
    """A parameter whose gradient is rounding noise drifts under Adam, differently in every world."""
    settings = (f"norm={norm}", "activation=tanh") if norm else ()
    generator, discriminator = pair(name, *settings, resolution=16)
    weights = torch.randn(8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (discriminator(generator(latents(8))).tanh() * weights).sum().backward()
    for network in (generator, discriminator):
        largest = max(p.grad.abs().max().item() for p in network.parameters() if p.grad is not None)
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 1e-12 * largest, f"{key} has no effect"


@pytest.mark.parametrize(("name", "norm"), [*NORMED_PAIRS, ("r3gan", ""), ("transformer", "")])
def test_no_activation_overwrites_what_others_read(name: str, norm: str) -> None:
    generator, discriminator = pair(name, *([f"norm={norm}"] if norm else []))
    plain_g, plain_d = copy.deepcopy((generator, discriminator))
    for module in [*plain_g.modules(), *plain_d.modules()]:
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = False
    made = generator(latents())
    torch.testing.assert_close(made, plain_g(latents()), rtol=0.0, atol=0.0)
    torch.testing.assert_close(discriminator(made), plain_d(made), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_channels_last_gives_the_same(name: str) -> None:
    generator, discriminator = pair(name, *ALL_ON[name])
    last_g, last_d = (copy.deepcopy(net).to(memory_format=torch.channels_last) for net in (generator, discriminator))  # pyright: ignore[reportCallIssue]
    made, made_last = generator(latents()), last_g(latents())
    torch.testing.assert_close(made_last, made, rtol=1e-10, atol=1e-12)
    shown = made.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last_d(shown), discriminator(made), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_autocast_stays_near_float32(name: str) -> None:
    generator, discriminator = (net.float() for net in pair(name, *ALL_ON[name]))
    z = latents().float()
    made = generator(z)
    logits = discriminator(made)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = generator(z)
        coarse_logits = discriminator(made)
    assert coarse_logits.dtype == torch.float32
    torch.testing.assert_close(coarse.float(), made, rtol=0.1, atol=0.05)
    torch.testing.assert_close(coarse_logits, logits, rtol=0.1, atol=0.05)
    coarse_logits.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in discriminator.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_can_be_captured(name: str) -> None:
    """torch.compile's front end takes forward and features whole: no break, no look at values."""
    generator, discriminator = pair(name, *ALL_ON[name])
    z = latents()
    made = generator(z)
    torch.testing.assert_close(torch.compile(generator, backend="eager", fullgraph=True)(z), made)
    logits = torch.compile(discriminator, backend="eager", fullgraph=True)(made.detach())
    torch.testing.assert_close(logits, discriminator(made))


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_is_independent_and_loads_back(name: str) -> None:
    generator, discriminator = pair(name, *ALL_ON[name])
    for network in (generator, discriminator):
        twin = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)
        assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
        twin.load_state_dict(network.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_the_latent_is_used_in_full() -> None:
    for name in SMALL:
        generator, _ = pair(name)
        z = latents().requires_grad_()
        generator(z).square().sum().backward()
        assert z.grad is not None
        assert (z.grad.abs().sum(0) > 0).all()
        assert z.shape[1] == LATENT
