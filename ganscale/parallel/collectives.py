"""Communication of a run's replicas: sums over all of them, rank 0's decisions, DDP."""

import inspect
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ganscale.parallel.clock import COMMUNICATION
from ganscale.parallel.eager import distributed_data_parallel
from ganscale.parallel.replica import Replica
from ganscale.parallel.shared_memory import SharedMemory, connect

if dist.is_available():
    # DDP imports this module, whose functions take the default group of that moment as a default argument. Imported
    # while a group exists, they would hold it for ever: gloo's threads would outlive destroy_process_group and
    # sometimes abort the interpreter's exit ("terminate called without an active exception").
    import torch.distributed.nn.functional


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


class _Alone:
    """Whether `alone` is in force, in all threads: backward passes have their own."""

    active = False


@contextmanager
def alone() -> Iterator[None]:
    """Let this process compute in the block as if it were the only replica: it sends nothing and waits for nobody."""
    _Alone.active = True
    try:
        yield
    finally:
        _Alone.active = False


class VirtualReplica(Protocol):
    """One of several replicas in this process, each in a thread of its own."""

    num_replicas: int

    def reduce_(self, x: Tensor) -> None:
        """Replace a contiguous tensor by its sum over the replicas of all processes.

        Args:
            x: changed in place.
        """
        ...


class _Acting(threading.local):
    """Which virtual replica this thread is, forward and backward."""

    replica: VirtualReplica | None = None


_acting = _Acting()


@contextmanager
def acting_as(replica: VirtualReplica) -> Iterator[None]:
    """Let collectives that this thread calls in the block be those of a virtual replica.

    Args:
        replica: this thread's.
    """
    _acting.replica = replica
    try:
        yield
    finally:
        _acting.replica = None


def num_replicas() -> int:
    """Replicas in torch.distributed's default group, or virtual ones; 1 without, and in the block of `alone`."""
    if _acting.replica is not None:
        return _acting.replica.num_replicas
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _Alone.active else 1


class _Neighbors:
    """The shared memory of the default group's processes, if they run on one machine: made once per group."""

    def __init__(self) -> None:
        self._group: Any = lambda: None  # weak: the group's threads end with it
        self._memory: SharedMemory | None = None

    def find(self) -> SharedMemory | None:
        """The connection, or None; the first call of a group is collective."""
        group = dist.group.WORLD
        if group is not self._group():
            if self._memory:
                self._memory.close()
            self._memory = _connect(group) if dist.get_backend() == "gloo" and num_replicas() > 1 else None
            self._group = weakref.ref(group)
        return self._memory

    def abort(self) -> None:
        """Let the calls of all processes of the connection fail, if there is one."""
        if self._memory:
            self._memory.abort()


_neighbors = _Neighbors()


def disconnect() -> None:
    """Let pending and later all-reduces through shared memory fail on all processes; any thread may call it."""
    _neighbors.abort()


def _connect(group: Any) -> SharedMemory | None:
    def exchange(value: Any) -> list[Any]:
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value)
        return found

    options = getattr(group._get_backend(torch.device("cpu")), "options", None)
    timeout = getattr(options, "_timeout", dist.default_pg_timeout).total_seconds()
    return connect(dist.get_rank(), dist.get_world_size(), exchange, timeout=timeout)


def reduce_(x: Tensor) -> None:
    """Replace a contiguous tensor by its sum over the replicas; a collective call.

    Args:
        x: changed in place; of the same shape and type on every replica.
    """
    if _acting.replica is not None:
        _acting.replica.reduce_(x)
        return
    memory = _neighbors.find() if x.device.type == "cpu" else None
    with COMMUNICATION:
        if memory:
            memory.all_reduce(x)
        else:
            dist.all_reduce(x)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum `x` over all replicas, differentiable any number of times; with one replica, `x` itself.

    Every replica must call it equally often and in the same order, in forward and in backward.

    Args:
        x: of the same shape on every replica.
    """
    if num_replicas() == 1:
        return x
    return _AllReduceSum.apply(x)  # pyright: ignore[reportReturnType]


def gather_rows(rows: Tensor, start: int | Tensor, total: int) -> Tensor:
    """The rows of all replicas in the order of the batch, differentiable any number of times: `[total, ...]`.

    Args:
        rows: of this replica, `[N, ...]`; shares may differ.
        start: global index of the first; int64 `[]` in a CUDA graph.
        total: rows of the global batch. Those that no replica has, being of other micro-batches, are zero.
    """
    places = (torch.arange(rows.shape[0], device=rows.device) + start) % total
    return all_reduce_sum(rows.new_zeros(total, *rows.shape[1:]).index_copy(0, places, rows))


def sum_over_replicas(values: Sequence[Tensor]) -> list[Tensor]:
    """Sum statistics over all replicas in one small float64 all-reduce, without gradient.

    Args:
        values: tensors of any shapes.
    """
    packed = torch.cat([value.detach().to(torch.float64).reshape(-1) for value in values])
    if num_replicas() > 1:
        reduce_(packed)
    parts = packed.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def broadcast_ints(values: Sequence[int], device: torch.device) -> list[int]:
    """Rank 0's integers, on all replicas; a collective call.

    Args:
        values: as many on every replica; only those of rank 0 matter.
        device: on which the default group communicates.
    """
    if num_replicas() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.int64, device=device)
    with COMMUNICATION:
        dist.broadcast(tensor, 0)
    return tensor.tolist()


def data_parallel(module: nn.Module, replica: Replica) -> nn.Module:
    """Wrap a module in DistributedDataParallel; with one replica, return it as it is.

    No buffers are broadcast: what must be shared is shared explicitly. Gradients live in DDP's buckets, without a copy.

    Args:
        module: whose forward makes the gradients.
        replica: this process among the replicas.
    """
    if replica.world_size == 1:
        return module
    options: dict[str, Any] = {"gradient_as_bucket_view": True}
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    parameter = next(module.parameters())
    if parameter.is_cuda:
        options["device_ids"] = [parameter.device.index]
    wrapped = distributed_data_parallel(module, **options)
    if parameter.device.type == "cpu":
        hook = _reduce_in_memory if _neighbors.find() else _reduce_over_network
        wrapped.register_comm_hook(list[dist.Work](), hook)
    return wrapped


def _reduce_in_memory(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    """The mean of a bucket's gradients over replicas, as DDP's own hook makes it."""
    gradients, memory = bucket.buffer(), _neighbors.find()
    assert memory, "found before the hook was registered"
    with COMMUNICATION:
        memory.all_reduce(gradients, divisor=num_replicas())
    return _done(gradients)


def _reduce_over_network(pending: list[dist.Work], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    """The same bits as without a hook, but the time of waiting is known.

    DDP starts the buckets in order and the last one when all gradients are there; it would wait for all of them next.
    """
    if bucket.index() == 0:
        pending.clear()  # of a backward pass that failed
    gradients = bucket.buffer().mul_(1.0 / num_replicas())
    work = dist.all_reduce(gradients, async_op=True)
    assert work, "as it is asynchronous"
    pending.append(work)
    if bucket.is_last():
        with COMMUNICATION:
            while pending:
                pending.pop(0).wait()
    return _done(gradients)


def _done(gradients: Tensor) -> torch.futures.Future[Tensor]:
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(gradients)
    return future
