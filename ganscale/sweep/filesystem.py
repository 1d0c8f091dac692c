"""A place in a bucket as a file system of pyarrow, for the files that Ray Tune keeps of a sweep."""

import io
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from ganscale.storage.store import Entry, Store, StorePath


def file_system(place: StorePath) -> PyFileSystem:
    """The objects of a place's store as files, whose paths are keys.

    Args:
        place: In the bucket.
    """
    return PyFileSystem(_Handler(place.store))


class _Handler(FileSystemHandler):
    """A store as pyarrow wants it; folders are there as soon as objects lie below them (pyarrow's protocol).

    Args:
        store: Holds the objects.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Handler) and self._store.place == other._store.place

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._store.place)

    def __reduce__(self) -> tuple[type["_Handler"], tuple[Store]]:
        return _Handler, (self._store,)

    def get_type_name(self) -> str:
        return "ganscale"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        try:
            return _file(self._store.stat(path))
        except FileNotFoundError:
            return FileInfo(path, FileType.Directory if self._store.list(path) else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        base = selector.base_dir.rstrip("/")
        entries = self._store.list(base)
        if not entries and not selector.allow_not_found:
            raise FileNotFoundError(base)
        found = {}
        for entry in entries:
            for folder in _parents(entry.key, base):
                found[folder] = FileInfo(folder, FileType.Directory)
            found[entry.key] = _file(entry)
        return [info for path, info in found.items() if selector.recursive or posixpath.dirname(path) == base]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a store has no folders."""

    def delete_dir(self, path: str) -> None:
        StorePath(self._store, path).delete_all()

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("the whole store is not Ray's")

    def delete_file(self, path: str) -> None:
        self._store.delete(path)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self._store.delete(src)

    def copy_file(self, src: str, dest: str) -> None:
        self._store.put(dest, self._store.get(src)[0])

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        return pyarrow.BufferReader(self._store.get(path)[0])

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        return pyarrow.PythonFile(_Upload(self._store, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        raise NotImplementedError("objects do not grow")


class _Upload(io.BytesIO):
    """A file that is uploaded when it is closed."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__()
        self._store, self._key = store, key

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()  # first: what failed is not repeated when the object is deleted
            self._store.put(self._key, content)


def _file(entry: Entry) -> FileInfo:
    return FileInfo(entry.key, FileType.File, size=entry.size, mtime=entry.modified)


def _parents(key: str, base: str) -> Iterator[str]:
    """The folders between a base and a key."""
    folder = posixpath.dirname(key)
    while len(folder) > len(base):
        yield folder
        folder = posixpath.dirname(folder)
