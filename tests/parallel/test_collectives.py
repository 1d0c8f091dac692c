"""Shares of a batch, and sums over replicas that are differentiable any number of times."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ganscale.parallel.clock import COMMUNICATION
from ganscale.parallel.collectives import Replica, all_reduce_sum, data_parallel, num_replicas, sum_over_replicas
from tests.fleet import Fleet, over_gloo


@pytest.mark.parametrize("accumulation", [1, 2, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 7, 8])
def test_rows_partition_every_batch_exactly(world_size: int, accumulation: int) -> None:
    for batch_size in range(world_size * accumulation, world_size * accumulation + 40):
        shares = [Replica(rank, world_size).rows(batch_size, accumulation) for rank in range(world_size)]
        in_order = [share for micros in zip(*shares, strict=True) for share in micros]
        assert [row for start, stop in in_order for row in range(start, stop)] == list(range(batch_size))
        assert all(start < stop for start, stop in in_order), "nobody is idle"
        for micros in zip(*shares, strict=True):
            sizes = [stop - start for start, stop in micros]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("batch_size", "accumulation"), [(24, 2), (25, 3), (13, 1)])
def test_micro_batches_hold_the_same_rows_at_any_world_size(batch_size: int, accumulation: int) -> None:
    def edges(world_size: int) -> list[tuple[int, int]]:
        shares = [Replica(rank, world_size).rows(batch_size, accumulation) for rank in range(world_size)]
        return [(micros[0][0], micros[-1][1]) for micros in zip(*shares, strict=True)]

    assert all(edges(world_size) == edges(1) for world_size in range(2, 9))


@pytest.mark.parametrize(("batch_size", "world_size", "accumulation"), [(1, 2, 1), (7, 4, 2), (0, 1, 1)])
def test_a_share_without_rows_is_refused(batch_size: int, world_size: int, accumulation: int) -> None:
    """By the first replica at the latest: its shares are the smallest."""
    with pytest.raises(ValueError, match=f"batch of {batch_size} in {accumulation} micro-batches"):
        Replica(0, world_size).rows(batch_size, accumulation)


def test_alone_nothing_is_wrapped_or_copied() -> None:
    x, module = torch.ones(3), nn.Linear(2, 2)
    assert Replica.current() == Replica(0, 1)
    assert Replica().is_rank_zero
    assert num_replicas() == 1
    assert all_reduce_sum(x) is x
    assert data_parallel(module, Replica()) is module
    assert [float(v) for v in sum_over_replicas([torch.tensor(2), torch.tensor(0.5)])] == [2.0, 0.5]


def inputs(world_size: int) -> Tensor:
    """One row for each replica."""
    return torch.randn(world_size, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def objective(parts: list[Tensor], total: Tensor) -> list[Tensor]:
    """Each replica's loss: not linear, and different on each."""
    return [(total.square() * part.sin()).sum() * (rank + 1) for rank, part in enumerate(parts)]


def three_derivatives(x: Tensor, loss: Tensor) -> list[Tensor]:
    """The gradient of a loss in x, of the gradient's square, and of that one's square."""
    found = []
    for _ in range(3):
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        found.append(gradient.detach())
        loss = gradient.square().sum()
    return found


def _differentiate() -> tuple[Tensor, list[Tensor]]:
    replica = Replica.current()
    x = inputs(replica.world_size)[replica.rank].requires_grad_()
    total = all_reduce_sum(x)
    return total.detach(), three_derivatives(x, (total.square() * x.sin()).sum() * (replica.rank + 1))


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_sum_over_replicas_has_three_right_derivatives(fleet: Fleet, world_size: int) -> None:
    """Replicas differentiate the sum of their losses; so does one process that holds all rows."""
    ranks = fleet.run(_differentiate, world_size)
    x = inputs(world_size).requires_grad_()
    total = x.sum(0)
    losses = objective(list(x), total)
    expected = three_derivatives(x, torch.stack(losses).sum())
    for rank, (value, derivatives) in enumerate(ranks):
        torch.testing.assert_close(value, total.detach(), rtol=1e-14, atol=0.0)
        for order, wanted in enumerate(expected):
            torch.testing.assert_close(derivatives[order], wanted[rank], rtol=1e-12, atol=1e-12)


def _sum_statistics() -> tuple[list[Tensor], bool]:
    rank = Replica.current().rank
    values = [torch.tensor(rank + 1), torch.tensor(0.1, requires_grad=True), torch.tensor(1e-20, dtype=torch.float64)]
    return sum_over_replicas(values), isinstance(data_parallel(nn.Linear(2, 2), Replica.current()), nn.Linear)


@pytest.mark.multiprocess
def test_statistics_are_summed_in_float64_without_gradient(fleet: Fleet) -> None:
    for values, is_bare in fleet.run(_sum_statistics, 3):
        torch.testing.assert_close([float(v) for v in values], [6.0, 0.3, 3e-20], rtol=1e-7, atol=0.0)
        assert all(v.dtype == torch.float64 and not v.requires_grad for v in values)
        assert not is_bare


def _wrapped_options() -> tuple[bool, bool]:
    wrapped = data_parallel(nn.BatchNorm1d(2), Replica.current())
    assert isinstance(wrapped, DistributedDataParallel)
    return wrapped.will_sync_module_buffers(), wrapped.gradient_as_bucket_view


@pytest.mark.multiprocess
def test_ddp_copies_neither_buffers_nor_gradients(fleet: Fleet) -> None:
    assert fleet.run(_wrapped_options, 2) == [(False, True)] * 2


def _gradients_with_and_without_hook() -> tuple[int, bool, float]:
    """Number of buckets, whether DDP's gradients have the bits of DDP without a hook, and seconds in collectives."""
    replica, before = Replica.current(), COMMUNICATION.seconds
    torch.manual_seed(0)
    modules = [nn.Sequential(*(nn.Linear(600, 600) for _ in range(4))) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    with over_gloo():
        hooked = data_parallel(modules[0], replica)
    plain = DistributedDataParallel(modules[1], gradient_as_bucket_view=True)
    x = torch.randn(5, 600, generator=torch.Generator().manual_seed(replica.rank))
    for _ in range(3):
        for module in (hooked, plain):
            module.zero_grad(set_to_none=True)
            module(x).square().sum().backward()
    equal = [torch.equal(*grads) for grads in zip(*([p.grad for p in m.parameters()] for m in modules), strict=True)]
    sizes = hooked._get_ddp_logging_data()["rebuilt_bucket_sizes"]  # pyright: ignore[reportCallIssue]
    return len(sizes.split(",")), all(equal), COMMUNICATION.seconds - before


@pytest.mark.multiprocess
def test_timing_the_network_changes_no_bit_of_the_gradients(fleet: Fleet) -> None:
    for buckets, equal, seconds in fleet.run(_gradients_with_and_without_hook, 3):
        assert buckets > 1
        assert equal
        assert seconds > 0.0


ENDS = """
import gc, os, sys
import torch, torch.distributed as dist
from pathlib import Path
from ganscale.parallel.collectives import Replica, data_parallel

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
module = data_parallel(torch.nn.Linear(3, 3), Replica(0, 2))
module(torch.ones(2, 3)).sum().backward()
names = lambda: [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
print("while it lives", *sorted(set(names())))
del module
gc.collect()
dist.destroy_process_group()
print("afterwards", *sorted(set(names())))
"""


def test_no_thread_of_the_group_outlives_it(tmp_path) -> None:
    """One that does may abort the process at its end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", ENDS, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    living, after = done.stdout.splitlines()
    assert "gloo" in living
    assert "gloo" not in after
