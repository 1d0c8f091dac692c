"""Files that a crash leaves whole, and files that must not be links."""

import os
import uuid
from pathlib import Path
from typing import Any, Protocol, TextIO


class Writable(Protocol):
    """A path, or an object in a bucket."""

    def write_text(self, text: str, /) -> Any:
        """Write a whole text."""
        ...


def user_cache(name: str) -> Path:
    """A folder of what can be computed once more: in GANSCALE_CACHE, or in ~/.cache/ganscale.

    Args:
        name: of the folder.
    """
    return Path(os.environ.get("GANSCALE_CACHE") or Path("~/.cache/ganscale")).expanduser() / name


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until the storage holds it.

    Args:
        path: of the file.
        content: all of it.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the storage holds a folder's list of names.

    Args:
        path: of the folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Writable, text: str) -> None:
    """Replace a text file as a whole: no reader ever sees half of it.

    Args:
        path: of the file, or an object in a bucket.
        text: all of it.

    Raises:
        OSError: the storage refuses; the old file stays.
    """
    if isinstance(path, Path):
        write_bytes_atomically(path, text.encode())
    else:
        path.write_text(text)


def write_bytes_atomically(path: Path, content: bytes | memoryview) -> None:
    """Replace a file as a whole: no reader ever sees half of it.

    Args:
        path: of the file.
        content: all of it.

    Raises:
        OSError: the storage refuses; the old file stays.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        write_synced(aside, content)
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def open_for_append(path: Path) -> TextIO:
    """Open a text file to append to, but not through a symbolic link, which may lead anywhere.

    Args:
        path: of the file; made if it does not exist.

    Raises:
        OSError: it is a link, or cannot be written.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return open(path, "a+", encoding="utf-8", opener=opener)
