"""Measures all-reduces of all training workers together, and of each pair of them."""

import time
from collections.abc import Sequence
from datetime import timedelta
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ganscale.launch.doctor.links import rounds

SIZES = (4, 1 << 16, 1 << 20, 1 << 24)
"""Message sizes of the all-reduces in bytes, on CPUs."""
GPU_SIZES = (*SIZES, 1 << 28)
"""On GPUs."""
REPEATS = 5


def measure_links(
    rank: int, names: Sequence[str], address: str, port: int, backend: str, device: int, timeout: float
) -> dict[str, Any]:
    """Measure all-reduces of all workers, and of this one with each other one; all of them call it together.

    Args:
        rank: of this worker.
        names: of all workers, for messages.
        address: of the store's node.
        port: of the store.
        backend: gloo or nccl.
        device: index of this worker's GPU.
        timeout: seconds to wait for the others.

    Returns:
        Milliseconds by message size: of all as `group`, and by the other worker's rank as `pairs`.
    """
    limit, world_size = timedelta(seconds=timeout), len(names)
    where = torch.device("cuda", device) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(where)
    store = TCPStore(address, port, world_size, is_master=False, timeout=limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    peer = "the others"
    pairs: dict[int, dict[int, float]] = {}
    try:
        group = _times(None, world_size, where)
        for each in rounds(world_size):
            dist.barrier()
            mine = next((pair for pair in each if rank in pair), None)
            if mine is None:
                continue
            other = mine[0] if mine[1] == rank else mine[1]
            peer = names[other]
            both: Any = dist.new_group(list(mine), timeout=limit, use_local_synchronization=True)
            pairs[other] = _times(both, 2, where)
            dist.destroy_process_group(both)
        return {"group": group, "pairs": pairs}
    except RuntimeError as error:
        raise RuntimeError(f"with {peer}: {str(error).splitlines()[0][:150]}") from error
    finally:
        dist.destroy_process_group()


def _times(group: Any, workers: int, device: torch.device) -> dict[int, float]:
    """Median milliseconds of an all-reduce by message size."""
    return {size: _time(group, workers, size // 4, device) for size in (SIZES if device.type == "cpu" else GPU_SIZES)}


def _time(group: Any, workers: int, count: int, device: torch.device) -> float:
    taken = []
    for _ in range(REPEATS + 1):  # the first one connects
        values = torch.ones(count, device=device)
        start = time.perf_counter()
        dist.all_reduce(values, group=group)
        total = values[[0, -1]].tolist()  # waits for the device
        taken.append(1000 * (time.perf_counter() - start))
        if total != [workers, workers]:
            raise RuntimeError(f"the sum of {workers} ones is {total[0]:g}")
    return median(taken[1:])
