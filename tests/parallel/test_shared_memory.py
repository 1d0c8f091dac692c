"""Sums through shared memory: right, the same on all processes, and never waiting for one that is gone."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ganscale.parallel import shared_memory
from ganscale.parallel.collectives import Replica, all_reduce_sum
from ganscale.parallel.shared_memory import CHUNK, SharedMemory, connect
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.fleet import Fleet, FleetError, over_gloo
from tests.runs import BATCH_NORM, DCGAN, MLP, tiny

pytestmark = pytest.mark.multiprocess


def exchange(value: object) -> list[object]:
    found: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def joined(timeout: float = 60.0) -> SharedMemory:
    """This rank's connection."""
    memory = connect(dist.get_rank(), dist.get_world_size(), exchange, timeout=timeout)
    assert memory is not None
    return memory


def values(rank: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * size + rank)
    return (100 * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


SIZES = (0, 1, 3, CHUNK // 8 - 1, CHUNK // 8, CHUNK // 4 + 1, 3 * CHUNK // 4 + 5)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64)


def _sums() -> list[Tensor]:
    memory, rank, found = joined(), dist.get_rank(), []
    for turn in range(3):
        for dtype in DTYPES:
            for size in SIZES:
                x = values(rank, size, dtype)
                if (turn + rank + size) % 3 == 0:
                    time.sleep(0.001)  # nobody is always first
                memory.all_reduce(x)
                found.append(x)
    memory.close()
    return found


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_sums_are_right_and_the_same_everywhere(fleet: Fleet, world_size: int) -> None:
    ranks = fleet.run(_sums, world_size)
    wanted = []
    for dtype in DTYPES:
        for size in SIZES:
            total = values(0, size, dtype)
            for rank in range(1, world_size):
                total = total + values(rank, size, dtype)
            wanted.append(total)
    for found in ranks:
        assert len(found) == 3 * len(wanted)
        for one, other in zip(found, 3 * wanted, strict=True):
            assert torch.equal(one, other), "added in the order of ranks, bit for bit"


def _many_small_ones() -> list[float]:
    memory, x = joined(), torch.full((8,), float(dist.get_rank() + 1))
    for _ in range(2000):
        memory.all_reduce(x)
        x /= 3
    return x.tolist()


def test_no_sum_runs_into_the_next(fleet: Fleet) -> None:
    for found in fleet.run(_many_small_ones, 2):
        assert found == pytest.approx([1.5 * (2 / 3) ** 2000] * 8, abs=1e-30)


def _files() -> set[str]:
    """Folders of shared memory on this machine: also those that killed processes of other tests have left."""
    return {path.name for path in Path("/dev/shm").glob("ganscale-*")}


def _shape_and_files() -> tuple[Tensor, set[str]]:
    x = torch.arange(6.0).view(2, 3) * (dist.get_rank() + 1)
    joined().all_reduce(x)
    return x, _files()


def test_shapes_stay_and_no_file_does(fleet: Fleet) -> None:
    before = _files()
    for x, files in fleet.run(_shape_and_files, 2):
        assert torch.equal(x, 3 * torch.arange(6.0).view(2, 3))
        assert files <= before


def _different_sizes() -> str:
    memory = joined()
    try:
        memory.all_reduce(torch.ones(2 + dist.get_rank()))
    except RuntimeError as error:
        return str(error)
    return ""


def test_sums_of_different_sizes_are_refused(fleet: Fleet) -> None:
    assert fleet.run(_different_sizes, 2) == [
        "worker 1 reduces 12 bytes, this one 8 bytes",
        "worker 0 reduces 8 bytes, this one 12 bytes",
    ]


def _one_goes(how: str) -> tuple[str, float]:
    memory, rank = joined(timeout=0.5 if how == "stays away" else 60.0), dist.get_rank()
    if rank == 1:
        if how == "dies":
            os._exit(3)
        if how == "closes":
            memory.close()
        dist.barrier()
        return "", 0.0
    started = time.monotonic()
    message = ""
    try:
        memory.all_reduce(torch.ones(2))
    except RuntimeError as error:
        message = str(error)
    seconds = time.monotonic() - started
    if how == "dies":
        raise RuntimeError(f"{message} ({seconds:.1f} s)")
    dist.barrier()
    return message, seconds


def test_nobody_waits_for_a_process_that_is_gone(fleet: Fleet) -> None:
    (message, seconds), _ = fleet.run(_one_goes, 2, "closes")
    assert message.startswith("worker 1 ")
    assert "died" in message
    assert seconds < 10
    with pytest.raises(FleetError, match=r"worker 1 .*died.* \([0-9]\.. s\)"):
        fleet.run(_one_goes, 2, "dies")


def test_a_process_that_does_not_come_is_named(fleet: Fleet) -> None:
    (message, seconds), _ = fleet.run(_one_goes, 2, "stays away")
    assert message == f"worker 1 did not join an all-reduce for {seconds:.0f} s" or "for 0 s" in message
    assert 0.5 <= seconds < 30


def _not_connected(how: str) -> tuple[bool, set[str]]:
    rank = dist.get_rank()
    offer, identity, opened = shared_memory._offer, shared_memory._identity, shared_memory._open

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    try:
        if rank == 1 and how == "switch":
            os.environ[shared_memory.SWITCH] = "0"
        if rank == 1 and how == "other machine":
            shared_memory._identity = lambda: "another"
        if rank == 1 and how == "full":
            shared_memory._offer = refuse  # pyright: ignore[reportAttributeAccessIssue]
        if rank == 0 and how == "hidden":
            shared_memory._open = refuse  # pyright: ignore[reportAttributeAccessIssue]
        memory = connect(rank, dist.get_world_size(), exchange, timeout=5.0)
        dist.barrier()
        return memory is None, _files()
    finally:
        os.environ.pop(shared_memory.SWITCH, None)
        shared_memory._offer, shared_memory._identity, shared_memory._open = offer, identity, opened


@pytest.mark.parametrize("how", ["switch", "other machine", "full", "hidden"])
def test_all_or_nobody_is_connected(fleet: Fleet, how: str) -> None:
    before = _files()
    for alone, files in fleet.run(_not_connected, 3, how):
        assert alone
        assert files <= before


def _train(overrides: tuple[str, ...], gloo: bool) -> tuple[bool, dict[str, Tensor]]:
    if gloo:
        with over_gloo():
            all_reduce_sum(torch.ones(1))
    experiment = build(tiny(*overrides))
    images = 4 * experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={"row": images}, until=images):
        pass
    from ganscale.parallel.collectives import _neighbors

    weights = {
        **experiment.state.generator.state_dict(),
        "d": torch.nn.utils.parameters_to_vector(experiment.state.discriminator.parameters()).detach(),
    }
    return _neighbors.find() is not None, {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize("network", [MLP, (*DCGAN, *BATCH_NORM)], ids=["mlp", "dcgan-batch-norm"])
def test_two_workers_train_to_the_same_bits_with_and_without(fleet: Fleet, network: tuple[str, ...]) -> None:
    """A sum of two numbers does not depend on who adds."""
    shared, gloo = fleet.run(_train, 2, network, False), fleet.run(_train, 2, network, True)
    assert [used for used, _ in shared] == [True, True]
    assert [used for used, _ in gloo] == [False, False]
    for (_, weights), (_, others) in zip(shared, gloo, strict=True):
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def _replica() -> tuple[int, bool]:
    total = all_reduce_sum(torch.tensor([1.0]))
    return int(total), Replica.current().world_size == int(total)


def test_each_group_has_a_connection_of_its_own(fleet: Fleet) -> None:
    """The same processes sum in groups of different sizes, one after the other."""
    for world_size in (3, 2, 4, 2):
        assert fleet.run(_replica, world_size) == [(world_size, True)] * world_size
