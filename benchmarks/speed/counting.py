"""Counts the floating-point operations of products and convolutions and the bytes that DDP reduces in an iteration."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.speed.command import markdown
from benchmarks.speed.ideal import least_bytes, least_flops
from ganscale.config import Config
from ganscale.parallel.collectives import Replica
from ganscale.training.build import Experiment, build

_aten = torch.ops.aten


def _convolution_flops(image: Sequence[int], weight: Sequence[int]) -> int:
    """FLOPs of one of the three products of a convolution: forward, gradient of its input, gradient of its weights.

    Args:
        image: shape of the side whose pixels each use the whole filter: the output, or a transposed one's input.
        weight: shape of the filters; its second size is per group.
    """
    return 2 * image[0] * prod(image[2:]) * prod(weight)


class FlopCounter(TorchDispatchMode):
    """Adds up the FLOPs of all products and convolutions in its `with` block, forward, backward and double backward.

    `torch.utils.flop_counter.FlopCounterMode`, whose formulas serve all other operators, fails on `autograd.grad`
    and ignores the groups in the weight gradient of a grouped convolution.

    Attributes:
        flops: by operator.
        collectives: numbers sent in all-reduces other than DDP's, one entry per call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.collectives: list[int] = []

    @property
    def total(self) -> int:
        """FLOPs so far; a multiplication and an addition are two."""
        return sum(self.flops.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _flops(func._overloadpacket, args, kwargs or {}, out)
        if count:
            self.flops[str(func._overloadpacket)] += count
        if func._overloadpacket == torch.ops.c10d.allreduce_:
            self.collectives.append(sum(tensor.numel() for tensor in args[0]))
        return out


def _flops(operator: Any, args: Any, kwargs: Any, out: Any) -> int:
    if operator == _aten.convolution:
        return _convolution_flops((args[0] if args[6] else out).shape, args[1].shape)
    if operator == _aten.convolution_backward:
        transposed, mask = args[7], args[10]
        image = args[1] if transposed else args[0]
        return (mask[0] + mask[1]) * _convolution_flops(image.shape, args[2].shape)
    if operator in flop_registry:
        return int(flop_registry[operator](*args, **kwargs, out_val=out))
    return 0


@dataclass(frozen=True)
class Work:
    """Operations and communication of one iteration of one replica.

    Attributes:
        flops: counted.
        least_flops: the minimum for this loss and these networks; None if unknown (`ideal.least_flops`).
        by_operator: `flops` by operator.
        reduced_bytes: of gradients, in DDP's all-reduces.
        least_bytes: the minimum, `d_steps * |D| + |G|` numbers.
        reductions: number of DDP's all-reduces.
        other_bytes: in other all-reduces, such as batch statistics.
        other_collectives: their number.
        images: real examples of the replica.
        messages: bytes of each counted all-reduce, over all iterations.
    """

    flops: int
    least_flops: int | None
    by_operator: dict[str, int]
    reduced_bytes: int
    least_bytes: int
    reductions: int
    other_bytes: int
    other_collectives: int
    images: int
    messages: tuple[float, ...] = ()

    @property
    def flops_ratio(self) -> float | None:
        """Counted operations over the minimum."""
        return self.flops / self.least_flops if self.least_flops else None

    @property
    def bytes_ratio(self) -> float | None:
        """Reduced bytes over the minimum; None with one replica, which sends nothing."""
        return self.reduced_bytes / self.least_bytes if self.least_bytes else None


def count(config: Config, *, world_size: int = 2, device: torch.device | str = "cpu", iterations: int = 1) -> Work:
    """Count the work of rank 0 of `world_size` replicas without starting the others.

    Args:
        config: of the run.
        world_size: number of replicas; with 1 nothing is sent.
        device: to compute on.
        iterations: to average over, for lazy penalties.

    Raises:
        RuntimeError: this process already has a process group.
    """
    with fake_world(world_size):
        with mock.patch.object(DistributedDataParallel, "register_comm_hook"):  # there can be one only
            experiment = build(config, device=device, replica=Replica(0, world_size))
        sent: list[int] = []
        for side in (experiment.step.g, experiment.step.d):
            if isinstance(side.parallel, DistributedDataParallel):
                side.parallel.register_comm_hook(sent, _record_bucket)
        _iterate(experiment, 0)  # DDP builds its buckets
        sent.clear()
        with FlopCounter() as counter:
            for iteration in range(iterations):
                _iterate(experiment, iteration)
    least = least_flops(experiment, iterations=iterations)
    item = next(experiment.state.generator.parameters()).element_size()
    return Work(
        flops=counter.total // iterations,
        least_flops=None if least is None else least // iterations,
        by_operator={name: flops // iterations for name, flops in counter.flops.most_common()},
        reduced_bytes=sum(sent) // iterations,
        least_bytes=least_bytes(experiment) if world_size > 1 else 0,
        reductions=len(sent) // iterations,
        other_bytes=sum(counter.collectives) * item // iterations,
        other_collectives=len(counter.collectives) // iterations,
        images=sum(stop - start for start, stop in experiment.sampler.rows) * experiment.sampler.d_steps,
        messages=tuple([float(size) for size in sent] + [float(n * item) for n in counter.collectives]),
    )


def _iterate(experiment: Experiment, iteration: int) -> None:
    images = iteration * experiment.sampler.images_per_iteration
    controls = experiment.schedule.controls(images, augment_p=experiment.state.augment_p)
    experiment.step(experiment.sampler.batches(images), controls)


def _record_bucket(sent: list[int], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    """Record the bytes of a bucket and send nothing (a DDP communication hook)."""
    buffer = bucket.buffer()
    sent.append(buffer.numel() * buffer.element_size())
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(buffer)
    return future


@contextmanager
def fake_world(world_size: int) -> Iterator[None]:
    """Use a fake process group, in which collectives return at once.

    Args:
        world_size: number of ranks; with 1 there is no group.

    Raises:
        RuntimeError: this process already has a process group.
    """
    if dist.is_initialized():
        raise RuntimeError("counting needs its own process group, but there is one already")
    if world_size == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def flops_table(works: dict[str, Work]) -> str:
    """Format the counts as a Markdown table.

    Args:
        works: counts by title of the run.
    """
    rows = [("run", "GFLOP per image", "over the least", "gradient bytes", "over the least", "other bytes")]
    for name, work in works.items():
        ratio = "not known" if work.flops_ratio is None else f"{work.flops_ratio:.4f}"
        bytes_ratio = "" if work.bytes_ratio is None else f"{work.bytes_ratio:.4f}"
        gradients = f"{work.reduced_bytes:,} in {work.reductions}"
        other = f"{work.other_bytes:,} in {work.other_collectives}"
        rows.append((name, f"{work.flops / work.images / 1e9:.5f}", ratio, gradients, bytes_ratio, other))
    return markdown(rows)
