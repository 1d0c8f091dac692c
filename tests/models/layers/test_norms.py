"""The exact batch norm: against torch's alone, and against itself at other world sizes, to the second derivative."""

import pytest
import torch
from torch import Tensor, nn

from ganscale.models.layers import ACTIVATIONS, NORMS, BatchNorm, batch_norms, frozen_statistics, uses_batch_statistics
from ganscale.parallel.collectives import Replica
from tests.fleet import Fleet

SHAPES = {"rows": (7, 4), "images": (7, 4, 3, 3)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_norm(features: int = 4, **options) -> BatchNorm:
    """With weights that are not the neutral ones."""
    norm = BatchNorm(features, **options).double()
    weight, bias = norm.parameters()
    nn.init.normal_(weight, 1.0, 0.3, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(bias, 0.0, 0.3, generator=torch.Generator().manual_seed(2))
    return norm


def torchs(norm: BatchNorm, dimensions: int) -> nn.Module:
    """torch's own with the same weights."""
    module = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[dimensions](
        norm.running_mean.numel(), norm.eps, norm.momentum
    ).double()
    module.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return module


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_alone_it_is_torchs_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    norm = batch_norm(eps=1e-3, momentum=0.3).train(training)
    reference = torchs(norm, len(shape)).train(training)
    for step in range(3):
        results = []
        for module in (norm, reference):
            x = (3.0 + 2.0 * random(*shape, seed=step)).requires_grad_()
            module.zero_grad()
            y = module(x)
            (y * random(*shape, seed=9)).sum().backward()
            results.append([y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())])
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(norm, name), getattr(reference, name), rtol=1e-12, atol=1e-12)
    assert torch.equal(norm.running_mean, torch.zeros(4).double()) != training


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 2, 1)])
def test_first_and_second_derivatives_are_right(shape: tuple[int, ...], training: bool) -> None:
    norm = batch_norm(2).train(training)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with frozen_statistics([norm]):
            return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    inputs = [value.detach().clone().requires_grad_() for value in (random(*shape), *norm.parameters())]
    assert torch.autograd.gradcheck(function, tuple(inputs))
    assert torch.autograd.gradgradcheck(function, tuple(inputs))


def test_a_single_row_is_finite_and_leaves_the_statistics_finite() -> None:
    norm = batch_norm()
    torch.testing.assert_close(norm(random(1, 4)), norm.get_parameter("bias").expand(1, 4))
    assert norm.running_mean.isfinite().all()
    assert norm.running_var.isfinite().all()


def penalized(norm: BatchNorm, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A loss with a gradient penalty through the norm: its value, and the rows' gradients as they go in."""
    x.requires_grad_()
    y = norm(x * 2.0)
    scores = (y.tanh() * weights).flatten(1).sum(1)
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return scores.square().sum() + gradient.square().sum(), gradient


def _cross_replica(shape: tuple[int, ...], uneven: list[int], across: bool) -> dict[str, Tensor]:
    """Two training forwards with a penalty, for this replica's rows of the whole batch."""
    rank = Replica.current().rank
    start, stop = uneven[rank], uneven[rank + 1]
    norm = batch_norm(across_replicas=across)
    norm((5.0 + random(*shape, seed=0))[start:stop] * 2.0)
    x = (5.0 + random(*shape, seed=1))[start:stop].clone()
    loss, gradient = penalized(norm, x, random(*shape, seed=9)[start:stop])
    x_gradient, weight, bias = torch.autograd.grad(loss, [x, *norm.parameters()])
    return {
        "gradient": gradient.detach(),
        "x": x_gradient,
        "weight": weight,
        "bias": bias,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }


@pytest.mark.multiprocess
@pytest.mark.parametrize("uneven", [[0, 3, 7], [0, 1, 7], [0, 1, 3, 7], [0, 2, 4, 7]], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_replicas_compute_what_one_would(fleet: Fleet, shape: tuple[int, ...], uneven: list[int]) -> None:
    """Also the gradients of a gradient penalty, with uneven shares down to one row."""
    (whole,) = fleet.run(_cross_replica, 1, shape, [0, 7], True)
    ranks = fleet.run(_cross_replica, len(uneven) - 1, shape, uneven, True)
    joined = {name: torch.cat([rank[name] for rank in ranks]) for name in ("gradient", "x")}
    joined |= {name: torch.stack([rank[name] for rank in ranks]).sum(0) for name in ("weight", "bias")}
    for name, value in joined.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text)
    for rank in ranks:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(rank[name], whole[name], rtol=1e-12, atol=1e-12)


@pytest.mark.multiprocess
def test_local_statistics_are_those_of_the_own_rows(fleet: Fleet) -> None:
    shape = SHAPES["rows"]
    for rank, result in enumerate(fleet.run(_cross_replica, 2, shape, [0, 3, 7], False)):
        rows = slice(0, 3) if rank == 0 else slice(3, 7)
        mean = torch.zeros(4).double()
        for step in range(2):
            mean.lerp_(2.0 * (5.0 + random(*shape, seed=step))[rows].mean(0), 0.1)
        torch.testing.assert_close(result["running_mean"], mean)


def _large_mean() -> Tensor:
    norm = BatchNorm(1)
    x = (3000.0 + 0.5 * random(400, 1)).float()
    rank = Replica.current().rank
    return torch.stack([norm(x[rank * 200 : rank * 200 + 200]).std() for _ in range(60)])


@pytest.mark.multiprocess
def test_a_large_mean_costs_no_digits_once_the_running_mean_is_near(fleet: Fleet) -> None:
    last = torch.stack(fleet.run(_large_mean, 2))[:, -1]
    torch.testing.assert_close(last.square().mean().sqrt(), torch.tensor(1.0), rtol=0.01, atol=0.0)


def test_frozen_statistics_stay_and_only_during_the_block() -> None:
    net = nn.Sequential(nn.Linear(4, 4), BatchNorm(4), nn.Sequential(BatchNorm(4)))
    norms = batch_norms(net)
    assert len(norms) == 2
    before = [norm.running_mean.clone() for norm in norms]
    x = random(6, 4).float()
    with frozen_statistics(norms):
        frozen = net(x)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    torch.testing.assert_close(net(x), frozen)  # the batch's statistics either way
    assert not any(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


@pytest.mark.parametrize(
    ("name", "depends"), [("none", False), ("layer", False), ("batch", True), ("local_batch", True)]
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_norms_know_whether_rows_depend_on_each_other(name: str, depends: bool, shape: tuple[int, ...]) -> None:
    norm = NORMS[name](4).double()
    assert uses_batch_statistics(norm) == depends
    x = random(*shape)
    alone = torch.cat([norm(x[:3]), norm(x[3:])])
    assert torch.allclose(norm(x), alone) != depends


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_can_be_built_and_differentiated(name: str) -> None:
    x = random(5, 4).requires_grad_()
    y = ACTIVATIONS[name]()(x * 1.0)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.shape == x.shape
    assert gradient.isfinite().all()
