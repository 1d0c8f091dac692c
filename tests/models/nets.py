"""Small networks of any architecture for the models' tests."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.config.datasets import Resolution, height_width
from ganscale.models import Geometry
from ganscale.models.base import Discriminator, Generator

SMALL = {
    "mlp": ("width=6",),
    "dcgan": ("width=4", "max_width=8"),
    "resnet": ("width=4", "max_width=8"),
    "biggan": ("width=1",),
    "r3gan": ("width=4", "max_width=8", "group_size=4"),
    "stylegan2": (
        "channel_base=64",
        "channel_max=8",
        "mapping_layers=2",
        "model.generator.w_dim=12",
    ),
    "transformer": ("width=8", "heads=2", "depth=4", "patch=4"),
}
CONVOLUTIONAL = ("dcgan", "resnet", "biggan", "r3gan", "stylegan2")
CLASSES = 5
LATENT = 7
CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


def pair(
    name: str,
    *overrides: str,
    resolution: Resolution = 16,
    channels: int = 3,
    num_classes: int = CLASSES,
    seed: int = 0,
) -> tuple[Generator, Discriminator]:
    """A small generator and discriminator in float64; overrides as `model.side.key=value`, or `key=value` for both."""
    settings = ["cluster.num_workers=1", f"data.resolution={list(height_width(resolution))}"]
    if name == "stylegan2" and "model.generator.conditioning=concat" in overrides:
        settings += ["model.generator.name=stylegan2", "model.generator.class_dim=12"]  # as w_dim
    settings += [] if isinstance(resolution, int) else ["data.name=folder", "data.path=x"]
    for setting in (f"name={name}", *SMALL[name], *overrides):
        sides = ("",) if setting.startswith("model.") else ("model.generator.", "model.discriminator.")
        settings += [side + setting for side in sides]
    model = load(overrides=settings).model
    geometry = Geometry((channels, *height_width(resolution)), LATENT, num_classes)
    torch.manual_seed(seed)
    generator = GENERATORS[name].make(model.generator, geometry).double()
    discriminator = DISCRIMINATORS[name].make(model.discriminator, geometry).double()
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    return generator, discriminator


def latents(count: int = 4, seed: int = 1) -> torch.Tensor:
    """`[count, LATENT]` in float64."""
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivatives(network: Callable[[Tensor], Tensor], x: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Outputs, their slope at x, gradients of both of the parameters: forward, backward and double backward."""
    parameters = list(parameters)
    x = x.detach().requires_grad_()
    y = network(x)
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view_as(y)
    (slope,) = torch.autograd.grad((weights * y).sum(), x, create_graph=True)
    found = [y, slope]
    for value in ((weights * y).sum(), slope.square().sum()):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        found += [torch.zeros((), dtype=y.dtype) if each is None else each for each in gradients]
    return found


def assert_same_derivatives(found: list[Tensor], expected: list[Tensor]) -> None:
    """To 1e-10 of each tensor's largest number, and not only zeros: what `derivatives` gives."""
    assert len(found) == len(expected)
    assert any(each.abs().max() > 1e-3 for each in expected[2 + len(expected) // 2 :])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1.0, b.abs().max().item()))


def assert_all_trained(*networks: nn.Module) -> None:
    """Every parameter has a finite gradient."""
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def num_parameters(network: nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
