"""Batches by position: which real examples and latents this replica takes in an iteration."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganscale.config import Config
from ganscale.config.section import is_conditional
from ganscale.data.source import Prefetching, Source
from ganscale.parallel.clock import READING
from ganscale.parallel.random import Stream
from ganscale.parallel.replica import Replica
from ganscale.training.objective import Batch

CHUNK = 1 << 17
"""Latent numbers that are made at a time: those of one small update alone would cost up to three times as much."""


class Batches(NamedTuple):
    """This replica's rows of one iteration.

    Attributes:
        discriminator: the micro-batches of each D update: `d_steps` lists of `accumulation` batches.
        generator: the micro-batches of the G update, with new z and perhaps new reals; None to take those of the last
            D update, whose forward pass of G is then shared as well if there is no accumulation.
    """

    discriminator: list[list[Batch]]
    generator: list[Batch] | None = None


def latents(
    stream: Stream, kind: str, size: int, start: int, stop: int, dtype: torch.dtype, times: int = 1, every: int = 0
) -> Tensor:
    """Latents of the rows `start` to `stop - 1` of a stream: `[stop - start, size]`.

    Args:
        stream: of random numbers.
        kind: "normal" or "uniform" on [-1, 1].
        size: length of z.
        start: first row.
        stop: row after the last.
        dtype: of z.
        times: how many such ranges of rows, one after another in the result: `[times * (stop - start), size]`.
        every: rows from the start of one range to the start of the next.
    """
    if kind == "normal":
        return stream.normal(start, stop, (size,), dtype, times, every)
    return stream.uniform(start, stop, (size,), dtype, times, every).mul_(2.0).sub_(1.0)


def updates_ahead(rows: int, size: int) -> int:
    """For how many updates latents are made at a time.

    Args:
        rows: of one update on this replica.
        size: length of z.
    """
    return max(1, CHUNK // (rows * size))


class _Ahead:
    """Latents of a stream, made for several updates at a time; the values do not depend on how many."""

    def __init__(self, stream: Stream, kind: str, size: int, batch_size: int, dtype: torch.dtype) -> None:
        self._arguments = (stream, kind, size)
        self._batch_size = batch_size
        self._dtype = dtype
        self._cached: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def __call__(self, first: int, start: int, stop: int) -> Tensor:
        """Latents `[stop - start, size]` of rows `start` to `stop - 1` of the update that begins at image `first`."""
        updates = updates_ahead(stop - start, self._arguments[-1])
        update = first // self._batch_size % updates
        begin = first - update * self._batch_size
        cached, z = self._cached.get((start, stop), (-1, torch.empty(0)))
        if cached != begin:
            rows = (begin + start, begin + stop)
            z = latents(*self._arguments, *rows, self._dtype, updates, self._batch_size)
            z = z.view(updates, stop - start, -1)
            self._cached[start, stop] = begin, z
        return z[update]


class BatchSampler:
    """Cuts the endless stream of real examples and latents into this replica's batches.

    Args:
        source: the real examples.
        config: the run. Examples of one row of D's input (`model.packing`) stay on one replica; without
            `train.reuse_reals` an iteration reads one more global batch.
        replica: this process among the replicas.
        device: of z.
        dtype: of z.
        shards: virtual replicas that this process computes in its place; each micro-batch is then as many batches.
    """

    def __init__(
        self,
        source: Source,
        config: Config,
        *,
        replica: Replica,
        device: torch.device,
        dtype: torch.dtype,
        shards: Sequence[Replica] = (),
    ) -> None:
        model, train = config.model, config.train
        self.source, self.dtype = source, dtype
        self.latent_dim, self.latent = model.latent_dim, model.latent
        self.batch_size, self.d_steps = train.batch_size, config.optim.d_steps
        self.reuse_fakes, self.reuse_reals = train.reuse_fakes, train.reuse_reals
        self.conditional = is_conditional(model.generator) or is_conditional(model.discriminator)
        packs, packing = (train.batch_size // model.packing, train.accumulation), model.packing
        units = list(zip(*(each.rows(*packs) for each in shards or (replica,)), strict=True))
        self.rows = [(start * packing, stop * packing) for micro in units for start, stop in micro]
        whole = zip(units, Replica().rows(*packs), strict=True)
        self.places = [(start - first, last - first) for micro, (first, last) in whole for start, _ in micro]
        self._next = -1
        streams = (Stream(config.run.seed, name, device) for name in ("latent", "latent/generator"))
        self._z, self._z_generator = (
            _Ahead(each, self.latent, self.latent_dim, self.batch_size, dtype) for each in streams
        )

    @property
    def images_per_iteration(self) -> int:
        """Images that one iteration shows to the discriminator in its own updates."""
        return self.batch_size * self.d_steps

    def place(self, images: int) -> int:
        """Position in the data's order of the first example that the iteration at `images` images reads.

        Args:
            images: number of its first image.
        """
        return images if self.reuse_reals else images + images // self.images_per_iteration * self.batch_size

    def batches(self, images: int) -> Batches:
        """The batches of an iteration.

        Args:
            images: number of its first image.
        """
        if images != self._next and isinstance(self.source, Prefetching):
            self.source.expect(lambda: self._requests(images))
        self._next = images + self.images_per_iteration
        place = self.place(images)
        updates = [
            [self._batch(images + shift, place + shift, index) for index in range(len(self.rows))]
            for shift in range(0, self.images_per_iteration, self.batch_size)
        ]
        if self.reuse_fakes:
            return Batches(updates)
        first, micros = images + (self.d_steps - 1) * self.batch_size, updates[-1]
        if not self.reuse_reals:
            after = place + self.images_per_iteration
            micros = [self._batch(first, after, index) for index in range(len(self.rows))]
        fresh = [self._z_generator(first, start, stop) for start, stop in self.rows]
        return Batches(updates, [batch._replace(z=z) for batch, z in zip(micros, fresh, strict=True)])

    def _requests(self, images: int) -> Iterator[tuple[int, int]]:
        """The ranges to be read from image `images` on, in order, without end."""
        for update in itertools.count(self.place(images), self.batch_size):
            for start, stop in self.rows:
                yield update + start, update + stop

    def latents(self, stream: Stream, start: int, stop: int) -> Tensor:
        """Latents of rows of a stream: `[stop - start, latent_dim]`.

        Args:
            stream: of random numbers.
            start: first row.
            stop: row after the last.
        """
        return latents(stream, self.latent, self.latent_dim, start, stop, self.dtype)

    def _batch(self, first: int, place: int, index: int) -> Batch:
        """Rows of the update that begins at image `first` and at the data's position `place`."""
        start, stop = self.rows[index]
        with READING:
            reals, labels = self.source.read(place + start, place + stop)
        labels = labels if self.conditional else None
        return Batch(reals, self._z(first, start, stop), labels, first + start, place=self.places[index])
