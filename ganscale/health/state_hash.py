"""A hash that shows whether two replicas hold the same bits, computed on the tensors' device without copying them."""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK = 1 << 20
"""Elements that are summed at a time."""
_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
"""An odd 64-bit number, 2^64 over the golden ratio, as a signed one."""


def state_hash(values: Any) -> int:
    """A 64-bit number of all tensors and plain numbers in nested mappings and sequences, by their order and bits.

    Integer arithmetic modulo 2^64, hence the same on every device; any single changed bit changes it.

    Args:
        values: of any shape, e.g. `TrainState.state_dict()`; complex tensors and quantized ones are not taken.
    """
    total = 0
    for value in _leaves(values):
        if isinstance(value, Tensor):
            part = int(_mixed(value))
        elif isinstance(value, float):  # Python's hash of NaN is one of the object
            part = int.from_bytes(struct.pack("<d", value), "little")
        else:
            part = hash(value)
        total = (total * 0x100000001B3 + part) % (1 << 64)
    return total - (1 << 64) if total >= 1 << 63 else total


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, Mapping):
        for value in values.values():
            yield from _leaves(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    elif isinstance(values, Tensor | bool | int | float):
        yield values


@torch.no_grad()
def _mixed(tensor: Tensor) -> Tensor:
    """Sum of the elements' bits, each times an odd number of its own place; wraps at 2^64."""
    bits = tensor.detach().contiguous().view(-1).view(_VIEWS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for index, chunk in enumerate(bits.split(_CHUNK)):
        places = torch.arange(index * _CHUNK, index * _CHUNK + chunk.numel(), dtype=torch.int64, device=tensor.device)
        total += (chunk.to(torch.int64) * (places * 2 * _STEP + _STEP)).sum()
    return total


def minority_ranks(hashes: Sequence[int]) -> list[int]:
    """Ranks whose number is not that of the most; all of them when no number is that of more than half.

    Args:
        hashes: of all replicas, by rank.
    """
    if len(set(hashes)) <= 1:
        return []
    common, count = Counter(hashes).most_common(1)[0]
    if 2 * count <= len(hashes):
        return list(range(len(hashes)))
    return [rank for rank, found in enumerate(hashes) if found != common]


def all_gather_ints(number: int, device: torch.device) -> list[int]:
    """The numbers of all replicas, by rank; all must call it.

    Args:
        number: this replica's, signed 64-bit.
        device: on which the default group communicates.
    """
    own = torch.tensor([number], dtype=torch.int64, device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return [int(each) for each in found]
