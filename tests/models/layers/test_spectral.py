"""Spectral norm: against the true singular value and torch's own, and that only `advance_power_iteration` moves it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganscale.models.layers import SpectralNorm, add_spectral_norm, advance_power_iteration, spectral_norms

LAYERS = {
    "linear": lambda: nn.Linear(6, 9),
    "conv": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "grouped_conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed_conv": lambda: nn.ConvTranspose2d(3, 5, 4, stride=2),
    "embedding": lambda: nn.Embedding(6, 4),
}


def matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Outputs by everything else."""
    return (weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight).flatten(1)


def largest(layer: nn.Module, weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix(layer, weight), ord=2)


def normalized(name: str) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    add_spectral_norm(layer)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_singular_value_becomes_one(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    plain = layer.weight.detach().clone()
    add_spectral_norm(layer)
    first = largest(layer, layer.weight)
    torch.testing.assert_close(first.item(), 1.0, rtol=0.02, atol=0.0)
    assert first > 1.0 - 1e-9, "power iteration underestimates sigma"
    norms = spectral_norms(layer)
    for _ in range(2000):
        advance_power_iteration(norms)
    torch.testing.assert_close(layer.weight, plain / largest(layer, plain), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_with_the_same_vectors_it_is_torchs_own(name: str) -> None:
    """In eval mode torch's vectors rest; in training they would move at every look at the weight."""
    torch.manual_seed(0)
    layer: Any = LAYERS[name]().double()
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    reference: Any = nn.utils.parametrizations.spectral_norm(copy.deepcopy(layer), dim=dim).eval()
    add_spectral_norm(layer)
    ((norm, weight),) = spectral_norms(layer)
    theirs = reference.parametrizations.weight
    weights = torch.randn_like(weight)
    for _ in range(3):
        advance_power_iteration([(norm, weight)])
        theirs[0]._u.copy_(norm.u)
        theirs[0]._v.copy_(norm.v)
        torch.testing.assert_close(layer.weight, reference.weight)
        (gradient,) = torch.autograd.grad((layer.weight * weights).sum(), weight)
        (expected,) = torch.autograd.grad((reference.weight * weights).sum(), theirs.original)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "own_linear"])
def test_derivatives(name: str) -> None:
    ((norm, weight),) = spectral_norms(normalized(name))
    start = weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm, (start,))
    assert torch.autograd.gradgradcheck(norm, (start,))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 3), nn.Linear(3, 1))
    add_spectral_norm(net)
    return net.double()


def vectors(net: nn.Module) -> list[Tensor]:
    return [vector.clone() for norm, _ in spectral_norms(net) for vector in (norm.u, norm.v)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forwards_and_backwards_leave_the_vectors_alone(training: bool) -> None:
    net = network().train(training)
    before = vectors(net)
    assert len(before) == 6
    for _ in range(3):
        x = torch.randn(5, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        (net(x).sum() + slope.square().sum()).backward()
    assert all(torch.equal(a, b) for a, b in zip(vectors(net), before, strict=True))
    advance_power_iteration(spectral_norms(net))
    moved = [not torch.equal(a, b) for a, b in zip(vectors(net), before, strict=True)]
    assert all(moved[:4])  # a single row's or column's vectors are exact at once


def test_what_is_trained_and_saved() -> None:
    net = network()
    assert sum(name.endswith("weight.original") for name, _ in net.named_parameters()) == 3
    assert all(parameter.is_leaf for parameter in net.parameters())
    saved = net.state_dict()
    assert sum(name.endswith((".u", ".v")) for name in saved) == 6
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2.0).add_(0.1)
    advance_power_iteration(spectral_norms(other))
    other.load_state_dict(saved)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    assert torch.equal(other(x), net(x))


def test_a_copy_has_its_own_weights_and_vectors() -> None:
    net = network()
    twin = copy.deepcopy(net)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    before = twin(x)
    torch.testing.assert_close(before, net(x))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.5).add_(0.3)
    advance_power_iteration(spectral_norms(net))
    assert torch.equal(twin(x), before)
    assert (net(x) - before).abs().max() > 1e-3
    assert all(a is not b for (_, a), (_, b) in zip(spectral_norms(net), spectral_norms(twin), strict=True))


def test_the_weights_own_scale_does_not_matter() -> None:
    net = network()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    before = net(x)
    with torch.no_grad():
        for _, weight in spectral_norms(net):
            weight.mul_(7.0)
    torch.testing.assert_close(net(x), before)


def test_sigma_is_exact_under_autocast() -> None:
    norm = SpectralNorm(torch.randn(64, 64))
    weight = torch.randn(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(weight), norm(weight))
        coarse = norm(weight)
    assert torch.equal(coarse, norm(weight))


def test_a_zero_weight_is_refused() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    with pytest.raises(ValueError, match="the weight is zero"):
        add_spectral_norm(nn.Sequential(layer))
