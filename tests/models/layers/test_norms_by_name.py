"""Group, instance, pixel and class-conditional norms, gains of activations, and labels through a chain."""

import math

import pytest
import torch
from torch import Tensor, nn

from ganscale.models.layers import (
    ACTIVATIONS,
    CENTERING,
    NORMS,
    BatchNorm,
    Chain,
    ConditionalNorm,
    activation_gain,
    make_norm,
)
from ganscale.models.layers.activations import make_activation
from ganscale.parallel.collectives import Replica
from tests.fleet import Fleet


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (16, 1), (32, 2), (48, 3), (64, 4), (40, 2), (37, 1)])
def test_groups_have_sixteen_channels_or_the_next_number_that_fits(channels: int, groups: int) -> None:
    norm = NORMS["group"](channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
    x = 3.0 + 2.0 * random(2, channels, 5, 5).float()
    parts = norm(x).view(2, groups, -1)
    torch.testing.assert_close(parts.mean(2), torch.zeros(2, groups), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(parts.std(2, correction=0), torch.ones(2, groups), atol=1e-4, rtol=0.0)


def test_instance_norm_is_torchs() -> None:
    x = 3.0 + 2.0 * random(2, 4, 5, 5)
    torch.testing.assert_close(NORMS["instance"](4).double()(x), nn.InstanceNorm2d(4).double()(x))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 2)], ids=str)
def test_pixel_norm_makes_the_mean_square_one(shape: tuple[int, ...]) -> None:
    x = 5.0 * random(*shape)
    y = NORMS["pixel"](4)(x)
    torch.testing.assert_close(y, x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())
    assert NORMS["pixel"](4)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NORMS)
def test_affine_or_not(name: str) -> None:
    with_scale, without = NORMS[name](32).double(), NORMS[name](32, affine=False).double()
    assert len(list(with_scale.parameters())) == (0 if name in ("none", "pixel") else 2)
    assert not list(without.parameters())
    x = 1.0 + random(6, 32, 3, 3)
    for training in (True, False):
        torch.testing.assert_close(without.train(training)(x), with_scale.train(training)(x))


@pytest.mark.parametrize("name", NORMS)
def test_which_norms_remove_a_channels_mean(name: str) -> None:
    norm = NORMS[name](32).double()
    x = random(6, 32, 3, 3)
    shifted = x + random(1, 32, 1, 1, seed=3)
    assert torch.allclose(norm(x), norm(shifted)) == (name in CENTERING)


@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, s) for n in NORMS for s in ((6, 32), (6, 32, 3, 3)) if n != "none" and (n, len(s)) != ("instance", 2)],
)
def test_a_conditional_norm_scales_and_shifts_by_class(name: str, shape: tuple[int, ...]) -> None:
    """Dumoulin et al. 2017, Eq. 5."""
    norm = make_norm(name, 32, 4).double()
    assert isinstance(norm, ConditionalNorm)
    x, labels = random(*shape), torch.tensor([0, 1, 3, 3, 1, 0])
    plain = NORMS[name](32, affine=False).double()
    torch.testing.assert_close(norm(x, labels), plain(x))
    with torch.no_grad():
        norm.weight.copy_(random(4, 32, seed=1))
        norm.bias.copy_(random(4, 32, seed=2))
    scale, shift = (table[labels].view(6, 32, *[1] * (x.dim() - 2)) for table in (norm.weight, norm.bias))
    torch.testing.assert_close(norm(x, labels), plain(x) * scale + shift)


def test_a_conditional_norm_has_both_derivatives() -> None:
    norm = make_norm("batch", 2, 3).double()
    x, labels = random(4, 2).requires_grad_(), torch.tensor([0, 2, 2, 1])
    tables = [random(3, 2, seed=seed).requires_grad_() for seed in (1, 2)]

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x, labels))

    assert torch.autograd.gradcheck(function, (x, *tables))
    assert torch.autograd.gradgradcheck(function, (x, *tables))


def test_a_chain_hands_labels_to_those_who_take_them() -> None:
    chain = Chain(nn.Linear(3, 4), Chain(make_norm("batch", 4, 2), nn.Tanh()), nn.Linear(4, 1)).double()
    with torch.no_grad():
        chain.get_parameter("1.0.bias").copy_(random(2, 4))
    x = random(5, 3)
    zero, one = torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64)
    assert (chain(x, zero) - chain(x, one)).abs().max() > 1e-3


def _conditional(edges: list[int]) -> tuple[Tensor, ...]:
    rank = Replica.current().rank
    rows = slice(edges[rank], edges[rank + 1])
    norm = make_norm("batch", 4, 3).double()
    with torch.no_grad():
        norm.get_parameter("weight").copy_(random(3, 4, seed=1))
    x = random(7, 4, seed=4)[rows].clone().requires_grad_()
    y = norm(x, torch.tensor([0, 1, 2, 0, 1, 1, 0])[rows]).tanh()
    (slope,) = torch.autograd.grad((y * random(7, 4, seed=5)[rows]).sum(), x, create_graph=True)
    return x.detach(), slope.detach(), *torch.autograd.grad(slope.square().sum() + y.sum(), [x, *norm.parameters()])


@pytest.mark.multiprocess
@pytest.mark.parametrize("edges", [[0, 3, 7], [0, 1, 3, 7]], ids=str)
def test_a_conditional_batch_norm_is_exact_over_replicas(fleet: Fleet, edges: list[int]) -> None:
    whole = _conditional([0, 7])
    ranks = fleet.run(_conditional, len(edges) - 1, edges)
    for index in range(3):
        joined = torch.cat([rank[index] for rank in ranks])
        torch.testing.assert_close(joined, whole[index], rtol=1e-10, atol=1e-11)
    for index in range(3, len(whole)):
        total = torch.stack([rank[index] for rank in ranks]).sum(0)
        torch.testing.assert_close(total, whole[index], rtol=1e-10, atol=1e-11)


def test_gains_keep_the_power() -> None:
    torch.testing.assert_close(activation_gain("relu"), math.sqrt(2.0), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(activation_gain("leaky_relu"), math.sqrt(2.0 / 1.04), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(activation_gain("identity"), 1.0, rtol=1e-6, atol=0.0)
    x = random(200_000)
    for name in ACTIVATIONS:
        power = (activation_gain(name) * make_activation(name)(x)).square().mean().item()
        torch.testing.assert_close(power, 1.0, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_made_activations_leave_their_input_alone(name: str) -> None:
    x = random(9)
    before = x.clone()
    torch.testing.assert_close(make_activation(name)(x), ACTIVATIONS[name]()(before.clone()))
    assert torch.equal(x, before)


def test_sums_over_replicas_of_bfloat16_are_float32() -> None:
    """257 rows would be 256 in bfloat16."""
    norm = BatchNorm(2, momentum=1.0)
    x = torch.ones(257, 2).bfloat16()
    y = norm._by_sums(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, torch.ones(2), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(norm.running_var, torch.zeros(2), rtol=0.0, atol=1e-6)
