"""Sums over shards: one order of additions, whoever holds which shards, and few bytes."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ganscale.parallel.replica import Replica
from ganscale.parallel.tree import SMALL, TreeExchange, TreeSum, subtrees
from tests.fleet import Fleet

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 13, 16)


def shard_values(size: int, count: int) -> Tensor:
    """Numbers of very different sizes, so that float32 shows the order of additions."""
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, count, generator=generator) * 10.0 ** torch.randint(-3, 4, (size, 1), generator=generator)


def by_levels(rows: list[Tensor]) -> Tensor:
    """The definition: neighbors are added, then neighbors of these; one without a neighbor goes up as it is."""
    while len(rows) > 1:
        rows = [rows[i] + rows[i + 1] if i + 1 < len(rows) else rows[i] for i in range(0, len(rows), 2)]
    return rows[0]


def run_sums(size: int, start: int, stop: int, values: Tensor, order: Callable[[list[int]], object]) -> list[Tensor]:
    tree, shards = TreeSum(size, start, stop), list(range(start, stop))
    order(shards)
    for shard in shards:
        tree.add((0, shard), [values[shard].clone()])
    return [tensors[0] for tensors in tree.take()]


@pytest.mark.parametrize(
    ("size", "start", "stop", "nodes"),
    [
        (8, 0, 8, [(3, 0)]),
        (8, 2, 5, [(1, 1), (0, 4)]),
        (8, 1, 7, [(0, 1), (1, 1), (1, 2), (0, 6)]),
        (6, 4, 6, [(2, 1)]),
        (6, 0, 3, [(1, 0), (0, 2)]),
        (1, 0, 1, [(0, 0)]),
    ],
)
def test_a_run_of_shards_is_cut_into_the_largest_nodes(
    size: int, start: int, stop: int, nodes: list[tuple[int, int]]
) -> None:
    assert subtrees(size, start, stop) == nodes


@pytest.mark.parametrize("size", SIZES)
def test_every_way_to_hold_the_shards_gives_the_bits_of_the_definition(size: int) -> None:
    values = shard_values(size, 50)
    expected = by_levels(list(values.clone()))
    draw = random.Random(size)
    for world_size in range(1, size + 1):
        whole = TreeSum(size)
        for rank in range(world_size):
            ((start, stop),) = Replica(rank, world_size).rows(size)
            sums = run_sums(size, start, stop, values, draw.shuffle)
            assert len(sums) <= max(1, 2 * (stop - start - 1).bit_length())
            for node, total in zip(subtrees(size, start, stop), sums, strict=True):
                whole.add(node, [total])
        assert torch.equal(whole.take()[0][0], expected)
    if size > 2:
        assert not torch.equal(values.sum(0), expected) or size == 3, "another order has other bits"


def exchanged(size: int, count: int) -> tuple[list[Tensor], Counter[str]]:
    """The sum of `[count]` and of one more number on this rank, and bytes sent by collective."""
    sent: Counter[str] = Counter()
    gather, scatter = dist.all_gather, dist.all_to_all_single

    def all_gather(found: list[Tensor], own: Tensor) -> None:
        sent["all_gather"] += (len(found) - 1) * own.nbytes
        gather(found, own)

    def all_to_all_single(received: Tensor, own: Tensor, *sizes: Any) -> None:
        sent["all_to_all"] += own.nbytes - sizes[1][dist.get_rank()] * own.element_size()
        scatter(received, own, *sizes)

    replica = Replica.current()
    values = shard_values(size, count + 1)
    tree = TreeSum(size, *replica.rows(size)[0])
    for shard in range(*replica.rows(size)[0]):
        tree.add((0, shard), [values[shard, :count].clone(), values[shard, count:].clone()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather", all_gather)
        patch.setattr(dist, "all_to_all_single", all_to_all_single)
        return TreeExchange(size, replica)(tree.take()), sent


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("count", [7, SMALL + 101], ids=["small", "large"])
def test_processes_get_the_bits_of_the_definition(fleet: Fleet, world_size: int, count: int) -> None:
    for size in (4, 6, 8):
        expected = by_levels(list(shard_values(size, count + 1).clone()))
        for (large, one), _ in fleet.run(exchanged, world_size, size, count):
            assert torch.equal(torch.cat((large, one)), expected)


@pytest.mark.multiprocess
@pytest.mark.parametrize(("size", "world_size"), [(2, 2), (4, 2), (8, 4)])
def test_gradients_cost_no_more_bytes_than_a_ring(fleet: Fleet, size: int, world_size: int) -> None:
    count = 10 * SMALL
    ring = 2 * (world_size - 1) / world_size * 4 * count
    for _, sent in fleet.run(exchanged, world_size, size, count):
        assert sent.keys() == {"all_gather", "all_to_all"}
        assert ring <= sent.total() <= 1.001 * ring
