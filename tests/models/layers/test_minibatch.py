"""Minibatch stddev: its formula, derivatives, precision, and replicas against one."""

import pytest
import torch
from torch import Tensor, nn

from ganscale.models.layers import MinibatchStddev, uses_batch_statistics
from ganscale.parallel.collectives import Replica
from tests.fleet import Fleet

SHAPES = {"rows": (7, 4), "images": (7, 4, 3, 2)}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_appends_the_mean_deviation(shape: tuple[int, ...]) -> None:
    x = 3.0 + random(*shape)
    y = MinibatchStddev()(x)
    assert y.shape == (7, 5, *shape[2:])
    assert torch.equal(y[:, :4], x)
    torch.testing.assert_close(y[:, 4:], x.std(0, correction=0).mean().expand_as(y[:, 4:]))


def test_first_and_second_derivatives_are_right() -> None:
    x = random(3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(MinibatchStddev(), (x,))
    assert torch.autograd.gradgradcheck(MinibatchStddev(), (x,))


def test_equal_rows_and_single_rows_have_no_spread_and_finite_gradients() -> None:
    for rows in (1, 5):
        x = random(1, 4).expand(rows, -1).clone().requires_grad_()
        y = MinibatchStddev()(x)
        y[:, 4].sum().backward()
        torch.testing.assert_close(y[:, 4], torch.full((rows,), 1e-4, dtype=torch.float64))
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_a_small_spread_around_a_large_mean_keeps_its_digits() -> None:
    x = (1000.0 + 0.01 * random(64, 4)).float()
    shown = MinibatchStddev()(x)[0, 4]
    torch.testing.assert_close(shown.double(), x.double().std(0, correction=0).mean(), rtol=1e-3, atol=0.0)


def test_bfloat16_rows_are_counted_in_float32() -> None:
    x = random(300, 4)
    shown = MinibatchStddev()(x.bfloat16())[0, 4]
    assert shown.dtype == torch.bfloat16
    torch.testing.assert_close(shown.double(), x.std(0, correction=0).mean(), rtol=0.01, atol=0.0)


def test_rows_depend_on_each_other() -> None:
    assert uses_batch_statistics(nn.Sequential(nn.Linear(2, 2), MinibatchStddev()))


def _penalized(shape: tuple[int, ...], edges: list[int], training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """This replica's rows through the layer, a loss with a gradient penalty, and its gradient."""
    rank = Replica.current().rank
    rows = slice(edges[rank], edges[rank + 1])
    x = (5.0 + random(*shape))[rows].clone().requires_grad_()
    weights = random(shape[0], 5, *shape[2:], seed=2)[rows]
    y = MinibatchStddev().train(training)(x.tanh() * x)
    scores = (y.square() * weights).flatten(1).sum(1)
    (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    loss = scores.square().sum() + slope.square().sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return y.detach(), slope.detach(), gradient


@pytest.mark.multiprocess
@pytest.mark.parametrize("edges", [[0, 3, 7], [0, 1, 7], [0, 1, 3, 7]], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_replicas_compute_what_one_would(fleet: Fleet, shape: tuple[int, ...], edges: list[int]) -> None:
    whole = _penalized(shape, [0, 7], True)
    ranks = fleet.run(_penalized, len(edges) - 1, shape, edges, True)
    for index, expected in enumerate(whole):
        joined = torch.cat([rank[index] for rank in ranks])
        torch.testing.assert_close(joined, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.multiprocess
def test_in_eval_mode_replicas_do_not_wait_for_each_other(fleet: Fleet) -> None:
    for rank, (y, _, _) in enumerate(fleet.run(_penalized, 2, (7, 4), [0, 3, 7], False)):
        alone = (5.0 + random(7, 4))[slice(0, 3) if rank == 0 else slice(3, 7)]
        torch.testing.assert_close(y[0, 4], (alone.tanh() * alone).std(0, correction=0).mean())
