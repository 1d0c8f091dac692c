"""A copy of the training state in host memory, from which a checkpoint is written while training continues."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

SNAPSHOTS = 2
"""Snapshots in memory at a time: one that is being written, and one that waits."""


class HostSnapshot:
    """Host memory for copies of a state, pinned where the state is on a GPU; allocated once and used again.

    Storages are copied, not tensors: tensors that share one do so in the copy too, and both are serialized to the same
    bytes.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def fit(self, state: dict[str, Any]) -> None:
        """Allocate what a copy of a state needs, unless it is there already.

        Args:
            state: `TrainState.state_dict()`.
        """
        sources = _storages(_tensors(state))
        fits = len(self._buffers) == len(sources) and all(map(_matches, self._buffers, sources))
        if not fits:
            self._buffers = []  # freed first
            self._buffers = [torch.empty(len(each), dtype=torch.uint8, pin_memory=each.is_cuda) for each in sources]
            for buffer in self._buffers:
                buffer.zero_()  # the system provides the pages now

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy a state; the copy is valid until the next one is taken.

        Args:
            state: `TrainState.state_dict()`; it may change as soon as this returns.
        """
        self.fit(state)
        tensors = _tensors(state)
        sources = _storages(tensors)
        for buffer, source in zip(self._buffers, sources, strict=True):
            buffer.copy_(source, non_blocking=source.is_cuda)
        for device in {source.device for source in sources if source.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        copies = {_place(source): buffer for buffer, source in zip(self._buffers, sources, strict=True)}
        memo: dict[int, Any] = {id(tensor): _view(tensor, copies[_place(tensor)]) for tensor in tensors}
        return copy.deepcopy(state, memo)

    @property
    def size(self) -> int:
        """Bytes allocated."""
        return sum(map(len, self._buffers))


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    """All tensors with elements; those without are copied as other values are."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes()]


def _storages(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors' storages as bytes, each once."""
    found: dict[tuple[torch.device, int], Tensor] = {}
    for tensor in tensors:
        if _place(tensor) not in found:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            found[_place(tensor)] = whole.set_(tensor.untyped_storage())  # pyright: ignore[reportArgumentType]
    return list(found.values())


def _place(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _matches(buffer: Tensor, source: Tensor) -> bool:
    return len(buffer) == len(source) and buffer.is_pinned() == source.is_cuda


def _view(tensor: Tensor, buffer: Tensor) -> Tensor:
    """The tensor's part of its storage's copy."""
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(buffer.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())  # pyright: ignore
