"""Pictures of sets in a bucket, fetched before they are due by few requests, and kept in a bounded cache."""

import logging
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ganscale.storage.store import Store

AHEAD = 64 * 2**20
"""Bytes of pictures that are fetched together at most; twice as much is held."""
PICTURES_AHEAD = 1024
"""Pictures that are fetched together, where their order is random as a whole."""
GAP = 64 * 1024
"""Unneeded bytes between two pictures up to which one request fetches both: about what a request's delay costs."""
LONGEST = 8 * 2**20
"""Bytes of one request, unless one picture is larger."""
THREADS = 32
_logger = logging.getLogger(__name__)


class Ranges(Protocol):
    """Pictures of which each is one range of bytes.

    Attributes:
        index: records of `ganscale.data.prepared.ROW` by row.
        store: of the shards.
    """

    index: np.ndarray
    store: Store

    def shard_name(self, row: int) -> str:
        """The shard that holds a picture."""
        ...


class RingCache:
    """The pictures that were written last, in a file of bounded size that vanishes with the process.

    Args:
        folder: where the file lies; empty for the system's temporary folder.
        capacity: of the file in bytes.
        rows: number of pictures in the set.
    """

    def __init__(self, folder: str, capacity: int, rows: int) -> None:
        self.capacity = capacity
        self._file = tempfile.TemporaryFile(dir=folder or None)  # noqa: SIM115 (kept as long as the cache)
        self._starts = np.full(rows, -1, np.int64)
        self._written = 0
        """Bytes written so far; a picture that began more than `capacity` before it is overwritten."""

    def get(self, row: int, size: int) -> bytes | None:
        """A picture's file, if it is there.

        Args:
            row: of the set.
            size: of the file in bytes.
        """
        start = int(self._starts[row])
        if start < 0 or start < self._written - self.capacity:
            return None
        return os.pread(self._file.fileno(), size, start % self.capacity)

    def put(self, row: int, content: bytes) -> None:
        """Keep a picture's file in place of the oldest ones; none are kept any more once the disk is full.

        Args:
            row: of the set.
            content: of the file.
        """
        if len(content) > self.capacity:
            return
        if self._written % self.capacity + len(content) > self.capacity:  # it must not reach over the file's end
            self._written += self.capacity - self._written % self.capacity
        try:
            os.pwrite(self._file.fileno(), content, self._written % self.capacity)
        except OSError as error:
            _logger.warning("%s", f"data.cache_mib: the cache is switched off, as it cannot be written: {error}")
            self.capacity = 0
            self._starts.fill(-1)
            return
        self._starts[row] = self._written
        self._written += len(content)


@dataclass
class _Chunk:
    """Batches that are fetched together."""

    batches: deque[list[int]]
    found: dict[int, bytes]
    waiting: list[Future[dict[int, bytes]]]


class Fetcher:
    """Fetches pictures by merged ranges in several threads.

    Args:
        pictures: the set.
        cache: for pictures that are needed more than once; None for none.
        together: pictures that are fetched together, unless they have more than `AHEAD` bytes.

    Attributes:
        num_requests: requests so far.
    """

    def __init__(self, pictures: Ranges, cache: RingCache | None = None, together: int = PICTURES_AHEAD) -> None:
        self._pictures, self._cache, self._together = pictures, cache, together
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self.num_requests = 0

    def fetch(self, rows: Sequence[int]) -> list[bytes]:
        """The files of pictures, not yet checked.

        Args:
            rows: of the set.

        Raises:
            OSError: the storage does not answer.
        """
        return next(self.batches(iter([list(rows)])))

    def batches(self, requests: Iterator[list[int]]) -> Iterator[list[bytes]]:
        """The files of each batch, not yet checked, while those of later ones are fetched.

        Args:
            requests: rows of each batch; read ahead as far as `AHEAD` and `together` allow, twice.

        Raises:
            OSError: the storage does not answer.
        """
        current, following = self._begin(requests), self._begin(requests)
        while current is not None:
            for future in current.waiting:
                for row, content in future.result().items():
                    current.found[row] = content
                    if self._cache:
                        self._cache.put(row, content)
            current.waiting.clear()
            while current.batches:
                rows = current.batches.popleft()
                yield [current.found[row] for row in rows]
            current = following
            following = self._begin(requests)

    def _begin(self, requests: Iterator[list[int]]) -> _Chunk | None:
        """Begin to fetch batches of `AHEAD` bytes in all; None if there are no more."""
        index, batches, num_bytes, count = self._pictures.index, deque(), 0, 0
        for rows in requests:
            batches.append(rows)
            num_bytes += int(index["size"][rows].sum())
            count += len(rows)
            if num_bytes >= AHEAD or count >= self._together:
                break
        if not batches:
            return None
        found: dict[int, bytes] = {}
        missing = []
        for row in {row for rows in batches for row in rows}:
            content = self._cache.get(row, int(index["size"][row])) if self._cache else None
            if content is None:
                missing.append(row)
            else:
                found[row] = content
        ranges = self._ranges(np.array(sorted(missing), np.int64))
        self.num_requests += len(ranges)
        return _Chunk(batches, found, [self._pool.submit(self._get, rows) for rows in ranges])

    def _ranges(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of each request, in the order of their places."""
        records = self._pictures.index[rows]
        shards, starts = records["shard"].astype(np.int64), records["offset"].astype(np.int64)
        order = np.lexsort((starts, shards))
        ranges, first = [], 0
        for place in range(1, len(order) + 1):
            if place < len(order):
                this, last, begin = order[place], order[place - 1], order[first]
                stop = starts[this] + records["size"][this]
                near = starts[this] - starts[last] - records["size"][last] <= GAP
                if shards[this] == shards[last] and near and stop - starts[begin] <= LONGEST:
                    continue
            ranges.append(rows[order[first:place]])
            first = place
        return ranges

    def _get(self, rows: np.ndarray) -> dict[int, bytes]:
        """Fetch the range that holds these rows."""
        records = self._pictures.index[rows]
        starts = records["offset"].astype(np.int64)
        stops = starts + records["size"]
        begin, end = int(starts[0]), int(stops.max())
        content = self._pictures.store.read_range(self._pictures.shard_name(int(rows[0])), begin, end)
        pairs = zip(rows.tolist(), (starts - begin).tolist(), (stops - begin).tolist(), strict=True)
        return {row: content[start:stop] for row, start, stop in pairs}
