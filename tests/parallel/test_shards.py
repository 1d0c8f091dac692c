"""Virtual replicas in threads: they meet in collectives, forward and backward, and fail together."""

import threading

import pytest
import torch
from torch import Tensor

from ganscale.parallel.collectives import all_reduce_sum, num_replicas
from ganscale.parallel.replica import Replica
from ganscale.parallel.shards import ShardGroup


def gradient_of_the_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    """|sum of all rows|^2 / 2 and its second derivative along x, through collectives."""
    x = x.clone().requires_grad_(True)
    value = all_reduce_sum(x).square().sum() / 2.0
    (slope,) = torch.autograd.grad(value / num_replicas(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum() / 2.0, x)
    return slope.detach(), curvature


@pytest.mark.parametrize("at_once", [1, 3])
def test_threads_compute_what_processes_would(at_once: int) -> None:
    rows = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    group = ShardGroup(5, Replica(), at_once=at_once)
    assert list(group.own) == [0, 1, 2, 3, 4]
    found = group.run(lambda position: gradient_of_the_norm(rows[position]))
    total = rows.sum(0)
    for slope, curvature in found:
        torch.testing.assert_close(slope, total)
        torch.testing.assert_close(curvature, 5.0 * total)
    assert num_replicas() == 1, "outside of it this is one process"


def test_sums_are_finished_once_and_all_get_the_result() -> None:
    group, calls = ShardGroup(4, Replica()), []

    def finish(sums: list[Tensor]) -> float:
        calls.append(threading.get_ident())
        return float(sums[1])

    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert group.run(lambda i: group.reduce(i, [values[:1], values[i].clone()], finish)) == [15.0] * 4
    assert len(calls) == 1


def test_a_shard_that_fails_ends_the_others_and_the_group_works_afterwards() -> None:
    group = ShardGroup(3, Replica())

    def fails(position: int) -> Tensor:
        if position == 1:
            raise ArithmeticError("shard 1")
        return all_reduce_sum(torch.ones(2))

    with pytest.raises(ArithmeticError, match="shard 1"):
        group.run(fails)
    assert [float(x[0]) for x in group.run(lambda _: all_reduce_sum(torch.ones(2)))] == [3.0] * 3

    def breaks(sums: list[Tensor]) -> None:
        raise ArithmeticError("in the sum")

    with pytest.raises(ArithmeticError, match="in the sum"):
        group.run(lambda position: group.reduce(position, [torch.ones(1)], breaks))


def test_statistics_are_summed_in_double_precision() -> None:
    group = ShardGroup(3, Replica())
    counts, matrix = torch.tensor([1e8, 1.0, 1.0]), torch.arange(12).view(3, 2, 2)
    total, table = group.total([counts, matrix])
    assert float(total) == 100_000_002.0
    assert torch.equal(table, matrix.sum(0).double())
