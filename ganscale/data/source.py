"""What the loop needs of a data set."""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

Reader = Callable[[int, int], Tensor]
"""Gives rows `start` to `stop - 1` as the networks see them: images `[n, C, H, W]` in [-1, 1], or points `[n, 2]`."""
LabeledReader = Callable[[int, int], tuple[Tensor, Tensor]]
"""Gives these and their classes, int64 `[n]`."""


class Source(Protocol):
    """An endless stream of real examples; position p is the same example at any world size and after any resume.

    Attributes:
        shape: of one example: `(C, H, W)` for images, `(2,)` for points.
        num_classes: number of classes of the labels, or 0 without labels.
    """

    shape: tuple[int, ...]
    num_classes: int

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Examples at these positions.

        Args:
            start: first position.
            stop: position after the last.

        Returns:
            Examples `[stop - start, *shape]` on the training device (images in [-1, 1]), and classes
            `[stop - start]` int64 or None.
        """
        ...


class Indexed(Protocol):
    """Examples that are read by their row.

    Attributes:
        num_images: number of the examples.
    """

    num_images: int

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Examples and classes of rows of the set, never mirrored.

        Args:
            rows: indices into the set, int64 `[n]`.
        """
        ...


@runtime_checkable
class Finite(Indexed, Protocol):
    """A source that repeats a finite set of examples."""

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the set, without reading the examples.

        Args:
            rows: indices into the set, int64 `[n]`.
        """
        ...

    def state_hash(self) -> str:
        """Changes when the examples or their classes change; may take seconds."""
        ...


@runtime_checkable
class Decoding(Protocol):
    """A source that decodes examples as they are read."""

    def decode_limit(self) -> float | None:
        """Images per second that this replica could decode, by the examples since the last call; None without any."""
        ...


@runtime_checkable
class Prefetching(Protocol):
    """A source that works ahead when it knows what will be read."""

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Prepare the reads to come.

        Args:
            requests: gives their (start, stop) in order and without end, from the first at each call.
        """
        ...
