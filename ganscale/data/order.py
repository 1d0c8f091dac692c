"""The order in which a finite set is shown: epoch after epoch, each a permutation by (seed, epoch).

A row of an epoch's permutation is computed from its place alone, so a replica computes the rows that it shows and no
others: an epoch's cost is shared among all replicas however many there are. The permutation is a generalized Feistel
network (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 5): a place is a pair (left, right),
each round adds a random function of one half to the other, and whatever falls outside the set goes round again (their
"cycle walking", section 3).

Two other arrangements are also functions of (seed, position): `Blocks` keeps pictures that lie side by side in one file
close in time, and `Weighted` shows classes with given frequencies.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

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

WINDOW = 16
"""Blocks whose rows are mixed."""


class Arrangement(Protocol):
    """Which row is shown at a position."""

    def rows_at(self, positions: Tensor) -> Tensor:
        """Rows at positions of the endless stream.

        Args:
            positions: int64 `[n]`, on the CPU.
        """
        ...


class Permutations:
    """A permutation of the places 0 to `size` - 1 for each key.

    Args:
        seed: the run's seed.
        stream: name of the use.
        size: number of places.
    """

    def __init__(self, seed: int, stream: str, size: int) -> None:
        self.size = size
        self._sides = _sides(size)
        rounds = _ROUNDS if size >= _SMALL else _ROUNDS_OF_SMALL
        self._functions = [Stream(seed, f"{stream}/{number}") for number in range(rounds)]

    def at(self, keys: Tensor, places: Tensor) -> Tensor:
        """Where each place goes.

        Args:
            keys: of the permutations, int64 `[n]`.
            places: int64 `[n]`.
        """
        return _walked(self._functions, keys, places, *self._sides, self.size)


class Shuffled(Arrangement):
    """All rows once per epoch, in random order.

    Args:
        seed: the run's seed.
        size: rows of the set.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._permutations = Permutations(seed, "data/order", size)

    def rows_at(self, positions: Tensor) -> Tensor:
        """Rows at positions of the endless stream (part of `Arrangement`)."""
        epochs = positions // self._permutations.size
        return self._permutations.at(epochs, positions - epochs * self._permutations.size)


class Blocks(Arrangement):
    """All rows once per epoch: blocks of consecutive rows in random order, and a random order in each window of blocks.

    Args:
        seed: the run's seed.
        size: rows of the set.
        block: rows of a block.
    """

    def __init__(self, seed: int, size: int, block: int) -> None:
        self._size, self._block = size, block
        num_blocks = -(-size // block)
        self._window = WINDOW * block
        self._num_windows = -(-num_blocks // WINDOW)
        self._order = Permutations(seed, "data/order/blocks", num_blocks)
        self._within = Permutations(seed, "data/order/windows", self._window)
        last = num_blocks * block - (self._num_windows - 1) * self._window
        self._within_last = Permutations(seed, "data/order/windows", last)

    def rows_at(self, positions: Tensor) -> Tensor:
        """Rows at positions of the endless stream (part of `Arrangement`)."""
        epochs = positions // self._size
        rows = self._permuted(epochs, positions - epochs * self._size)
        while len(outside := (rows >= self._size).nonzero().flatten()):
            rows[outside] = self._permuted(epochs[outside], rows[outside])
        return rows

    def _permuted(self, epochs: Tensor, places: Tensor) -> Tensor:
        """Places in all blocks, the last one taken as whole, where these places go."""
        windows = places // self._window
        within = places - windows * self._window
        keys = epochs * self._num_windows + windows
        is_last = windows == self._num_windows - 1
        within[is_last] = self._within_last.at(keys[is_last], within[is_last])
        within[~is_last] = self._within.at(keys[~is_last], within[~is_last])
        slots = windows * WINDOW + within // self._block
        return self._order.at(epochs, slots) * self._block + within % self._block


class Weighted(Arrangement):
    """Classes with exact frequencies: `counts[c]` images of class c in each cycle of `sum(counts)` positions.

    The images of a class are shown in epochs of their own, each once per epoch in random order.

    Args:
        seed: the run's seed.
        labels: class of every row, int `[N]`.
        counts: images of each class per cycle; each class with a count must have a row.
    """

    def __init__(self, seed: int, labels: Tensor, counts: Sequence[int]) -> None:
        self._counts = torch.tensor(counts)
        self._members = labels.argsort(stable=True)
        self._sizes = torch.bincount(labels, minlength=len(counts))
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._classes = torch.repeat_interleave(torch.arange(len(counts)), self._counts)
        self._occurrences = torch.cat([torch.arange(count) for count in counts])
        self._slots = Permutations(seed, "data/order/classes", len(self._classes))
        sides = torch.tensor([_sides(max(1, int(size))) for size in self._sizes])
        self._left, self._right = sides.T
        self._functions = [Stream(seed, f"data/order/in_class/{number}") for number in range(_ROUNDS_OF_SMALL)]

    def rows_at(self, positions: Tensor) -> Tensor:
        """Rows at positions of the endless stream (part of `Arrangement`)."""
        length = self._slots.size
        cycles = positions // length
        found, cycle = torch.unique(cycles, return_inverse=True)
        slots = self._slots.at(found.repeat_interleave(length), torch.arange(length).repeat(len(found)))
        all_classes = self._classes[slots].view(-1, length)
        # The images of a class in a cycle are numbered by position, so that its epochs follow one another.
        occurrences = torch.empty_like(all_classes)
        occurrences.scatter_(1, all_classes.argsort(stable=True, dim=1), self._occurrences.expand(len(found), -1))
        places = positions - cycles * length
        classes = all_classes[cycle, places]
        shown = cycles * self._counts[classes] + occurrences[cycle, places]
        sizes = self._sizes[classes]
        epochs = shown // sizes
        keys, places = epochs * len(self._counts) + classes, shown - epochs * sizes
        within = _walked(self._functions, keys, places, self._left[classes], self._right[classes], sizes)
        return self._members[self._starts[classes] + within]


def class_counts(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Images of each class per cycle: one each for equal weights, else about 1000 or ten per class in all.

    Args:
        sizes: rows of each class; those without are left out.
        weights: relative frequencies, 0 or more.
    """
    shares = [weight if size else 0.0 for size, weight in zip(sizes, weights, strict=True)]
    if len({share for share in shares if share}) == 1:
        return [int(share > 0) for share in shares]
    length = max(1000, 10 * len(shares))
    wanted = [share / sum(shares) * length for share in shares]
    counts = [max(int(share > 0), math.floor(want)) for share, want in zip(shares, wanted, strict=True)]
    order = sorted(range(len(shares)), key=lambda c: (counts[c] - wanted[c], c))
    for place in range(max(0, length - sum(counts))):
        counts[order[place % len(order)]] += 1
    return counts


class Order:
    """Rows of a set of `size` at global positions of the run's endless stream.

    Args:
        seed: the run's seed.
        size: rows of the set.
        device: where the rows are needed.
        arrangement: which row is shown where; by default all once per epoch in random order.
    """

    def __init__(
        self, seed: int, size: int, device: torch.device | str = "cpu", arrangement: Arrangement | None = None
    ) -> None:
        self.size = size
        self._device = torch.device(device)
        self._arrangement = arrangement or Shuffled(seed, size)
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
        return self._arrangement.rows_at(torch.arange(start, stop)).to(self._device) if rows is None else rows

    def _look_ahead(self) -> None:
        requests: list[tuple[int, int]] = []
        count = 0
        for start, stop in self._expected:
            requests.append((start, stop))
            count += stop - start
            if count >= AHEAD:
                break
        if requests:
            rows = self._arrangement.rows_at(torch.cat([torch.arange(start, stop) for start, stop in requests]))
            pieces = upload(rows, self._device).split([stop - start for start, stop in requests])
            self._ahead = dict(zip(requests, pieces, strict=True))


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


def _walked(
    functions: Sequence[Stream],
    keys: Tensor,
    places: Tensor,
    left: int | Tensor,
    right: int | Tensor,
    size: int | Tensor,
) -> Tensor:
    """Places in [0, size), each once per key, where these places go; sides and size may differ by element."""

    def of(value: int | Tensor, chosen: Tensor) -> int | Tensor:
        return value[chosen] if isinstance(value, Tensor) else value

    rows = _permuted(functions, keys, places, left, right)
    while len(outside := (rows >= size).nonzero().flatten()):
        sides = of(left, outside), of(right, outside)
        rows[outside] = _permuted(functions, keys[outside], rows[outside], *sides)
    return rows


def _permuted(
    functions: Sequence[Stream], keys: Tensor, places: Tensor, left_side: int | Tensor, right_side: int | Tensor
) -> Tensor:
    """Places in [0, left side * right side), each once per key, where these places go."""
    left = places // right_side
    right = places - left * right_side
    for number, function in enumerate(functions):
        if number % 2:
            right = (right + function.integers_at(keys * left_side + left, right_side)) % right_side
        else:
            left = (left + function.integers_at(keys * right_side + right, left_side)) % left_side
    return left * right_side + right
