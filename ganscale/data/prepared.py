"""A prepared set of pictures: uncompressed tar shards, a binary index of byte ranges, a manifest with checksums.

Files, all below one folder or prefix; the set is complete when its manifest exists, which is written last:

- `shard-00000.tar`, ...: `<number>.png` of the images' size, with classes each followed by `<number>.cls`, the
  convention of WebDataset; any tar program opens them.
- `index.bin`: a record `ROW` per picture, in the order of their numbers.
- `names.jsonl`: a line per picture, the name of its source as a JSON string.
- `manifest.json`: what `Manifest` has.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.config import ConfigError
from ganscale.config.datasets import Resolution, as_resolution
from ganscale.storage.store import BucketStore, LocalStore, Place, Store, StorePath

MANIFEST, INDEX, NAMES = "manifest.json", "index.bin", "names.jsonl"
FORMAT = "ganscale.prepared/1"
ROW = np.dtype([("shard", "<u4"), ("label", "<i4"), ("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")])
"""Of a picture: number of its shard, its class (0 without classes), its PNG's first byte and length, and its CRC-32."""
_PART = 8 * 2**20
_OPEN = 256
"""Shards that are open at a time."""
_checked: dict[tuple[str, str, str], np.ndarray] = {}
"""The index that this process has opened last, by place, version and SHA-256: a check and a run open it once."""


class DamagedError(ValueError):
    """What a prepared set holds is not what its index or manifest says."""


@dataclass(frozen=True)
class Shard:
    """One tar.

    Attributes:
        name: of the file.
        size: in bytes.
        sha256: of its content.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is known of a prepared set.

    Attributes:
        num_images: pictures in all shards.
        resolution: of each in pixels.
        channels: 1, 3 or 4.
        classes: their names, in the order of their numbers; empty without classes.
        rules: `fit`, `background`, `range` and `labels` by which the source was read.
        shards: the tars, in order.
        index_sha256: of `index.bin`.
        data_hash: SHA-256 of all pixels and classes in order; it does not depend on the size of the shards.
    """

    num_images: int
    resolution: Resolution
    channels: int
    classes: tuple[str, ...]
    rules: dict[str, Any]
    shards: tuple[Shard, ...]
    index_sha256: str
    data_hash: str

    def as_text(self) -> str:
        """As JSON."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n"

    @classmethod
    def from_text(cls, text: str) -> "Manifest":
        """From JSON.

        Args:
            text: of `manifest.json`.

        Raises:
            DamagedError: it is none, or of another version of the format.
        """
        try:
            content = json.loads(text)
            form = content.pop("format", None)
            if form == FORMAT:
                shards = tuple(Shard(**shard) for shard in content.pop("shards"))
                read = {"shards": shards, "classes": tuple(content["classes"])}
                return cls(**content | read | {"resolution": as_resolution(content["resolution"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedError(f"{MANIFEST} is damaged: {error}") from None
        raise DamagedError(f"{MANIFEST} has the format {form}; this version of ganscale reads {FORMAT}")


def store_of(place: Place) -> Store:
    """The objects below a folder or prefix.

    Args:
        place: the folder or prefix.
    """
    if isinstance(place, StorePath):
        return BucketStore(str(place)) if place.key else place.store
    return LocalStore(place)


def is_prepared(place: Place) -> bool:
    """Whether a folder or prefix holds a prepared set.

    Args:
        place: the folder or prefix.
    """
    if isinstance(place, Path):
        return (place / MANIFEST).is_file() and (place / INDEX).is_file()
    try:
        return bool(store_of(place).stat(MANIFEST))
    except FileNotFoundError:
        return False


class PreparedSet:
    """Pictures of a prepared set by row, each checked against its CRC-32. Forked processes may share it.

    Args:
        place: folder or prefix that holds the set.

    Raises:
        DamagedError: manifest, index and shards do not fit together; the message names the file.
        FileNotFoundError: there is no prepared set.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.store = place, store_of(place)
        self.is_remote = not isinstance(place, Path)
        self._descriptors: dict[str, int] = {}
        self.manifest = Manifest.from_text(self.store.get(MANIFEST)[0].decode())
        self.index = self._open_index()
        found = {entry.key: entry.size for entry in self.store.list()}
        for shard in self.manifest.shards:
            if found.get(shard.name) != shard.size:
                what = f"has {found[shard.name]:,} bytes" if shard.name in found else "is missing"
                raise DamagedError(f"{shard.name} {what}, {MANIFEST} has {shard.size:,}")

    def __len__(self) -> int:
        return self.manifest.num_images

    def read(self, row: int) -> bytes:
        """A picture's PNG, not yet checked.

        Args:
            row: its number.

        Raises:
            OSError: the storage does not answer.
        """
        shard, _, start, size, _ = self.index[row].tolist()
        name = self.manifest.shards[shard].name
        if self.is_remote:
            return self.store.read_range(name, start, start + size)
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            if len(self._descriptors) >= _OPEN:
                self.close()
            descriptor = self._descriptors[name] = os.open(f"{self.place}/{name}", os.O_RDONLY)
        return os.pread(descriptor, size, start)

    def close(self) -> None:
        """Close the shards that are open; `read` opens them when they are needed."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def checked(self, row: int, content: bytes) -> bytes:
        """The content, if it is what the index says.

        Args:
            row: number of the picture.
            content: what was read in its place.

        Raises:
            DamagedError: it is something else.
        """
        _, _, start, size, crc32 = self.index[row].tolist()
        if len(content) != size or zlib.crc32(content) != crc32:
            what = "its CRC-32 differs" if len(content) == size else "the shard ends before it does"
            place = f"{self.shard_name(row)}, {row:08d}.png at byte {start:,}"
            raise DamagedError(f"is damaged in {place}: {what}")
        return content

    def shard_name(self, row: int) -> str:
        """The shard that holds a picture.

        Args:
            row: number of the picture.
        """
        return self.manifest.shards[int(self.index[row]["shard"])].name

    def name(self, row: int) -> str:
        """The name that a picture's source had.

        Args:
            row: number of the picture.
        """
        return self.names()[row]

    def names(self) -> list[str]:
        """The names that the sources of all pictures had; they are read from storage at each call."""
        return [json.loads(line) for line in self.store.get(NAMES)[0].decode().splitlines()]

    def _open_index(self) -> np.ndarray:
        """The index as mapped memory: the file of a folder, or a copy of a bucket's that vanishes with the process."""
        manifest, digest = self.manifest, hashlib.sha256()
        version = (str(self.place), self.store.stat(INDEX).etag, manifest.index_sha256)
        if version in _checked:
            return _checked[version]
        size = manifest.num_images * ROW.itemsize
        with tempfile.TemporaryFile() as file:
            for start in range(0, size, _PART):
                part = self.store.read_range(INDEX, start, min(size, start + _PART))
                digest.update(part)
                if self.is_remote:
                    file.write(part)
            file.flush()
            if digest.hexdigest() != manifest.index_sha256:
                raise DamagedError(f"{INDEX} is not the one of {MANIFEST}: its SHA-256 differs")
            source: Any = file if self.is_remote else Path(str(self.place)) / INDEX
            index = np.asarray(np.memmap(source, ROW, "r", shape=(manifest.num_images,)))
        _checked.clear()
        _checked[version] = index
        return index


def data_hash(
    resolution: Resolution, channels: int, classes: Sequence[str], digests: np.ndarray, labels: np.ndarray
) -> str:
    """What identifies pictures and their classes, whatever the shards.

    Args:
        resolution: of the images in pixels.
        channels: of the images.
        classes: names of the classes.
        digests: SHA-256 of each image's pixels, uint8 `[n, 32]`.
        labels: class of each image, int `[n]`.
    """
    digest = hashlib.sha256(json.dumps([resolution, channels, list(classes)]).encode())
    digest.update(np.ascontiguousarray(digests, "u1").data)
    digest.update(np.ascontiguousarray(labels, "<i4").data)
    return digest.hexdigest()


def check_settings(found: Manifest, settings: dict[str, Any], path: str) -> None:
    """Refuse settings of a run by which the set was not prepared.

    Args:
        found: of the prepared set.
        settings: `resolution`, `channels`, `fit`, `background`, `range` and `labels` of the run's section `data`;
            None for those that it leaves at their defaults.
        path: `data.path`.

    Raises:
        ConfigError: for the first that differs.
    """
    have = {"resolution": found.resolution, "channels": found.channels} | found.rules
    for name, value in settings.items():
        is_open = value is None or (name == "labels" and value == "none")
        if not is_open and name in have and value != have[name]:
            wanted, found_one = (list(v) if isinstance(v, tuple) else v for v in (value, have[name]))
            option = f"--{name} {' '.join(map(str, wanted)) if isinstance(wanted, list) else wanted}"
            remedy = f"use {found_one}, or prepare the pictures once more with {option}"
            problem = f"the pictures of {path} were prepared with {found_one}"
            raise ConfigError(problem, key=f"data.{name}", value=wanted, remedy=remedy)
