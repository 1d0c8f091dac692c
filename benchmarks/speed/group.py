"""One replica of a scaling measurement: `torchrun ... -m benchmarks.speed.group REQUEST.json ANSWER.json`.

In each round one process runs alone while the others wait, all run together, and all run without reducing gradients;
or they run with and without what live recovery adds. The blocks of a round share the state of the machine, so their
ratios vary less than those of separate runs.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.speed.measure import Ganscale
from ganscale.config import Config, parse
from ganscale.parallel.collectives import Replica, reduce_
from ganscale.training.build import Experiment, build
from ganscale.training.transactions import Transactions

SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 21)
"""Bytes of the all-reduces that measure the link."""


def measure_group(request: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Measure on every replica of torch.distributed's default group.

    Args:
        request: `together` and `alone`, the configs of the group and of one worker; `iterations` per block; `rounds`;
            `kinds` of blocks, by default `alone`, `together` and `silent`, or also `live`.
        device: of this replica.

    Returns:
        For each kind of block seconds per iteration, one number per round. `link`: bytes and seconds of all-reduces.
        All replicas return the same keys, each with its own times.
    """
    replica, config = Replica.current(), parse(request["together"])
    torch.set_num_threads(config.cluster.cpus_per_worker)
    together = build(config, device=device, replica=replica)
    times: dict[str, list[float]] = {kind: [] for kind in request.get("kinds", ("alone", "together", "silent"))}
    loops: dict[str, Ganscale | None] = dict.fromkeys(times, Ganscale(together))
    if "alone" in times:
        with _without_group():
            alone = build(parse(request["alone"]), device=device, replica=Replica()) if replica.is_rank_zero else None
        loops["alone"] = Ganscale(alone) if alone else None
    if "live" in times:
        loops["live"] = Ganscale(together, Transactions())
    for number in range(request["rounds"] + 1):
        kinds = list(times) if number % 2 else list(reversed(times))
        for kind in kinds:
            seconds = _block(kind, loops[kind], request["iterations"], device)
            if number:
                times[kind].append(seconds)
    return {**times, "link": _link_times(replica, device), "workers": replica.world_size}


def _block(kind: str, loop: Ganscale | None, iterations: int, device: torch.device) -> float:
    """Seconds per iteration of one block; a replica without a loop waits."""
    surroundings: Callable[[], Any] = _without_group if kind == "alone" else nullcontext
    dist.barrier()
    started = time.perf_counter()
    if loop is not None:
        with surroundings(), _no_sync(loop.experiment) if kind == "silent" else nullcontext():
            loop.run(iterations)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - started) / iterations
    dist.barrier()
    return seconds


@contextmanager
def _without_group() -> Iterator[None]:
    """Hide the process group, so that nothing in the block waits for other replicas."""
    before = dist.is_initialized
    dist.is_initialized = lambda: False
    try:
        yield
    finally:
        dist.is_initialized = before


@contextmanager
def _no_sync(experiment: Experiment) -> Iterator[None]:
    """Skip the reduction of gradients, as DDP's `no_sync`; batch statistics are still reduced."""
    step = experiment.step
    sides = [m for m in (step.g.parallel, step.d.parallel) if isinstance(m, DistributedDataParallel)]
    for side in sides:
        side.require_backward_grad_sync = False
    try:
        yield
    finally:
        for side in sides:
            side.require_backward_grad_sync = True


def _link_times(replica: Replica, device: torch.device, repetitions: int = 10) -> list[tuple[float, float]]:
    """Bytes and median seconds of all-reduces by the backend that training uses."""
    if replica.world_size == 1:
        return []
    found = []
    for size in SIZES:
        buffer = torch.zeros(size // 4, device=device)
        seconds = []
        for _ in range(repetitions + 2):
            dist.barrier()
            started = time.perf_counter()
            reduce_(buffer)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
        found.append((float(size), sorted(seconds[2:])[repetitions // 2]))
    return found


def main(arguments: list[str]) -> int:
    """Measure as a process of torchrun; rank 0 writes the answer.

    Args:
        arguments: paths of the request and of the answer.

    Returns:
        The exit code.
    """
    from ganscale.launch.local import pick_device

    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    config: Config = parse(request["together"])
    device = pick_device(config, local_rank=int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        answer = measure_group(request, device)
        if Replica.current().is_rank_zero:
            Path(arguments[1]).write_text(json.dumps(answer), encoding="utf-8")
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
