"""What the replicas of a run say to each other: who they are, who takes which rows, and sums over all of them."""

import inspect
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ganscale.parallel.shared_memory import SharedMemory, connect

if dist.is_available():
    # DDP imports this module, whose functions have the default group of that moment as a default argument. Were it
    # imported when there is a group, they would hold it for ever: gloo's threads would outlive destroy_process_group,
    # and now and then abort the interpreter's end ("terminate called without an active exception").
    import torch.distributed.nn.functional


@dataclass(frozen=True)
class Replica:
    """This process among the data-parallel replicas: `rank` in [0, world_size)."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Rank 0 alone writes files and talks to trackers."""
        return self.rank == 0

    @staticmethod
    def current() -> "Replica":
        """This process in torch.distributed's default group, or alone when there is none."""
        if dist.is_available() and dist.is_initialized():
            return Replica(dist.get_rank(), dist.get_world_size())
        return Replica()

    def rows(self, batch_size: int, accumulation: int = 1) -> list[tuple[int, int]]:
        """The rows of a global batch that this replica takes, one (start, stop) per micro-batch.

        The batch is first cut into micro-batches and each of these into one share per replica, so that the micro-batch
        as a whole holds the same rows at any world size. Shares differ by at most one row.

        Raises:
            ValueError: a replica would have no row in some micro-batch.
        """
        shares = []
        for start, stop in _cut(0, batch_size, accumulation):
            share = _cut(start, stop, self.world_size)[self.rank]
            if share[0] == share[1]:
                raise ValueError(
                    f"a global batch of {batch_size} in {accumulation} micro-batches has no row for each of "
                    f"{self.world_size} replicas"
                )
            shares.append(share)
        return shares


def _cut(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    size = stop - start
    edges = [start + size * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


class _AllReduceSum(torch.autograd.Function):
    """Sum over replicas whose gradient is again such a sum, hence differentiable any number of times.

    With y = sum_r x_r on every replica and a loss sum_r L_r, dL/dx_r = sum_s dL_s/dy: its own adjoint.
    torch.distributed.nn.functional has it too but is deprecated since torch 2.13, and
    torch.distributed._functional_collectives' all_reduce has no double backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        reduce_(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _AllReduceSum.apply(gradients[0])  # pyright: ignore[reportReturnType]


def num_replicas() -> int:
    """Replicas in torch.distributed's default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Neighbors:
    """The connection of the default group's processes, if they share a machine: made once per group."""

    def __init__(self) -> None:
        self._group: Any = lambda: None  # weak: the group's threads end with it
        self._memory: SharedMemory | None = None

    def find(self) -> SharedMemory | None:
        """All replicas ask alike, for the first time at the latest when they sum."""
        group = dist.group.WORLD
        if group is not self._group():
            if self._memory:
                self._memory.close()
            self._memory = _connect(group) if dist.get_backend() == "gloo" and num_replicas() > 1 else None
            self._group = weakref.ref(group)
        return self._memory


_neighbors = _Neighbors()


def _connect(group: Any) -> SharedMemory | None:
    def exchange(value: Any) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value)
        return found

    options = getattr(group._get_backend(torch.device("cpu")), "options", None)
    timeout = getattr(options, "_timeout", dist.default_pg_timeout).total_seconds()
    return connect(dist.get_rank(), dist.get_world_size(), exchange, timeout=timeout)


def reduce_(x: Tensor) -> None:
    """Replace `x`, contiguous, by its sum over the several replicas, which all call this alike."""
    memory = _neighbors.find() if x.device.type == "cpu" else None
    if memory:
        memory.all_reduce(x)
    else:
        dist.all_reduce(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum `x` over all replicas, differentiable any number of times; alone, `x` itself.

    Every replica must call it equally often and in the same order, in forward and in backward.
    """
    if num_replicas() == 1:
        return x
    return _AllReduceSum.apply(x)  # pyright: ignore[reportReturnType]


def sum_over_replicas(values: Sequence[Tensor]) -> list[Tensor]:
    """Sum statistics of any shapes over all replicas in one small float64 all-reduce, without gradient."""
    packed = torch.cat([value.detach().to(torch.float64).reshape(-1) for value in values])
    if num_replicas() > 1:
        reduce_(packed)
    parts = packed.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def data_parallel(module: nn.Module, replica: Replica) -> nn.Module:
    """Wrap `module` in DistributedDataParallel where there are several replicas; alone, return it as it is.

    No buffers are broadcast: what must be shared is shared explicitly. Gradients live in DDP's buckets, without a copy.
    """
    if replica.world_size == 1:
        return module
    options: dict[str, Any] = {"gradient_as_bucket_view": True}
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    parameter = next(module.parameters())
    if parameter.is_cuda:
        options["device_ids"] = [parameter.device.index]
    wrapped = DistributedDataParallel(module, **options)
    if parameter.device.type == "cpu" and _neighbors.find():
        wrapped.register_comm_hook(None, _reduce_bucket)
    return wrapped


def _reduce_bucket(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    """The mean of a bucket's gradients, as DDP makes it."""
    gradients, memory = bucket.buffer(), _neighbors.find()
    assert memory, "found before the hook was registered"
    memory.all_reduce(gradients, divisor=num_replicas())
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(gradients)
    return future
