"""Read-ahead from a bucket: few requests, bounded memory and cache."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ganscale.data import fetch
from ganscale.data.fetch import Fetcher, RingCache
from ganscale.data.order import Blocks
from ganscale.data.prepared import ROW


class Counting:
    """Stands for a bucket: a shard of which every byte says where it is, and the ranges that were read."""

    def __init__(self) -> None:
        self.ranges: list[tuple[str, int, int]] = []

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        self.ranges.append((key, start, stop))
        return (np.arange(start, stop) % 251).astype(np.uint8).tobytes()


class Pictures:
    """1000 pictures of 1000 to 1999 bytes, 100 in a shard, with a header of 512 bytes before each."""

    def __init__(self) -> None:
        self.store = Counting()
        sizes = 1000 + np.arange(1000) * 37 % 1000
        self.index = np.zeros(1000, ROW)
        self.index["size"] = sizes
        self.index["shard"] = np.arange(1000) // 100
        for shard in range(10):
            rows = slice(100 * shard, 100 * shard + 100)
            self.index["offset"][rows] = np.cumsum(sizes[rows] + 512) - sizes[rows]

    def shard_name(self, row: int) -> str:
        return f"shard-{int(self.index[row]['shard'])}"

    def content(self, row: int) -> bytes:
        start = int(self.index[row]["offset"])
        return (np.arange(start, start + int(self.index[row]["size"])) % 251).astype(np.uint8).tobytes()


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


def fetcher_of(pictures: Pictures, cache: RingCache | None = None) -> Fetcher:
    return Fetcher(pictures, cache)  # pyright: ignore[reportArgumentType]


def test_any_rows_are_fetched_in_their_order(pictures: Pictures) -> None:
    rows = [999, 0, 500, 501, 0, 99, 100]
    assert fetcher_of(pictures).fetch(rows) == [pictures.content(row) for row in rows]


def test_neighbors_share_a_request_and_no_request_crosses_shards(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "GAP", 3000)
    fetcher = fetcher_of(pictures)
    fetcher.fetch([0, 1, 2, 50, 98, 99, 100, 101])
    assert sorted(key for key, _, _ in pictures.store.ranges) == ["shard-0"] * 3 + ["shard-1"]
    assert fetcher.num_requests == 4
    pictures.store.ranges.clear()
    monkeypatch.setattr(fetch, "LONGEST", 5000)
    fetcher.fetch(list(range(10)))
    assert all(stop - start <= 5000 for _, start, stop in pictures.store.ranges)
    assert len(pictures.store.ranges) > 3


def test_what_is_held_ahead_is_bounded(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "AHEAD", 10_000)
    asked = []

    def requests() -> Iterator[list[int]]:
        for start in itertools.count(0, 2):
            asked.append(start)
            yield [start % 1000, (start + 1) % 1000]

    batches = fetcher_of(pictures).batches(requests())
    for number in range(1000):
        rows = [2 * number % 1000, (2 * number + 1) % 1000]
        assert next(batches) == [pictures.content(row) for row in rows]
        assert len(asked) - number <= 2 * 6  # batches have 2,000 bytes or more


def test_an_endless_stream_ends_with_its_requests(pictures: Pictures) -> None:
    assert list(fetcher_of(pictures).batches(iter([[1], [2]]))) == [[pictures.content(1)], [pictures.content(2)]]


def test_the_cache_keeps_the_last_pictures_in_bounded_space(pictures: Pictures) -> None:
    cache = RingCache("", 50_000, 1000)
    rng = np.random.default_rng(0)
    kept = 0
    for row in rng.permutation(np.repeat(np.arange(100), 20)).tolist():
        size = int(pictures.index[row]["size"])
        found = cache.get(row, size)
        if found is None:
            cache.put(row, pictures.content(row))
        else:
            kept += 1
            assert found == pictures.content(row)
        assert cache.get(row, size) == pictures.content(row)
    assert kept > 200
    assert cache._file.seek(0, 2) <= 50_000


def test_what_is_in_the_cache_is_not_fetched(pictures: Pictures) -> None:
    fetcher = fetcher_of(pictures, RingCache("", 1_000_000, 1000))
    first = fetcher.fetch(list(range(0, 100, 7)))
    count = len(pictures.store.ranges)
    assert fetcher.fetch(list(range(0, 100, 7))) == first
    assert len(pictures.store.ranges) == count


def test_a_full_disk_switches_the_cache_off(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    cache = RingCache("", 1_000_000, 1000)
    monkeypatch.setattr(fetch.os, "pwrite", full)
    fetcher = fetcher_of(pictures, cache)
    for _ in range(2):
        assert fetcher.fetch([3, 4]) == [pictures.content(3), pictures.content(4)]
    assert len(pictures.store.ranges) == 2


def test_blocks_need_few_requests(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 16 blocks of 10 pictures takes about a request per block, a wholly random order one per picture."""
    monkeypatch.setattr(fetch, "GAP", 600)
    rows = Blocks(0, 1000, 10).rows_at(torch.arange(160)).tolist()
    fetcher = fetcher_of(pictures)
    fetcher.fetch(rows)
    assert fetcher.num_requests <= 16
