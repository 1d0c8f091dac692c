"""Passes whose second derivatives carry no zeros: the same numbers with fewer products."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.counting import FlopCounter
from ganscale.models.layers import WithoutZeros


def fully_connected(activation: nn.Module) -> nn.Module:
    layers = nn.Linear(64, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 1)
    return nn.Sequential(nn.Flatten(), *layers)


def convolutional(activation: nn.Module) -> nn.Module:
    first = nn.Conv2d(1, 4, 3, stride=2, padding=1), activation, nn.Conv2d(4, 6, 2, bias=False, dilation=(1, 2))
    return nn.Sequential(*first, activation, nn.Conv2d(6, 6, 1, groups=2), activation, nn.Flatten(), nn.LazyLinear(1))


def mixed(activation: nn.Module) -> nn.Module:
    """With curves, whose second derivatives go through everything that lies before them."""
    first = nn.Conv2d(1, 4, 3, padding="same"), activation, nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), activation
    return nn.Sequential(
        *first, nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3), activation, nn.Flatten(), nn.LazyLinear(1)
    )


NETWORKS = [fully_connected, convolutional, mixed]
ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True)]


def made(build, activation: nn.Module) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network, x = build(activation), torch.randn(5, 1, 8, 8)
    network(x)  # lazy layers
    return network.double(), x.double().requires_grad_()


def penalty(network: nn.Module, x: Tensor) -> tuple[list[Tensor], int]:
    """Gradients of a gradient penalty and of a loss on the same pass, and the FLOPs for the penalty's."""
    parameters = list(network.parameters())
    with FlopCounter() as counter:
        y = network(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        found = torch.autograd.grad(
            (slope.square().sum((1, 2, 3)) - 1).square().sum(), parameters, allow_unused=True, retain_graph=True
        )
    together = torch.autograd.grad((slope.square().sum() + y.square().sum()), [x, *parameters])
    zeros = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return [y.detach(), slope.detach(), *zeros, *together], counter.total


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("build", NETWORKS)
def test_a_penalty_has_the_same_gradient_for_less(build, activation: nn.Module) -> None:
    wanted, before = penalty(*made(build, activation))
    with WithoutZeros():
        found, after = penalty(*made(build, activation))
    assert after < before
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert penalty(*made(build, activation))[1] == before, "only in the block"


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_at_zero_it_is_torchs(slope: float) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 3.0], dtype=torch.float64, requires_grad=True)
    expected = nn.functional.leaky_relu(x, slope)
    with WithoutZeros():
        y = nn.functional.leaky_relu(x, slope)
    assert torch.equal(y, expected)
    ((one,), (other,)) = (torch.autograd.grad(v.sum(), x) for v in (y, expected))
    assert torch.equal(one, other)


@pytest.mark.parametrize("build", [fully_connected, convolutional])
def test_mixed_precision_stays_mixed(build) -> None:
    network, x = made(build, nn.LeakyReLU(0.2))
    network, x = network.float(), x.detach().float().requires_grad_()
    kinds = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, __, y: kinds.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16), WithoutZeros():
        logits = network(x)
    assert set(kinds) == {torch.bfloat16}
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
