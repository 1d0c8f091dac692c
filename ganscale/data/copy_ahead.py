"""Host-to-device copies that nothing waits for."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; on a GPU it is copied in the order of the current stream.

    Args:
        tensor: in host memory, pinned or not.
        device: where it is needed.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class CopyAhead(Iterator[Sequence[Tensor]]):
    """Copies batches to a GPU on a stream of its own, each while the previous one is in use (double buffering).

    Args:
        batches: tensors of each batch, in host memory.
        device: the GPU.
    """

    def __init__(self, batches: Iterator[Sequence[Tensor]], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device)
        self._next: tuple[list[Tensor], torch.Event] | Exception | None = None

    def __next__(self) -> Sequence[Tensor]:
        """The next batch, for use on the current stream; the copy of the batch after it begins.

        Raises:
            Exception: what `batches` raised for this batch.
        """
        self._next = due = self._next or self._copy()
        if isinstance(due, Exception):
            raise due
        self._next = self._copy()
        tensors, copied = due
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for tensor in tensors:
            tensor.record_stream(stream)  # else a later copy could take its memory while this stream still reads it
        return tensors

    def _copy(self) -> tuple[list[Tensor], torch.Event] | Exception:
        """Begin to copy a batch; the event comes after the copy."""
        try:
            batch = next(self._batches)
        except Exception as error:  # raised when the batch is due
            return error
        with torch.cuda.stream(self._stream):
            tensors = [upload(tensor, self._device) for tensor in batch]
        return tensors, self._stream.record_event()
