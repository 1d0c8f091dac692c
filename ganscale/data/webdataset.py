"""The pictures of webdataset's tar shards, each one range of bytes; classes from `KEY.cls` or `KEY.json`.

The headers of a tar are read once; its index is kept in the cache of the user, by the place, size and time of the tar.
"""

import hashlib
import io
import json
import re
import tarfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from ganscale.data.files import (
    ARCHIVES,
    ENDINGS,
    LABELS_FILE,
    NO_ENDING,
    NOT_READ,
    SIDECARS,
    Files,
    Given,
    Listing,
    RangeFile,
    clean_name,
    ending_of,
    is_hidden,
    known_problem,
    open_at,
    refuse,
    shown_name,
    too_large,
)
from ganscale.data.pictures import IS_LFS_POINTER, LFS_POINTER, kind_of
from ganscale.data.prepared import ROW, store_of
from ganscale.storage.files import user_cache, write_bytes_atomically
from ganscale.storage.store import Place

FORMAT = 1
"""Of the kept index; one of another format is not used."""
JSON_LABELS = ("label", "cls", "class")
"""Names in `KEY.json` under which a class may stand."""
_PICTURES = ENDINGS | NOT_READ
_KNOWN = _PICTURES | SIDECARS | ARCHIVES
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LARGEST_TEXT = 2**20
_TAIL = 2**20
_READERS = 8
_BUFFER, _REMOTE_BUFFER, _WALK_BUFFER = 2**14, 2**18, 2**20
"""Bytes that are read at once: of a picture, of one in a bucket, and of a tar in a bucket for its index."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        name: cleaned.
        offset: its first byte in the tar.
        size: in bytes.
        problem: why it cannot be read; empty if nothing is known against it.
        label: what it says of classes: the text of a `.cls`, of a `.json` an object with some of `JSON_LABELS`.
    """

    name: str
    offset: int
    size: int
    problem: str = ""
    label: Any = None

    @property
    def ending(self) -> str:
        """Of the name, in lower case."""
        return ending_of(self.name)


def key_of(name: str) -> str:
    """What the files of one sample share: the name up to the first dot after its folders, by webdataset's rule.

    Args:
        name: of a file in a tar.
    """
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def walk_tar(file: IO[bytes]) -> list[Member]:
    """The visible files of a tar by its headers.

    Args:
        file: the tar, at its beginning.

    Raises:
        ValueError: it is damaged, incomplete or compressed.
    """
    beginning = file.read(64)
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            raise ValueError(f"is compressed ({name}): unpack it, as single pictures cannot be read from it")
    if beginning.startswith(LFS_POINTER):
        raise ValueError(IS_LFS_POINTER)
    if not beginning:
        raise ValueError("is empty")
    file.seek(0)
    members: list[Member] = []
    seen: set[str] = set()
    try:
        archive = tarfile.TarFile(fileobj=file, mode="r")
        last = -1
        while (entry := archive.next()) is not None:
            if archive.offset <= last:
                raise ValueError("is damaged: its headers lead back")
            last = archive.offset
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # else all are kept
            name = clean_name(entry.name)
            if entry.isdir() or any(map(is_hidden, name.split("/"))):
                continue
            members.append(_member(file, name, entry, is_known=name in seen))
            seen.add(name)
    except (tarfile.TarError, OverflowError, UnicodeError) as error:
        raise ValueError(f"is no tar, damaged or incomplete: {error}") from None
    _check_end(file, archive.offset)
    return members


def _member(file: IO[bytes], name: str, entry: tarfile.TarInfo, *, is_known: bool) -> Member:
    problem = ""
    if entry.issym() or entry.islnk():
        problem = "is a link; make the tar with --dereference --hard-dereference"
    elif not entry.isfile():
        problem = "is no regular file"
    elif entry.issparse():
        problem = "is stored as a sparse file; make the tar without --sparse"
    elif is_known:
        problem = "stands in the tar twice"
    found = Member(name, entry.offset_data, entry.size, problem)
    if problem:
        return found
    ending, label = found.ending, None
    if ending in (".cls", ".json"):
        if entry.size > _LARGEST_TEXT:
            problem = f"has {entry.size:,} bytes, too many for a class"
        else:
            label, problem = _read_label(_read(file, found), ending)
    elif ending not in _KNOWN and kind_of(_read(file, found, 16)):
        problem = NO_ENDING
    return Member(name, found.offset, found.size, problem, label)


def _read(file: IO[bytes], member: Member, size: int | None = None) -> bytes:
    """A member's content, or its beginning; the position in the file stays."""
    at = file.tell()
    file.seek(member.offset)
    content = file.read(member.size if size is None else min(size, member.size))
    file.seek(at)
    return content


def _read_label(content: bytes, ending: str) -> tuple[Any, str]:
    """What a file says of classes, and why it cannot be read."""
    try:
        text = content.decode("utf-8-sig")
        if ending == ".cls":
            return (text.strip(), "") if text.strip() else (None, "is empty: it must hold a class")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, f"cannot be read: {error}"
    return ({name: found[name] for name in JSON_LABELS if name in found} if isinstance(found, dict) else {}), ""


def _check_end(file: IO[bytes], end: int) -> None:
    """Refuse a tar that does not end with empty blocks, and one that holds more after them."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise ValueError("is incomplete: it lacks the empty blocks of a tar's end")
    if any(block):
        raise ValueError(f"is damaged at byte {end:,}: there is no header")
    while block := file.read(_TAIL):
        if any(block):
            raise ValueError(f"holds more after its end at byte {end:,}; tars that were joined must be taken apart")


class TarFiles(Files):
    """The pictures of tar shards, called SHARD/NAME.

    Args:
        path: `data.path`, for messages.
        base: the folder or prefix that holds the shards.
        shards: their names below it, sorted.
        others: names of files beside them.

    Attributes:
        index: records of `ROW` of the pictures in the order of their names, without class and CRC-32.
        store: of the shards.

    Raises:
        ValueError: a tar is damaged.
    """

    def __init__(self, path: Place, base: Place, shards: Sequence[str], others: Sequence[str] = ()) -> None:
        self.path, self.shards, self.store = path, list(shards), store_of(base)
        self._listing = Listing(others=[name for name in others if not _is_index(name)])
        self._labels: dict[str, Member] = {}
        found: list[tuple[str, int, Member]] = []
        counts: dict[str, int] = {}
        with ThreadPoolExecutor(_READERS) as pool:
            for number, (shard, members) in enumerate(
                zip(shards, pool.map(partial(_attempt, base), shards), strict=True)
            ):
                if isinstance(members, str):
                    self._listing.problems.append((shard, members))
                    continue
                pictures = self._sort(shard, members)
                counts[shard] = len(pictures)
                found += [(f"{shard}/{picture.name}", number, picture) for picture in pictures]
        self._listing.problems.extend(_compared(base, shards, others, counts))
        found.sort(key=lambda each: each[0])
        self._names = [name for name, _, _ in found]
        self.index = np.array([(number, 0, each.offset, each.size, 0) for _, number, each in found], ROW)

    def _sort(self, shard: str, members: Sequence[Member]) -> list[Member]:
        """The readable pictures of a shard; what cannot be read, or may name a class, is noted."""
        pictures: dict[str, Member] = {}
        sidecars: dict[str, list[tuple[str, str]]] = {}
        problems: list[tuple[str, str]] = []
        for member in members:
            ending, key = member.ending, key_of(member.name)
            if ending in _PICTURES or member.problem == NO_ENDING:
                first = pictures.setdefault(key, member)
                problem = member.problem or known_problem(member.name) or too_large(member.size)
                if first is not member and not problem:
                    problem = f"is a second picture of the key {shown_name(key)}, which ends at the first dot"
                if problem:
                    problems.append((member.name, problem))
            elif member.name.rpartition("/")[2] == LABELS_FILE:
                self._listing.labels.append(f"{shard}/{member.name}")
                self._labels[f"{shard}/{member.name}"] = member
            elif member.problem and not ending:
                problems.append((member.name, member.problem))
            else:
                sidecars.setdefault(ending, []).append((key, member.name))
                if ending in (".cls", ".json") and (member.label or member.problem):
                    place = f"{shard}/{key}{ending}"
                    if place in self._labels:
                        member = replace(member, problem="is one of several of its key")
                    self._labels[place] = member
        for ending, found in sidecars.items():
            alone = [name for key, name in found if key not in pictures]
            if ending == ".cls" or (ending and len(alone) < len(found)):
                problems.extend((name, "stands alone: its key has no picture") for name in alone)
            else:
                self._listing.others.extend(f"{shard}/{name}" for name in alone)
        if not pictures:
            self._listing.problems.append((shard, "holds no picture"))
        self._listing.problems.extend((f"{shard}/{name}", problem) for name, problem in problems)
        bad = {name for name, _ in problems}
        return [picture for picture in pictures.values() if picture.name not in bad]

    def listing(self) -> Listing:
        """The pictures by name (part of `Files`)."""
        return Listing(
            list(self._names), list(self._listing.problems), list(self._listing.labels), list(self._listing.others)
        )

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every picture's name (part of `Files`)."""
        yield from ((name, "") for name in self._names)
        yield from self._listing.problems

    def _row(self, name: str) -> int:
        row = bisect_left(self._names, name)
        if row == len(self._names) or self._names[row] != name:
            raise FileNotFoundError(f"no such picture: {name}")
        return row

    def open(self, name: str) -> IO[bytes]:
        """A picture, read by ranges (part of `Files`)."""
        if name in self._listing.labels:
            member, shard = self._labels[name], next(shard for shard in self.shards if name.startswith(f"{shard}/"))
            start, size = member.offset, member.size
        else:
            row = self._row(name)
            shard, (_, _, start, size, _) = self.shard_name(row), self.index[row].tolist()
        ranges = RangeFile(lambda a, b: self.store.read_range(shard, start + a, start + b), size)
        return io.BufferedReader(ranges, _BUFFER if isinstance(self.path, Path) else _REMOTE_BUFFER)

    def size(self, name: str) -> int:
        """Of a picture in bytes (part of `Files`)."""
        if name in self._listing.labels:
            return self._labels[name].size
        return int(self.index[self._row(name)]["size"])

    def shard_name(self, row: int) -> str:
        """The shard that holds a picture.

        Args:
            row: place of the picture among the sorted names.
        """
        return self.shards[int(self.index[row]["shard"])]

    def inner_name(self, name: str) -> str:
        """A picture's name in its tar (part of `Files`)."""
        return name[len(self.shard_name(self._row(name))) + 1 :]

    def labels(self) -> Given | None:
        """From the `.cls` files if there are any, otherwise from the `.json` files that name a class."""
        keys = [key_of(name[len(shard) + 1 :]) for name, shard in self._in_shards()]
        places = [f"{shard}/{key}" for key, (_, shard) in zip(keys, self._in_shards(), strict=True)]
        ending = ".cls"
        if not any(place.endswith(ending) for place in self._labels):
            ending = ".json"
        found = [self._labels.get(place + ending) for place in places]
        fields = {field for member in found if member and ending == ".json" for field in member.label or ()}
        if ending == ".json" and not fields:
            return None
        if len(fields) > 1:
            remedy = "name classes in one way, or set data.labels=top, path or none"
            refuse(self.path, [(".json", f"files name classes as {' and as '.join(sorted(fields))}")], remedy=remedy)
        field = next(iter(fields), "")
        values: dict[str, Any] = {}
        problems = []
        for name, member in zip(self._names, found, strict=True):
            if member and member.problem:
                problems.append((name, f"has no class, as its {ending} {member.problem}"))
            elif not member or (field and field not in member.label):
                problems.append((name, f"has no {ending} beside it" + (f" with {field}" if field else "")))
            values[name] = None if not member or member.problem else _value(member.label, field)
        return Given(values, problems)

    def _in_shards(self) -> Iterator[tuple[str, str]]:
        """The name of every picture with its shard's."""
        return zip(self._names, (self.shards[number] for number in self.index["shard"].tolist()), strict=True)


def _value(label: Any, field: str) -> Any:
    """The class that a `.cls` or a field of a `.json` names."""
    if field:
        return label.get(field)
    return int(label) if re.fullmatch(r"[+-]?\d{1,18}", label, re.ASCII) else label


def _is_index(name: str) -> bool:
    """Whether it is the index that wids or webdataset's tools write beside shards."""
    return PurePosixPath(name).name == "index.json" or name.endswith((".index", ".idx"))


def _attempt(base: Place, shard: str) -> list[Member] | str:
    """The members of a tar, or why they cannot be listed."""
    try:
        return _kept_members(base, shard)
    except ValueError as error:
        return str(error)
    except OSError as error:
        if not isinstance(base, Path):
            raise  # the storage fails, not the tar
        return f"cannot be read: {error.strerror or error}"


def _kept_members(base: Place, shard: str) -> list[Member]:
    """The members of a tar, from the user's cache if they are there."""
    entry = store_of(base).stat(shard)
    place = base.resolve() if isinstance(base, Path) else base
    key = hashlib.sha256(repr((FORMAT, str(place), shard, entry.size, entry.etag)).encode()).hexdigest()
    kept = user_cache("indexes") / f"{key}.json"
    with suppress(OSError, ValueError, TypeError):
        return [Member(*each) for each in json.loads(kept.read_bytes())]
    with open_at(base / shard, _WALK_BUFFER) as file:
        members = walk_tar(file)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(kept, json.dumps([astuple(member) for member in members]).encode())
    return members


def _compared(
    base: Place, shards: Sequence[str], others: Sequence[str], counts: dict[str, int]
) -> list[tuple[str, str]]:
    """What an `index.json` of wids says otherwise than the tars."""
    problems: list[tuple[str, str]] = []
    for name in others:
        if PurePosixPath(name).name != "index.json":
            continue
        with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            content = json.loads(store_of(base).get(name)[0])
            if not isinstance(content, dict) or "shardlist" not in content:
                continue
            folder = name.removesuffix("index.json")
            for each in content["shardlist"]:
                shard = folder + str(each["url"]).rpartition("/")[2]
                if shard not in shards:
                    problems.append((shard, f"is listed in {name}, but is not there"))
                elif shard in counts and "nsamples" in each and each["nsamples"] != counts[shard]:
                    problems.append((shard, f"has {counts[shard]:,} pictures, {name} says {each['nsamples']:,}"))
    return problems
