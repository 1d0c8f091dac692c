"""A folder or a zip of pictures, decoded by DataLoader workers ahead of their use.

Names are sorted; docs/data.md has the rules by which files are found, labeled and decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganscale.config import Config, ConfigError
from ganscale.config.datasets import Data
from ganscale.data.copy_ahead import CopyAhead, upload
from ganscale.data.files import Files, list_files, open_files, read, refuse, shown_name
from ganscale.data.identity import hash_pictures
from ganscale.data.images import mirrored, normalize
from ganscale.data.labels import Rule, find_labels
from ganscale.data.order import Order
from ganscale.data.pictures import DEFAULT, Rules, decode, read_header
from ganscale.data.source import Finite, Prefetching, Source
from ganscale.parallel.random import Stream


class _Pictures(Dataset[Tensor]):
    """Decoded pictures by index; each DataLoader worker opens the zip for itself."""

    def __init__(self, files: Files, names: list[str], resolution: int, rules: Rules) -> None:
        self.files, self.names, self.resolution, self.rules = files, names, resolution, rules

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        name = self.names[index]
        try:
            return torch.from_numpy(decode(read(self.files, name), self.resolution, self.rules))
        except Exception as error:  # zipfile raises many kinds on damaged input
            problem = f"cannot read the picture {shown_name(name)}: it {error}"
            remedy = "repair, convert or remove it, and resume the run with data.changed=accept"
            raise ConfigError(problem, key="data.path", value=str(self.files.path), remedy=remedy) from error


class FolderSource(Source, Finite, Prefetching):
    """The `num_images` pictures of a folder or zip in an order that is a function of (seed, epoch).

    Args:
        path: the folder or zip.
        resolution: side of the images.
        seed: the run's seed.
        device: where batches go.
        dtype: of the normalized images.
        mirror: whether half of the images, by position, are mirrored.
        num_workers: DataLoader processes; 0 decodes in this process.
        rules: how a picture becomes an image; without a number of channels, 1 if all are gray, otherwise 3.
        labels: where the classes are from, as `data.labels`.

    Attributes:
        class_names: names of the classes; empty without labels, and where dataset.json numbers them.

    Raises:
        ConfigError: a file or its label is not as it should be; the message names it.
        FileNotFoundError, ValueError: the path does not hold pictures.
    """

    def __init__(
        self,
        path: Path,
        resolution: int,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        mirror: bool = False,
        num_workers: int = 0,
        rules: Rules = DEFAULT,
        labels: Rule = "auto",
    ) -> None:
        files = open_files(path)
        listing = list_files(files)
        refuse(path, listing.problems)
        names = listing.pictures
        found = find_labels(files, listing, labels)
        rules = replace(rules, channels=rules.channels or _find_channels(files, names, rules))
        self.shape: tuple[int, ...] = (rules.channels or 3, resolution, resolution)
        self.num_classes = len(found.classes)
        numbered = found.from_file and found.classes == tuple(map(str, range(len(found.classes))))
        self.class_names = () if numbered else found.classes
        self.num_images = len(names)
        self._labels = torch.tensor(found.rows)
        self._state_hash = cache(lambda: hash_pictures(files, names, found, rules))
        self._pictures = _Pictures(files, names, resolution, rules)
        self._seed, self._order = seed, Order(seed, len(names))
        self._mirror = Stream(seed, "data/mirror", device) if mirror else None
        self._device, self._dtype, self._num_workers = device, dtype, num_workers
        self._expected: Iterator[tuple[int, int]] = iter(())
        self._ahead: Iterator[Sequence[Tensor]] | None = None

    def expect(self, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        """Compute the order ahead; with DataLoader workers decode, and copy to a GPU, ahead (part of `Prefetching`)."""
        self._order.expect(requests)
        if self._num_workers:
            self._expected = requests()
            loader = DataLoader(
                self._pictures,
                batch_sampler=_Requests(Order(self._seed, self.num_images), requests),  # pyright: ignore[reportArgumentType]
                num_workers=self._num_workers,
                pin_memory=self._device.type == "cuda",
            )
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
            pictures = torch.stack([self._pictures[int(row)] for row in rows])
            batch = [upload(tensor, self._device) for tensor in (pictures, self._labels[rows])]
        images, labels = batch
        return mirrored(normalize(images, self._dtype), self._mirror, start), labels

    def _labeled(self, pictures: Iterator[Tensor], requests: Iterator[tuple[int, int]]) -> Iterator[Sequence[Tensor]]:
        """Decoded pictures of the expected reads with their classes, in host memory."""
        for images, (start, stop) in zip(pictures, requests, strict=False):
            yield images, self._labels[self._order.rows(start, stop)]

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 3, H, W]` in [-1, 1] and classes of rows of the sorted names (part of `Finite`).

        Raises:
            ConfigError: as `read`.
        """
        images = torch.stack([self._pictures[int(row)] for row in rows]).to(self._device)
        return normalize(images, self._dtype), self.classes(rows)

    def classes(self, rows: Tensor) -> Tensor:
        """Classes of rows of the sorted names (part of `Finite`)."""
        return self._labels[rows.cpu()].to(self._device)

    def state_hash(self) -> str:
        """SHA-256 by the rule of `ganscale.data.identity`, computed once (part of `Finite`)."""
        return self._state_hash()


def _find_channels(files: Files, names: Sequence[str], rules: Rules) -> int:
    """1 if all pictures are gray, otherwise 3."""
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


def open_folder(config: Config, device: torch.device, dtype: torch.dtype) -> FolderSource:
    """The pictures of a run.

    Args:
        config: the run.
        device: where batches go.
        dtype: of the images.
    """
    data, path = config.data, Path(config.data.path).expanduser()
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
    )


class _Requests:
    """Rows of each expected read, for the DataLoader."""

    def __init__(self, order: Order, requests: Callable[[], Iterator[tuple[int, int]]]) -> None:
        self._order, self._requests = order, requests

    def __iter__(self) -> Iterator[list[int]]:
        self._order.expect(self._requests)
        for start, stop in self._requests():
            yield self._order.rows(start, stop).tolist()
