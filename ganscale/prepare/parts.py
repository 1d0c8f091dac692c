"""Shards as they are written, each with a part file that holds its records: an interrupted conversion continues."""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ganscale.data.prepared import ROW, Shard
from ganscale.prepare.examine import Examined
from ganscale.storage.store import Store

PARTS = "parts"
_HEADER = 512


@dataclass(frozen=True)
class Part:
    """A shard's records.

    Attributes:
        shard: its file; None for a last part without a picture.
        first: place of its first picture in the sorted source.
        following: place after its last one.
        rows: records of `ROW`, `[n]`.
        digests: SHA-256 of the pixels, uint8 `[n, 32]`.
        thumbs: uint8 `[n, 72]`.
        sums: of each channel, int64 `[C]`.
        squares: of each channel, int64 `[C]`.
        names: of the pictures' sources, `[n]`.
        bad: names of pictures that cannot be read, with the reasons.
    """

    shard: Shard | None
    first: int
    following: int
    rows: np.ndarray
    digests: np.ndarray
    thumbs: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    names: list[str]
    bad: list[tuple[str, str]]

    def as_bytes(self) -> bytes:
        """As a file."""
        buffer, shard = io.BytesIO(), self.shard
        facts = [[shard.name, shard.size, shard.sha256] if shard else None, self.first, self.following]
        arrays = {name: getattr(self, name) for name in ("rows", "digests", "thumbs", "sums", "squares")}
        text = json.dumps([facts, self.names, self.bad]).encode()
        np.savez(buffer, text=np.frombuffer(text, np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Part":
        """From a file.

        Args:
            content: of the file.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        (shard, first, following), names, bad = json.loads(arrays.pop("text").tobytes())
        pairs = [(name, reason) for name, reason in bad]
        return cls(Shard(*shard) if shard else None, first, following, **arrays, names=names, bad=pairs)


def part_key(number: int) -> str:
    """Of a part file.

    Args:
        number: of the part.
    """
    return f"{PARTS}/{number:05d}.npz"


def write_shards(
    store: Store,
    examined: Iterable[Examined],
    labels: Sequence[int] | None,
    *,
    channels: int,
    shard_size: int,
    number: int,
    first: int,
    first_row: int,
) -> Iterator[Part]:
    """Write pictures into shards, and after each shard its part file.

    Args:
        store: of the result.
        examined: the pictures from `first` on.
        labels: class of every picture of the source; None without classes.
        channels: of the images.
        shard_size: bytes at which a shard ends.
        number: of the next shard.
        first: place of the first picture in the sorted source.
        first_row: its number among the readable ones.
    """
    shard = _Writer(number, first, first_row, channels, has_classes=labels is not None)
    for place, picture in enumerate(examined, first):
        shard.add(picture, labels[place] if labels is not None else 0)
        if shard.tell() >= shard_size:
            yield shard.write(store)
            shard = _Writer(
                shard.number + 1, place + 1, shard.first_row + len(shard.rows), channels, has_classes=labels is not None
            )
    if shard.rows or shard.bad:
        yield shard.write(store)


class _Writer:
    """A shard in memory."""

    def __init__(self, number: int, first: int, first_row: int, channels: int, *, has_classes: bool) -> None:
        self.number, self.first, self.first_row, self.has_classes = number, first, first_row, has_classes
        self.rows: list[tuple[int, int, int, int, int]] = []
        self.bad: list[tuple[str, str]] = []
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (`write` closes it)
        self._digests, self._thumbs, self._names = bytearray(), bytearray(), []
        self._sums, self._squares = np.zeros((2, channels), np.int64)

    def tell(self) -> int:
        """Bytes so far."""
        return self._buffer.tell()

    def add(self, picture: Examined, label: int) -> None:
        """Append a picture, or note that it is bad."""
        if picture.problem:
            self.bad.append((picture.name, picture.problem))
            return
        key = f"{self.first_row + len(self.rows):08d}"
        offset = self._buffer.tell() + _HEADER
        self._append(f"{key}.png", picture.content)
        if self.has_classes:
            self._append(f"{key}.cls", str(label).encode())
        self.rows.append((self.number, label, offset, len(picture.content), zlib.crc32(picture.content)))
        self._digests += picture.digest
        self._thumbs += picture.thumb
        self._names.append(picture.name)
        self._sums += picture.sums
        self._squares += picture.squares

    def _append(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def write(self, store: Store) -> Part:
        """Write the shard, then its part."""
        self._tar.close()
        shard, content = None, self._buffer.getbuffer()
        if self.rows:
            shard = Shard(f"shard-{self.number:05d}.tar", len(content), hashlib.sha256(content).hexdigest())
            store.put(shard.name, content)
        part = Part(
            shard,
            self.first,
            self.first + len(self.rows) + len(self.bad),
            np.array(self.rows, ROW),
            np.frombuffer(bytes(self._digests), np.uint8).reshape(-1, 32),
            np.frombuffer(bytes(self._thumbs), np.uint8).reshape(-1, 72),
            self._sums,
            self._squares,
            self._names,
            self.bad,
        )
        store.put(part_key(self.number), part.as_bytes())
        return part
