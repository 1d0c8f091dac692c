"""A folder, a zip, shards or a prepared set of pictures, decoded by DataLoader workers ahead of their use.

Names are sorted; docs/data.md has the rules by which files are found, labeled and decoded.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import tee
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ganscale.config import Config, ConfigError
from ganscale.config.datasets import Data, Resolution, height_width
from ganscale.data.copy_ahead import CopyAhead, upload
from ganscale.data.fetch import PICTURES_AHEAD, Fetcher, RingCache
from ganscale.data.files import Files, list_files, read, refuse, shown_name
from ganscale.data.identity import hash_pictures
from ganscale.data.images import mirrored, normalize
from ganscale.data.labels import Rule, find_labels
from ganscale.data.order import WINDOW, Arrangement, Blocks, Order, Shuffled, Weighted, class_counts
from ganscale.data.parquet import ParquetFiles
from ganscale.data.pictures import DEFAULT, Rules, decode, read_header
from ganscale.data.prepared import PreparedSet, check_settings, is_prepared
from ganscale.data.shards import open_files
from ganscale.data.source import Decoding, Finite, Prefetching, Source
from ganscale.data.webdataset import TarFiles
from ganscale.parallel.random import Stream
from ganscale.storage.store import Place, StorePath, open_place

SAMPLE_OF_BUCKET = 64
MEASURED = 1000
"""Newest reads by which the speed of decoding is measured."""


class _Contents(Protocol):
    """The files of pictures by row."""

    place: Place

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def read(self, row: int) -> bytes:
        """The file of a picture."""
        ...

    def checked(self, row: int, content: bytes) -> bytes:
        """The file of a picture, if it is what it should be; `ValueError` otherwise."""
        ...

    def name(self, row: int) -> str:
        """Of a picture."""
        ...


class _Listed(_Contents):
    """Pictures of a folder, a zip or shards."""

    def __init__(self, files: Files, names: list[str]) -> None:
        self.files, self.names, self.place = files, names, files.path

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> bytes:
        return read(self.files, self.names[row])

    def checked(self, row: int, content: bytes) -> bytes:
        return content

    def name(self, row: int) -> str:
        return self.names[row]


class _Pictures(Dataset[tuple[Tensor, float]]):
    """Decoded pictures by row, or by row and content, with the seconds that each took.

    Each DataLoader worker opens the zip for itself.
    """

    def __init__(self, contents: _Contents, resolution: Resolution, rules: Rules) -> None:
        self.contents, self.resolution, self.rules = contents, resolution, rules

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, which: int | tuple[int, bytes]) -> tuple[Tensor, float]:
        begin = time.perf_counter()
        picture = self._decoded(which)
        return picture, time.perf_counter() - begin

    def _decoded(self, which: int | tuple[int, bytes]) -> Tensor:
        row, content = (which, None) if isinstance(which, int) else which
        try:
            content = self.contents.read(row) if content is None else content
            return torch.from_numpy(decode(self.contents.checked(row, content), self.resolution, self.rules))
        except Exception as error:  # zipfile raises many kinds on damaged input
            problem = f"cannot read the picture {shown_name(self.contents.name(row))}: it {error}"
            remedy = "repair, convert or remove it, and resume the run with data.changed=accept"
            raise ConfigError(problem, key="data.path", value=str(self.contents.place), remedy=remedy) from error


@dataclass(frozen=True)
class _Opened:
    """What lies at `data.path`; `numbered` if its classes may be numbers without names."""

    contents: _Contents
    labels: Tensor
    classes: tuple[str, ...]
    numbered: bool
    rules: Rules
    state_hash: Callable[[], str]


def _open_set(path: Place, resolution: Resolution, rules: Rules, labels: Rule, cache_bytes: int) -> _Opened:
    """A prepared set, or listed files."""
    if is_prepared(path):
        found = PreparedSet(path)
        check_settings(found.manifest, given_settings(resolution, rules, labels), str(path))
        classes = () if labels == "none" else found.manifest.classes
        rows = torch.from_numpy(found.index["label"].astype(np.int64)) if classes else torch.zeros(len(found)).long()
        state_hash = found.manifest.data_hash + ("" if classes or not found.manifest.classes else "/none")
        rules = Rules(channels=found.manifest.channels)
        return _Opened(found, rows, classes, _are_numbers(classes), rules, lambda: state_hash)
    files = open_unprepared(path, str(path))
    if isinstance(files, ParquetFiles):
        files.cache_bytes = cache_bytes
    listing = list_files(files)
    refuse(path, listing.problems)
    names = listing.pictures
    found = find_labels(files, listing, labels)
    rules = replace(rules, channels=rules.channels or _channels(files, names, rules))
    numbered = found.from_file and _are_numbers(found.classes)
    rows = torch.tensor(found.rows)
    return _Opened(
        _Listed(files, names), rows, found.classes, numbered, rules, lambda: hash_pictures(files, names, found, rules)
    )


def _channels(files: Files, names: Sequence[str], rules: Rules) -> int:
    """As `find_channels`; in a bucket, where looking at all takes a request each, by some if they are not all gray."""
    seen = examined_names(files, names)
    found = find_channels(files, seen, rules)
    if found == 1 and len(seen) < len(names):
        problem = f"the {len(seen)} pictures that were looked at in the bucket are gray"
        remedy = "set data.channels=1 if all are, otherwise 3"
        raise ConfigError(problem, key="data.channels", value="auto", remedy=remedy)
    return found


def examined_names(files: Files, names: Sequence[str]) -> Sequence[str]:
    """The pictures that are examined before a run: all, of a bucket `SAMPLE_OF_BUCKET` evenly spaced ones.

    Args:
        files: that hold them.
        names: of all.
    """
    if not isinstance(files.path, StorePath) or len(names) <= SAMPLE_OF_BUCKET:
        return names
    return [names[place * len(names) // SAMPLE_OF_BUCKET] for place in range(SAMPLE_OF_BUCKET)]


def open_unprepared(path: Place, value: str) -> Files:
    """The files of a set that is not prepared.

    Args:
        path: where they lie.
        value: of `data.path`.

    Raises:
        ConfigError: they lie in a bucket and are no tar shards.
    """
    files = open_files(path)
    if isinstance(path, StorePath) and not isinstance(files, TarFiles):
        problem = "of a bucket, prepared sets and tar shards alone are read"
        remedy = f"run once: ganscale prepare {path} OUT; then name OUT, which may lie in a bucket, too"
        raise ConfigError(problem, key="data.path", value=value, remedy=remedy)
    return files


def _are_numbers(classes: tuple[str, ...]) -> bool:
    return classes == tuple(map(str, range(len(classes))))


def given_settings(resolution: Resolution, rules: Rules, labels: Rule) -> dict[str, Any]:
    """Settings that a run has, None for those at their defaults, as `check_settings` takes them.

    Args:
        resolution: of the images in pixels.
        rules: how a picture becomes an image.
        labels: where the classes are from.
    """
    given = {
        "channels": rules.channels,
        "fit": rules.fit,
        "background": list(rules.background),
        "range": list(rules.range) if rules.range else None,
    }
    default = {"channels": None, "fit": DEFAULT.fit, "background": list(DEFAULT.background), "range": None}
    settings: dict[str, Any] = {name: None if given[name] == default[name] else given[name] for name in given}
    return {"resolution": resolution} | settings | {"labels": None if labels == "auto" else labels}


@dataclass(frozen=True)
class Reading:
    """How pictures are ordered and fetched.

    Attributes:
        balance: none, or classes with equal or given frequencies.
        class_weights: relative frequencies of classes by name; 1 for those that are left out.
        shuffle_block: pictures of a block that stay close in time; 0 for an order that is random as a whole.
        cache_mib: size of the cache of pictures from a bucket, or of row groups of parquet, in MiB.
        cache_dir: its folder; empty for the system's temporary one.
    """

    balance: Literal["none", "classes"] = "none"
    class_weights: Mapping[str, float] = field(default_factory=dict)
    shuffle_block: int = 0
    cache_mib: int = 0
    cache_dir: str = ""


READ_ALL = Reading()
"""In an order that is random as a whole."""


def arrange(seed: int, labels: Tensor, classes: Sequence[str], reading: Reading) -> Arrangement:
    """Which picture is shown where.

    Args:
        seed: the run's seed.
        labels: class of every picture, int64 `[N]`.
        classes: names of the classes.
        reading: the settings.

    Raises:
        ConfigError: there are no classes to balance, or `data.class_weights` names one that is not there.
    """
    if reading.balance == "none":
        return (
            Blocks(seed, len(labels), reading.shuffle_block) if reading.shuffle_block else Shuffled(seed, len(labels))
        )
    if not classes:
        raise ConfigError("the pictures have no classes", key="data.balance", value="classes", remedy="use none")
    unknown = sorted(set(reading.class_weights) - set(classes))
    if unknown:
        remedy = f"name some of {', '.join(classes[:20])}" + (", ..." if len(classes) > 20 else "")
        raise ConfigError(f"no class {unknown[0]}", key="data.class_weights", value=unknown[0], remedy=remedy)
    sizes = torch.bincount(labels, minlength=len(classes)).tolist()
    weights = [reading.class_weights.get(name, 1.0) for name in classes]
    counts = class_counts(sizes, weights)
    return Weighted(seed, labels, counts)


class FolderSource(Source, Finite, Prefetching, Decoding):
    """The `num_images` pictures of `data.path` in an order that is a function of (seed, epoch).

    Args:
        path: the folder, zip, shard or pattern of shards; of a prepared set the folder or the prefix in a bucket.
        resolution: of the images in pixels.
        seed: the run's seed.
        device: where batches go.
        dtype: of the normalized images.
        mirror: whether half of the images, by position, are mirrored.
        num_workers: DataLoader processes; 0 decodes in this process.
        rules: how a picture becomes an image; without a number of channels, 1 if all are gray, otherwise 3.
        labels: where the classes are from, as `data.labels`.
        reading: how pictures are ordered and fetched.

    Attributes:
        class_names: names of the classes; empty without labels, and where dataset.json numbers them.

    Raises:
        ConfigError: a file or its label is not as it should be; the message names it.
        FileNotFoundError, ValueError: the path does not hold pictures.
    """

    def __init__(
        self,
        path: Place,
        resolution: Resolution,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        mirror: bool = False,
        num_workers: int = 0,
        rules: Rules = DEFAULT,
        labels: Rule = "auto",
        reading: Reading = READ_ALL,
    ) -> None:
        opened = _open_set(path, resolution, rules, labels, reading.cache_mib * 2**20 // max(1, num_workers))
        self.shape: tuple[int, ...] = (opened.rules.channels or 3, *height_width(resolution))
        self.num_classes = len(opened.classes)
        self.class_names = () if opened.numbered else opened.classes
        self.num_images = len(opened.contents)
        self._labels = opened.labels
        self._state_hash = cache(opened.state_hash)
        self._pictures = _Pictures(opened.contents, resolution, opened.rules)
        self._arrangement = arrange(seed, opened.labels, opened.classes, reading)
        self._seed = seed
        self._order = self._new_order()
        self.fetcher = _fetcher(opened.contents, reading)
        self._mirror = Stream(seed, "data/mirror", device) if mirror else None
        self._device, self._dtype, self._num_workers = device, dtype, num_workers
        self._expected: Iterator[tuple[int, int]] = iter(())
        self._ahead: Iterator[Sequence[Tensor]] | None = None
        self._decoding: deque[tuple[int, float]] = deque(maxlen=MEASURED)

    def _new_order(self) -> Order:
        return Order(self._seed, self.num_images, arrangement=self._arrangement)

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute the order ahead; fetch, with DataLoader workers decode, and copy to a GPU, ahead.

        Part of `Prefetching`.
        """
        self._order.expect(requests)
        if not self._num_workers and not self.fetcher:
            return
        self._expected = requests()
        wanted: Iterable[Any] = _Requests(self._new_order(), requests)
        if self.fetcher:
            wanted = _Fetched(wanted, self.fetcher)
        if self._num_workers:
            loader: Iterable[Sequence[Tensor]] = DataLoader(
                self._pictures,
                batch_sampler=wanted,  # pyright: ignore[reportArgumentType]
                num_workers=self._num_workers,
                pin_memory=self._device.type == "cuda",
            )
        else:
            loader = (default_collate([self._pictures[each] for each in batch]) for batch in wanted)
        batches = self._labeled(iter(loader), requests())
        self._ahead = CopyAhead(batches, self._device) if self._device.type == "cuda" else batches

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images `[stop - start, 3, H, W]` in [-1, 1] and classes `[stop - start]` (part of `Source`).

        Raises:
            ConfigError: a picture is too large or cannot be decoded; the message names it.
        """
        batch = None
        if self._ahead is not None and next(self._expected) == (start, stop):
            with suppress(ConfigError):  # DataLoader drops its key: raise it again below
                batch = next(self._ahead)
        if batch is None:  # not the expected read: decode in this process from now on
            self._ahead = None
            rows = self._order.rows(start, stop)
            pictures = self._read_rows(rows)
            batch = [upload(tensor, self._device) for tensor in (pictures, self._labels[rows])]
        images, labels = batch
        return mirrored(normalize(images, self._dtype), self._mirror, start), labels

    def _labeled(
        self, pictures: Iterator[Sequence[Tensor]], requests: Iterator[tuple[int, int]]
    ) -> Iterator[Sequence[Tensor]]:
        """Decoded pictures of the expected reads with their classes, in host memory."""
        for (images, seconds), (start, stop) in zip(pictures, requests, strict=False):
            self._decoding.append((len(images), float(seconds.sum())))
            yield images, self._labels[self._order.rows(start, stop)]

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 3, H, W]` in [-1, 1] and classes of rows of the sorted names (part of `Finite`).

        Raises:
            ConfigError: as `read`.
        """
        return normalize(self._read_rows(rows).to(self._device), self._dtype), self.classes(rows)

    def _read_rows(self, rows: Tensor) -> Tensor:
        """Decoded pictures in host memory, not ahead of their use."""
        wanted: list[Any] = rows.tolist()
        if self.fetcher:
            wanted = list(zip(wanted, self.fetcher.fetch(wanted), strict=True))
        images, seconds = default_collate([self._pictures[each] for each in wanted])
        self._decoding.append((len(images), float(seconds.sum())))
        return images

    def decode_limit(self) -> float | None:
        """Images per second that `num_workers` processes could read and decode without pause (part of `Decoding`)."""
        counts, seconds = zip(*self._decoding, strict=True) if self._decoding else ((), ())
        self._decoding.clear()
        return max(1, self._num_workers) * sum(counts) / max(sum(seconds), 1e-9) if counts else None

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the sorted names (part of `Finite`)."""
        return self._labels[rows.cpu()].to(self._device)

    def state_hash(self) -> str:
        """Of a prepared set the SHA-256 of pixels and classes, otherwise by the rule of `ganscale.data.identity`.

        Computed once (part of `Finite`).
        """
        return self._state_hash()


def find_channels(files: Files, names: Sequence[str], rules: Rules) -> int:
    """1 if all pictures are gray, otherwise 3.

    Args:
        files: that hold them.
        names: of the pictures.
        rules: by which they are read.
    """
    for name in names:
        with suppress(Exception), files.open(name) as file:  # a damaged one is named when it is read
            if not read_header(file, rules, 1).is_gray:
                return 3
    return 1


def rules_of(data: Data) -> Rules:
    """The rules of a run.

    Args:
        data: its section `data`.
    """
    channels = None if data.channels == "auto" else data.channels
    return Rules(channels, data.fit, data.background, data.range)


def reading_of(data: Data) -> Reading:
    """How a run's pictures are ordered and fetched.

    Args:
        data: its section `data`.
    """
    return Reading(data.balance, data.class_weights, data.shuffle_block, data.cache_mib, data.cache_dir)


def open_folder(config: Config, device: torch.device, dtype: torch.dtype) -> FolderSource:
    """The pictures of a run.

    Args:
        config: the run.
        device: where batches go.
        dtype: of the images.
    """
    data, path = config.data, open_place(config.data.path, key="data.path")
    return FolderSource(
        path,
        data.resolution,
        seed=config.run.seed,
        device=device,
        dtype=dtype,
        mirror=data.mirror,
        num_workers=data.num_workers,
        rules=rules_of(data),
        labels=data.labels,
        reading=reading_of(data),
    )


class _Requests:
    """Rows of each expected read, for the DataLoader."""

    def __init__(self, order: Order, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        self._order, self._requests = order, requests

    def __iter__(self) -> Iterator[list[int]]:
        self._order.expect(self._requests)
        for start, stop in self._requests():
            yield self._order.rows(start, stop).tolist()


class _Fetched:
    """Rows with their files' content for the DataLoader: workers decode, this process fetches."""

    def __init__(self, requests: Iterable[list[int]], fetcher: Fetcher) -> None:
        self._requests, self._fetcher = requests, fetcher

    def __iter__(self) -> Iterator[list[tuple[int, bytes]]]:
        rows, copy = tee(self._requests)
        for batch, contents in zip(rows, self._fetcher.batches(copy), strict=False):
            yield list(zip(batch, contents, strict=True))


def _fetcher(contents: _Contents, reading: Reading) -> Fetcher | None:
    """For sets in a bucket."""
    ranges = contents.files if isinstance(contents, _Listed) else contents
    if not isinstance(ranges, PreparedSet | TarFiles) or not isinstance(contents.place, StorePath):
        return None
    size = reading.cache_mib * 2**20
    cache = RingCache(reading.cache_dir, size, len(contents)) if size else None
    return Fetcher(ranges, cache, max(PICTURES_AHEAD, WINDOW * reading.shuffle_block))
