"""The files of a folder or zip by name: which are pictures, which are left out by rule, which are refused."""

import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from ganscale.config import ConfigError
from ganscale.data.pictures import MAX_PIXELS, NEEDS_AVIF, NEEDS_HEIF, has_avif, has_heif, kind_of
from ganscale.storage.store import Place, StorePath

ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
NOT_READ = frozenset(
    {".apng", ".dcm", ".dds", ".eps", ".exr", ".hdr", ".hif", ".icns", ".ico", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl"}
    | {".mpo", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".svgz", ".tga", ".xcf"}
    | {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"}
)
"""Endings of pictures that are refused: leaving them out would change the data set without a word."""
SIDECARS = frozenset(
    {".aae", ".csv", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".parquet", ".tsv", ".txt", ".xml"}
    | {".xmp", ".yaml", ".yml"}
)
"""Endings of texts beside pictures, which are not opened."""
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".npy", ".npz"})
IGNORED = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})
"""Names that systems leave behind; those that begin with a dot are left out, too."""
LABELS_FILE = "dataset.json"
NO_ENDING = "is a picture without a picture's ending; rename it"
MAX_BYTES = 4 * MAX_PIXELS
"""Of a picture's file or zip entry, uncompressed."""
_SHOWN = 5
_BUFFER = 1 << 18
"""Bytes that are read at once of a zip in a bucket."""


class Files(Protocol):
    """The files below `data.path`; names are relative to it, with slashes."""

    path: Place

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every file's name, and why it cannot be read ("" if nothing is known against it).

        Raises:
            ValueError: a folder cannot be listed, or links lead in a circle.
        """
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file, open for reading.

        Raises:
            ValueError: it is too large.
        """
        ...

    def size(self, name: str) -> int:
        """Of a file in bytes."""
        ...

    def checksum(self, name: str) -> str:
        """Of a file's content, where it is known without reading it; otherwise empty."""
        return ""

    def unit(self, name: str) -> str:
        """What is read at once with a file: the file, or what holds others, too."""
        return name

    def inner_name(self, name: str) -> str:
        """A picture's name with the folders that may be its class, without the shard that holds it."""
        return name

    def listing(self) -> "Listing | None":
        """The pictures, where they are not found by the names of files."""
        return None

    def labels(self) -> "Given | None":
        """The classes that stand beside the pictures; None if there are none, so that folders count.

        Raises:
            ConfigError: it is in doubt which they are.
        """
        return None


@dataclass(frozen=True)
class Given:
    """Classes as the files have them.

    Attributes:
        values: a number, a name or a one-hot vector by the picture's name.
        problems: names of pictures without a class that can be read, with the reasons.
        names: of classes 0, 1, ..., where the files have them; otherwise empty.
    """

    values: Mapping[str, Any]
    problems: Sequence[tuple[str, str]] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What lies below `data.path`.

    Attributes:
        pictures: names of the pictures, sorted.
        problems: names of what must not be left out and cannot be read, with the reasons.
        labels: names of files called `dataset.json`.
        others: names of all other files; they are left out.
    """

    pictures: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class FolderFiles(Files):
    """The files of a folder, at any depth; links are followed.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, path

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every visible file's name with what is known against it (part of `Files`)."""
        waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while waiting:
            folder, above = waiting.pop()
            try:
                found = os.stat(self._root / folder)
                entries = sorted(os.scandir(self._root / folder), key=lambda entry: entry.name)
            except OSError as error:
                raise ValueError(f"cannot list the folder {shown_name(folder)}: {error.strerror}") from None
            identity = (found.st_dev, found.st_ino)
            if identity in above:
                raise ValueError(f"the link {shown_name(folder)} leads back to a folder that holds it")
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    waiting.append((name, above | {identity}))
                elif entry.is_file():
                    yield name, ""
                else:
                    yield name, "is a link to nothing" if entry.is_symlink() else "is no regular file"

    def open(self, name: str) -> IO[bytes]:
        """A file (part of `Files`)."""
        file = (self._root / name).open("rb")
        try:
            check_size(os.fstat(file.fileno()).st_size)
        except ValueError:
            file.close()
            raise
        return file

    def size(self, name: str) -> int:
        """Of a file in bytes (part of `Files`)."""
        return (self._root / name).stat().st_size


class StoreFiles(Files):
    """The objects below a prefix of a bucket.

    Args:
        path: the prefix.
    """

    def __init__(self, path: StorePath) -> None:
        self.path = path
        start = len(path.key) + 1 if path.key else 0
        self._sizes = {entry.key[start:]: entry.size for entry in path.store.list(path.key)}

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every visible object's name with what is known against it (part of `Files`)."""
        for name in self._sizes:
            if not any(is_hidden(part) for part in PurePosixPath(name).parts):
                yield name, ""

    def open(self, name: str) -> IO[bytes]:
        """An object (part of `Files`)."""
        check_size(self._sizes[name])
        return io.BytesIO((self.path / name).read_bytes())

    def size(self, name: str) -> int:
        """Of an object in bytes (part of `Files`)."""
        return self._sizes[name]


class RangeFile(io.RawIOBase):
    """Bytes that are read by ranges, as a file.

    Args:
        read_range: gives bytes `start` to `stop - 1`.
        size: number of bytes.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range, self._size, self._at = read_range, size, 0

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte; return its number."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer by one request; return the number of bytes."""
        stop = min(self._size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        content = self._read_range(self._at, stop)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def open_at(place: Place, buffer: int = _BUFFER) -> IO[bytes]:
    """A file, or an object of a bucket as a file that is read by ranges as they are needed.

    Args:
        place: of the file or object.
        buffer: bytes that one request to a bucket reads at least.
    """
    if isinstance(place, Path):
        return place.open("rb")
    return io.BufferedReader(RangeFile(partial(place.store.read_range, place.key), place.entry().size), buffer)


class ZipFiles(Files):
    """The files of a zip.

    Args:
        path: of the zip, in a folder or a bucket.

    Raises:
        ValueError: its directory is damaged.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._process = 0
        try:
            self._names = {clean_name(entry.filename): entry.filename for entry in self._opened().infolist()}
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise ValueError(f"the zip is damaged or incomplete: {error}") from None

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None or self._process != os.getpid():  # a forked process would share the file's position
            self._archive, self._process = (
                zipfile.ZipFile(self.path if isinstance(self.path, Path) else open_at(self.path)),
                os.getpid(),
            )
        return self._archive

    def walk(self) -> Iterator[tuple[str, str]]:
        """Every visible entry's name with what is known against it (part of `Files`)."""
        seen = set()
        for entry in self._opened().infolist():
            name = clean_name(entry.filename)
            if entry.is_dir() or any(is_hidden(part) for part in PurePosixPath(name).parts):
                continue
            problem = ""
            if entry.flag_bits & 0x1:
                problem = "is encrypted"
            elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile bounds no other
                problem = "is neither stored nor deflated"
            elif stat.S_ISLNK(entry.external_attr >> 16):
                problem = "is a link; make the zip without --symlinks"
            elif name in seen:
                problem = "stands in the zip twice"
            seen.add(name)
            yield name, problem

    def open(self, name: str) -> IO[bytes]:
        """A file (part of `Files`)."""
        entry = self._opened().getinfo(self._names[name])
        check_size(entry.file_size)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("is neither stored nor deflated")
        return self._opened().open(entry)

    def size(self, name: str) -> int:
        """Of a file in bytes, uncompressed (part of `Files`)."""
        return self._opened().getinfo(self._names[name]).file_size

    def checksum(self, name: str) -> str:
        """CRC-32 of a file's content, from the zip's directory (part of `Files`)."""
        return f"{self._opened().getinfo(self._names[name]).CRC:08x}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}


def list_files(files: Files) -> Listing:
    """Sort the files below `data.path` into pictures, problems and others.

    Args:
        files: of a folder, a zip or shards.

    Raises:
        ValueError: there is no picture, or a folder cannot be listed.
    """
    listing = files.listing() or _list_by_name(files)
    listing.pictures.sort()
    if not listing.pictures and not listing.problems:
        others = sorted(listing.others, key=lambda name: PurePosixPath(name).suffix.lower() not in ARCHIVES)
        hint = f"; it holds {shown_name(others[0])}: unpack an archive, or name a zip itself" if others else ""
        raise ValueError(f"no picture ({', '.join(sorted(ENDINGS))}) in {files.path}{hint}")
    return listing


def known_problem(name: str) -> str:
    """Why a picture cannot be read by its ending; empty if nothing is known against it.

    Args:
        name: of the file.
    """
    ending = ending_of(name)
    if ending in (".heic", ".heif") and not has_heif():
        return NEEDS_HEIF
    if ending == ".avif" and not has_avif():
        return NEEDS_AVIF
    return f"{ending} is not read; convert it to PNG or JPEG" if ending in NOT_READ else ""


def _list_by_name(files: Files) -> Listing:
    listing = Listing()
    for name, problem in files.walk():
        pure = PurePosixPath(name)
        ending = pure.suffix.lower()
        problem = problem or known_problem(name)
        is_meant = ending in ENDINGS | NOT_READ or pure.name == LABELS_FILE
        if not is_meant and not problem and ending not in SIDECARS | ARCHIVES and _is_picture(files, name):
            is_meant, problem = True, NO_ENDING
        if is_meant and problem:
            listing.problems.append((name, problem))
        elif ending in ENDINGS:
            listing.pictures.append(name)
        elif pure.name == LABELS_FILE:
            listing.labels.append(name)
        else:
            listing.others.append(name)
    return listing


def refuse(path: Place, problems: Sequence[tuple[str, str]], key: str = "data.path", remedy: str = "") -> None:
    """Raise an error that names the files and the reasons, if there are any.

    Args:
        path: `data.path`.
        problems: names with reasons.
        key: of the setting to change.
        remedy: what to do; by default with the files.

    Raises:
        ConfigError: there are problems.
    """
    if not problems:
        return
    lines = [f"{shown_name(name)} {reason}" for name, reason in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN:,} more")
    remedy = remedy or "repair, convert or remove what is named, or name another folder or zip"
    raise ConfigError("\n  ".join(lines), key=key, value=str(path), remedy=remedy)


def read(files: Files, name: str) -> bytes:
    """The content of a file: never more than its stated size, nor than `MAX_BYTES`.

    Args:
        files: of a folder or zip.
        name: of the file.

    Raises:
        ValueError: it is too large.
    """
    size = files.size(name)
    with files.open(name) as file:
        return file.read(size)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out by rule.

    Args:
        name: without its folders.
    """
    return name in IGNORED or (name.startswith(".") and name not in (".", ".."))


def shown_name(name: str) -> str:
    """A file's name for a message: escaped where a terminal could not show it.

    Args:
        name: as the system has it.
    """
    return name if name.isprintable() else ascii(name)


def ending_of(name: str) -> str:
    """A file's ending in lower case, with its dot; as `pathlib`'s suffix, but quick.

    Args:
        name: with or without folders.
    """
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending}".lower() if stem and dot and ending else ""


def clean_name(name: str) -> str:
    """An archive's entry's name with slashes, relative: some programs write backslashes, or ./ in front.

    Args:
        name: as the archive has it.
    """
    name = name.replace("\\", "/").lstrip("/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _is_picture(files: Files, name: str) -> bool:
    try:
        with files.open(name) as file:
            return bool(kind_of(file.read(16)))
    except (OSError, ValueError):
        return False


def check_size(size: int) -> None:
    """Refuse a picture's file that is too large.

    Args:
        size: in bytes.

    Raises:
        ValueError: it is.
    """
    if problem := too_large(size):
        raise ValueError(problem)


def too_large(size: int) -> str:
    """Why a picture's file of a size is refused; empty if it is not.

    Args:
        size: in bytes.
    """
    return f"has {size:,} bytes, more than {MAX_BYTES:,}" if size > MAX_BYTES else ""
