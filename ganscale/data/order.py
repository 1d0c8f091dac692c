"""The order in which a finite set is shown: epoch after epoch, each a permutation by (seed, epoch).

A row of an epoch's permutation is computed from its place alone, so a replica computes the rows that it shows and no
others: an epoch's cost is shared among all replicas however many there are. The permutation is a generalized Feistel
network (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 5): a place is a pair (left, right),
each round adds a random function of one half to the other, and whatever falls outside the set goes round again (their
"cycle walking", section 3).
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ganscale.data.copy_ahead import upload
from ganscale.parallel.random import Stream, permutation

_ROUNDS = 6
_ROUNDS_OF_SMALL = 16
_SMALL = 1024
"""Below it, six rounds leave some orders of two neighbors measurably more often than others."""

AHEAD = 8192
"""Rows that are computed at once where the reads to come are known: torch's operators cost more than their numbers."""


class Order:
    """Rows of a set of `size` at global positions of the run's endless stream.

    Args:
        seed: the run's seed.
        size: rows of the set.
        device: where the rows are needed.
    """

    def __init__(self, seed: int, size: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self._device = torch.device(device)
        self._left, self._right = _sides(size)
        rounds = _ROUNDS if size >= _SMALL else _ROUNDS_OF_SMALL
        self._functions = [Stream(seed, f"data/order/{number}") for number in range(rounds)]
        self._expected: Iterator[tuple[int, int]] = iter(())
        self._ahead: dict[tuple[int, int], Tensor] = {}

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute ahead for the reads to come.

        After a read that is not among them, each later read is computed by itself until `expect` is called again.

        Args:
            requests: gives the (start, stop) of the reads in order and without end, from the first at each call.
        """
        self._expected = requests()
        self._ahead = {}

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows at these positions: int64 `[stop - start]`.

        Args:
            start: first position.
            stop: position after the last.
        """
        if not self._ahead:
            self._look_ahead()
        rows = self._ahead.pop((start, stop), None)
        return self._rows(torch.arange(start, stop)).to(self._device) if rows is None else rows

    def _look_ahead(self) -> None:
        requests: list[tuple[int, int]] = []
        count = 0
        for start, stop in self._expected:
            requests.append((start, stop))
            count += stop - start
            if count >= AHEAD:
                break
        if requests:
            rows = self._rows(torch.cat([torch.arange(start, stop) for start, stop in requests]))
            pieces = upload(rows, self._device).split([stop - start for start, stop in requests])
            self._ahead = dict(zip(requests, pieces, strict=True))

    def _rows(self, positions: Tensor) -> Tensor:
        epochs = positions // self.size
        rows = self._permuted(epochs, positions - epochs * self.size)
        while len(outside := (rows >= self.size).nonzero().flatten()):
            rows[outside] = self._permuted(epochs[outside], rows[outside])
        return rows

    def _permuted(self, epochs: Tensor, places: Tensor) -> Tensor:
        """Places in [0, left * right), each once per epoch, where these places go."""
        left = places // self._right
        right = places - left * self._right
        for number, function in enumerate(self._functions):
            if number % 2:
                right = (right + function.integers_at(epochs * self._left + left, self._right)) % self._right
            else:
                left = (left + function.integers_at(epochs * self._right + right, self._left)) % self._left
        return left * self._right + right


def draw(size: int, count: int, *, seed: int, stream: str) -> Tensor:
    """Random rows of a set: all different if it has as many, otherwise independent draws.

    Args:
        size: rows of the set.
        count: rows to draw.
        seed: of the draw.
        stream: name of the draw, so that others with the same seed are independent of it.

    Returns:
        int64 `[count]`.
    """
    if count <= size:
        return permutation(seed, stream, size)[:count]
    return Stream(seed, stream).integers(0, count, size).squeeze(-1)


def _sides(size: int) -> tuple[int, int]:
    """Two sides near sqrt(size), the smaller first, whose product is `size` or as little more as can be found."""
    root = math.isqrt(size)
    least = min(2, size)
    candidates = range(max(least, root // 2), max(least, root) + 1)
    left = min(reversed(candidates), key=lambda side: side * -(-size // side))
    return left, -(-size // left)
