"""How much memory a worker will need, found before it trains: by two small iterations, counted operator by operator."""

import inspect
import os
import resource
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ganscale.config import Config, ConfigError
from ganscale.config.objective import Scheduled
from ganscale.config.section import is_conditional
from ganscale.data import Source
from ganscale.parallel.collectives import alone
from ganscale.parallel.replica import Replica
from ganscale.storage.store import is_uri
from ganscale.training.batches import Batches
from ganscale.training.build import DTYPES, build_step, initial_state
from ganscale.training.objective import Batch
from ganscale.training.schedules import Schedule
from ganscale.training.snapshot import SNAPSHOTS
from ganscale.training.step import Step

FEW = 2
"""Rows of D's input with which the smaller iteration is run."""


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of the tensors that operators make in the block, as long as they live.

    What operators use inside themselves (workspaces of convolutions) is not seen.

    Attributes:
        live: bytes now.
        trace: bytes after each operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.trace: list[int] = []
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count the storages of its results (part of `TorchDispatchMode`)."""
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in given:  # neither a view nor in place
                self.count(tensor)
        self.trace.append(self.live)
        return result

    def count(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already.

        Args:
            tensor: any.
        """
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


# torch wraps the method so that torch.compile leaves it out, and imports torch._dynamo at its first call.
MemoryCounter.__torch_dispatch__ = inspect.unwrap(MemoryCounter.__torch_dispatch__)


@dataclass(frozen=True)
class MemoryForecast:
    """What one worker's networks and updates will need.

    Attributes:
        parameters_g: number of the generator's parameters.
        parameters_d: number of the discriminator's parameters.
        state: bytes of weights, moving averages, gradients and the optimizers' moments.
        activations: further bytes at the update's peak: activations, batches, temporary tensors.
        rows: images of a micro-batch on this worker.
        checkpoint: bytes of the state that is saved: weights, moving averages, the optimizers' moments.
        snapshot: bytes of host memory that a copy of it takes.
    """

    parameters_g: int
    parameters_d: int
    state: int
    activations: int
    rows: int
    checkpoint: int = 0
    snapshot: int = 0

    @property
    def peak(self) -> int:
        """Bytes at the update's peak, without the data set and without the program itself."""
        return self.state + self.activations


def forecast(
    config: Config,
    shape: tuple[int, ...],
    num_classes: int = 0,
    *,
    device: torch.device | None = None,
    replica: Replica | None = None,
) -> MemoryForecast:
    """Count the bytes of an iteration in which every penalty is due; one replica may do it without the others.

    It is run with few rows, and with twice as many; from both follows what each operator leaves alive with a worker's
    own rows.

    Args:
        config: the run.
        shape: of one example.
        num_classes: of the data's labels.
        device: where to run it; None for the CPU.
        replica: the worker; None for the only one.
    """
    replica, packing = replica or Replica(), config.model.packing
    device = torch.device("cpu") if device is None else device
    rows = rows_at_a_time(config, replica)
    few = min(rows, FEW * packing)
    state = initial_state(config, shape, device, num_classes=num_classes)
    step = build_step(config, state, device=device, replica=Replica())
    networks = (state.generator, state.discriminator)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    weights = [size for network in networks for size in _sizes(network.parameters())]
    updated = [*_sizes(step.g.parameters), *_sizes(step.d.parameters)]  # those that have gradients and moments
    kept = [size for network in networks for size in _sizes(network.buffers())]
    kept += _sizes(state.ema.module.state_dict().values())
    kept += [size for average in state.averages.weights for size in _sizes(average.values())]
    trained = sum(updated)
    moments = [
        size
        for side in (step.g, step.d)
        for size in _sizes(side.parameters) * (1 if isinstance(side.optimizer, RMSprop) else 2)
    ]
    with alone():
        _trace(config, step, shape, 2 * few, device)  # makes gradients and moments
        fewer, more = (_trace(config, step, shape, few * factor, device) for factor in (1, 2))
    if len(fewer) != len(more):  # a network of the user's own, whose operators depend on the number of rows
        fewer, more = [max(fewer)], [max(more)]
    peak = max(one + (rows - few) / few * (two - one) for one, two in zip(fewer, more, strict=True))
    saved = [*weights, *moments, *kept]
    # torch's allocator of pinned memory rounds up to powers of two.
    snapshot = sum(1 << (size - 1).bit_length() for size in saved if size) if device.type == "cuda" else sum(saved)
    state_size, activations = sum(saved) + trained, max(0, int(peak) - trained)
    return MemoryForecast(counts[0], counts[1], state_size, activations, rows, sum(saved), snapshot)


def rows_at_a_time(config: Config, replica: Replica) -> int:
    """Images of a worker's largest micro-batch.

    Args:
        config: the run.
        replica: the worker.
    """
    packing = config.model.packing
    shares = replica.rows(config.train.batch_size // packing, config.train.accumulation)
    return packing * max(stop - start for start, stop in shares)


def _trace(config: Config, step: Step, shape: tuple[int, ...], rows: int, device: torch.device) -> list[int]:
    """Bytes of gradients, batches and activations after each operator of an iteration by micro-batches of `rows`."""
    dtype = DTYPES[config.train.precision]
    labeled = is_conditional(config.model.generator) or is_conditional(config.model.discriminator)

    def batch() -> Batch:
        labels = torch.zeros(rows, dtype=torch.int64, device=device) if labeled else None
        reals, z = (
            torch.zeros(rows, *size, dtype=dtype, device=device) for size in (shape, (config.model.latent_dim,))
        )
        return Batch(reals, z, labels)

    with MemoryCounter() as counter:
        for parameter in (*step.g.parameters, *step.d.parameters):
            if parameter.grad is not None:
                counter.count(parameter.grad)
        micros, updates = (min(2, number) for number in (config.train.accumulation, config.optim.d_steps))
        batches = [[batch() for _ in range(micros)] for _ in range(updates)]
        p = config.augment.p
        p = 0.5 if config.augment.adaptive or isinstance(p, Scheduled) else p  # where it moves
        controls = Schedule(_at_most(config)).controls(0, augment_p=p, details=True)
        controls = replace(controls, penalties=controls.penalties[:1] * updates)
        fresh = None if config.train.reuse_fakes else [batch() for _ in range(micros)]
        if fresh and config.train.reuse_reals:
            fresh = [each._replace(z=other.z) for each, other in zip(batches[-1], fresh, strict=True)]
        step(Batches(batches, fresh), controls)
    return counter.trace


def _at_most(config: Config) -> Config:
    """The run with every scheduled penalty and the noise at its larger end, as an update needs most where all act."""
    sections = {}
    for name in ("penalty", "augment"):
        section = getattr(config, name)
        ends = {key: each for key, each in section if isinstance(each, Scheduled)}
        sections[name] = section.model_copy(update={key: max(each.start, each.end) for key, each in ends.items()})
    return config.model_copy(update=sections)


def report(config: Config, source: Source, device: torch.device, replica: Replica) -> list[str]:
    """A worker's memory as lines of text, with advice where it does not fit.

    Args:
        config: the run.
        source: its real examples, opened.
        device: where it trains.
        replica: the worker.
    """
    try:
        found = forecast(config, source.shape, source.num_classes, device=device, replica=replica)
    except ConfigError:
        raise
    except Exception as error:  # a network of the user's own that does not take so few rows: the run may still work
        return [f"memory per worker: not known: {type(error).__name__}: {error}"]
    room_on_host = _host_memory() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    others, room, saving = resident(), room_on_host, saving_memory(config, found)
    needed_on_host = others + saving
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        others, room = torch.cuda.memory_allocated(device), torch.cuda.mem_get_info(device)[1]
    peak = found.peak + others + (_host_overhead(found.activations) if device.type == "cpu" else 0)
    lines = [
        f"memory per worker: {found.parameters_g:,} + {found.parameters_d:,} parameters; weights, gradients, moving "
        f"average and optimizers {_shown(found.state)}, activations of {found.rows} images {_shown(found.activations)}",
        f"expected peak: {_shown(peak)} of {_shown(room)} on {device.type}, {_shown(others)} of it for "
        f"{'the program and ' * (device.type == 'cpu')}the data set",
        f"checkpoints: {_shown(found.checkpoint)} each; while worker 0 saves one it holds up to {_shown(saving)} more "
        f"of {_shown(room_on_host)} on the host (checkpoint.mode = {config.checkpoint.mode})",
    ]
    if peak > room:
        lines.append(f"this does not fit: {advice(config, found.rows)}")
    elif saving and (peak + saving if device.type == "cpu" else needed_on_host) > room_on_host:
        lines.append("saving does not fit: checkpoint.mode=inline needs less")
    return lines


def saving_memory(config: Config, found: MemoryForecast) -> int:
    """Bytes of host memory that saving takes on worker 0, at most.

    Two snapshots where a thread writes them, and the serialized state where it goes to a bucket; to a folder it is
    written tensor by tensor.

    Args:
        config: the run.
        found: its forecast.
    """
    snapshots = SNAPSHOTS * found.snapshot if config.checkpoint.mode == "async" else 0
    in_bucket = is_uri(config.run.dir) and not config.run.dir.startswith("file:")
    return snapshots + found.checkpoint * in_bucket


def advice(config: Config, rows: int) -> str:
    """What to change so that a run needs less memory.

    Args:
        config: the run.
        rows: images of a micro-batch on a worker.
    """
    train, ways = config.train, []
    if rows > config.model.packing:
        ways.append(f"train.accumulation={2 * train.accumulation} (fewer images at a time, same batch)")
    if not train.checkpoint_activations:
        ways.append("train.checkpoint_activations=true (same result, slower)")
    if train.precision != "bfloat16":
        ways.append("train.precision=bfloat16")
    return ", ".join(["use more workers", *ways]) + ", or smaller networks"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host.

    Args:
        error: raised by torch or Python.
    """
    # torch's allocator of the host raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: " in str(error)


def resident() -> int:
    """Bytes of this process in memory."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, at its most


def _host_overhead(activations: int) -> int:
    """What a process grows by beyond its tensors: copies that convolutions work on, and gaps between allocations.

    As measured for seven runs with 50 MiB to 7 GiB of activations; glibc returns allocations above 32 MiB at once.
    """
    return min(activations, 110 * 2**20 + activations // 8)


def _host_memory() -> int:
    """Bytes of this machine, or of this container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _sizes(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.numel() * tensor.element_size() for tensor in tensors]
