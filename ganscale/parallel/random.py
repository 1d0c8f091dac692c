"""Random numbers as a function of (seed, stream, global row): no generator state, the same for any number of workers.

Word `w` of a row is the SplitMix64 output at position `row * words_per_row + w` of a sequence whose start and whitening
constant come from (seed, stream) (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", Fig. 16,
with Stafford's variant 13 as mixing function). Rows are *global* indices of images, so a worker that computes rows
5 to 9 of a batch gets exactly what a single worker computes there, at a cost that depends only on its own rows.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """The 64-bit pattern of `value` as the int64 that torch computes with."""
    value &= _MASK64
    return value - (1 << 64) if value >= 1 << 63 else value


@lru_cache(maxsize=256)
def _keys(seed: int, stream: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def derive_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for libraries that need one, independent for each stream.

    Args:
        seed: the run's seed.
        stream: name of the use.
    """
    return _keys(seed, stream)[0] >> 1


def _mix(x: Tensor, whitening: int) -> Tensor:
    """SplitMix64's finalizer on int64 words, in place; `whitening` separates streams that would overlap."""
    x ^= (x >> 30) & ((1 << 34) - 1)
    x *= _signed(_MIX1)
    x ^= ((x >> 27) & ((1 << 37) - 1)).bitwise_xor_(_signed(whitening))
    x *= _signed(_MIX2)
    x ^= (x >> 31) & ((1 << 33) - 1)
    return x


def _scaled(words: Tensor, high: int | Tensor) -> Tensor:
    """The upper half of each word as a number in [0, high)."""
    return (((words >> 32) & 0xFFFFFFFF) * high) >> 32


class Stream:
    """One named sequence of random rows.

    Args:
        seed: the run's seed.
        name: what the numbers are for, e.g. "latent"; streams of different names are independent.
        device: where the numbers are made. Bits are the same on every device.
    """

    def __init__(self, seed: int, name: str, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        self._start, self._whitening = _keys(seed, name)
        self._ramp: Tensor | None = None

    def bits(
        self, start: int, stop: int, words: int, times: int = 1, every: int = 0, offset: Tensor | None = None
    ) -> Tensor:
        """Random 64-bit words of rows: int64 `[times * (stop - start), words]`.

        Args:
            start: first row.
            stop: row after the last.
            words: words in each row.
            times: how many such ranges of rows, one after another in the result.
            every: rows from the start of one range to the start of the next.
            offset: int64 `[]`, added to both rows: what a CUDA graph reads where an int would stay what it was.
        """
        count = (stop - start) * words
        if self._ramp is None or self._ramp.numel() < count:
            self._ramp = torch.arange(count, device=self.device) * _signed(_GAMMA)
        first = _signed(self._start + (start * words + 1) * _GAMMA)
        counters = self._ramp[:count] + first
        if offset is not None:
            counters += offset * _signed(words * _GAMMA)
        if times > 1:
            starts = torch.arange(times, device=self.device) * _signed(every * words * _GAMMA)
            counters = starts.unsqueeze(1) + counters
        return _mix(counters, self._whitening).view(-1, words)

    def uniform(
        self,
        start: int,
        stop: int,
        shape: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
        times: int = 1,
        every: int = 0,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Uniform numbers in [0, 1) with 24 random bits: `[times * (stop - start), *shape]`.

        Args:
            start: first row.
            stop: row after the last.
            shape: of each row.
            dtype: of the numbers.
            times: as for `bits`.
            every: as for `bits`.
            offset: as for `bits`.
        """
        size = math.prod(shape)
        high, low = self._halves(size, dtype, start, stop, times, every, offset)
        both = torch.cat((high, low), dim=1) if size > 1 else high
        return both[:, :size].reshape(-1, *shape).mul_(2.0**-24)

    def normal(
        self,
        start: int,
        stop: int,
        shape: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
        times: int = 1,
        every: int = 0,
        offset: Tensor | None = None,
    ) -> Tensor:
        """Standard normal numbers (Box and Muller 1958), at most 5.9 in size: `[times * (stop - start), *shape]`.

        Arguments: `uniform`.
        """
        size = math.prod(shape)
        high, low = self._halves(size, dtype, start, stop, times, every, offset)
        radius = high.add_(0.5).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
        angle = low.mul_(2.0 * math.pi * 2.0**-24)
        both = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return both[:, :size].reshape(-1, *shape)

    def integers(self, start: int, stop: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Whole numbers in [0, high): int64 `[stop - start, *shape]`; bias below high / 2^32.

        Args:
            start: first row.
            stop: row after the last.
            high: at most 2^31.
            shape: of each row.
        """
        return _scaled(self.bits(start, stop, math.prod(shape)), high).view(stop - start, *shape)

    def integers_at(self, places: Tensor, high: int | Tensor) -> Tensor:
        """Whole numbers in [0, high) at any places of the sequence: int64 like `places`.

        Place p has what `integers(p, p + 1, high, (1,))` gives.

        Args:
            places: int64, any shape.
            high: at most 2^31; one number, or one for each place.
        """
        words = _mix(places * _signed(_GAMMA) + _signed(self._start + _GAMMA), self._whitening)
        return _scaled(words, high)

    def _halves(self, size: int, dtype: torch.dtype, start: int, stop: int, *ranges: Any) -> tuple[Tensor, Tensor]:
        """Two independent 24-bit numbers of each word that `bits` makes for rows of `size` numbers, as floats."""
        bits = self.bits(start, stop, (size + 1) // 2, *ranges)
        high = ((bits >> 40) & 0xFFFFFF).to(dtype)
        return high, bits.bitwise_and_(0xFFFFFF).to(dtype)


def permutation(seed: int, stream: str, size: int) -> Tensor:
    """A random order of `size` rows on the CPU, a function of its arguments alone: int64 `[size]`.

    Args:
        seed: the run's seed.
        stream: name of the use.
        size: number of rows.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, stream))
    return torch.randperm(size, generator=generator)
