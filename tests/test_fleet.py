"""The tests' own multi-process fixture: results, errors with traceback, and no hangs."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from ganscale.parallel.collectives import Replica
from tests.fleet import Fleet, FleetError

pytestmark = pytest.mark.multiprocess


def _sum_of_ranks(offset: int) -> tuple[int, int, float]:
    replica = Replica.current()
    total = torch.tensor(float(replica.rank + offset))
    dist.all_reduce(total)
    return replica.rank, replica.world_size, total.item()


def _one_fails() -> None:
    if dist.get_rank() == 1:
        raise ArithmeticError("rank one is ill")
    dist.barrier()


def _one_dies() -> None:
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()


def _one_hangs() -> None:
    if dist.get_rank() == 1:
        time.sleep(60)


@pytest.mark.parametrize("world_size", [1, 2, 5, 3])
def test_returns_each_ranks_result(fleet: Fleet, world_size: int) -> None:
    total = sum(range(world_size)) + 7.0 * world_size
    assert fleet.run(_sum_of_ranks, world_size, 7) == [(rank, world_size, total) for rank in range(world_size)]


def test_a_case_costs_little(fleet: Fleet) -> None:
    """The best of several: the machine may be busy."""
    seconds = []
    for _ in range(8):
        started = time.monotonic()
        fleet.run(_sum_of_ranks, 5, 0)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    ("function", "words", "timeout"),
    [(_one_fails, "rank one is ill", 60.0), (_one_dies, "died", 60.0), (_one_hangs, "no answer", 6.0)],
    ids=["error", "death", "hang"],
)
def test_errors_deaths_and_hangs_reach_the_test(fleet: Fleet, function, words: str, timeout: float) -> None:
    started = time.monotonic()
    with pytest.raises(FleetError, match=f"(?s)rank 1: .*{words}"):
        fleet.run(function, 3, timeout=timeout)
    assert time.monotonic() - started < 30.0
    assert len(fleet.run(_sum_of_ranks, 3, 0)) == 3, "the fleet goes on after a failure"
