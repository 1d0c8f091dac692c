"""Objects by key in a local folder or a bucket: the same few operations, with the same guarantees, on either.

Keys are relative paths with "/". A write is there whole or not at all. `create` and `replace` are atomic among all
clients of the storage: of several that create a key, or replace the same version of it, one succeeds.

Buckets are used through obstore. Endpoint, region and credentials come from the environment (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...), never from a URI.
"""

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from ganscale.config import ConfigError
from ganscale.storage.files import sync_folder, write_synced

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_WEB_IDENTITY_TOKEN_FILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a workload identity",
}
"""Schemes of buckets, and where their credentials come from."""
DEADLINE = 120.0
"""Seconds for which a failed request is repeated."""
PART = 8 * 2**20
"""Bytes above which objects travel in parts."""
_LONGEST = 10.0
"""Seconds between two tries, at most."""
_REFUSED = re.compile(
    r"ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|"
    r"40[13] (Unauthorized|Forbidden)"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist")

T = TypeVar("T")


class ChangedError(OSError):
    """An object is no longer the version that was to be replaced."""


class StorageAccessError(PermissionError):
    """The storage refuses the credentials, or they have expired."""


@dataclass(frozen=True)
class Entry:
    """What a store knows of an object without reading it.

    Attributes:
        key: of the object.
        size: in bytes.
        modified: seconds since the epoch, by the storage's clock.
        etag: names this version of the object; to be given back to `replace`.
    """

    key: str
    size: int
    modified: float
    etag: str


class Store(Protocol):
    """Objects by key. All methods raise `OSError` where the storage fails."""

    place: str
    """For messages: the folder, or the URI."""

    def get(self, key: str) -> tuple[bytes, str]:
        """An object's content and etag.

        Args:
            key: of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop - 1` of an object.

        Args:
            key: of the object.
            start: first byte.
            stop: byte after the last; what lies beyond the object's end is missing in the result.

        Raises:
            FileNotFoundError: there is no such object.
        """
        ...

    def stat(self, key: str) -> Entry:
        """What is known of an object without reading it.

        Args:
            key: of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def put(self, key: str, content: bytes | memoryview) -> str:
        """Write an object, in place of an earlier one if there is one; return its etag.

        Args:
            key: of the object.
            content: all of it.
        """
        ...

    def create(self, key: str, content: bytes) -> str:
        """Write an object that must not exist; return its etag.

        Args:
            key: of the object.
            content: all of it.

        Raises:
            FileExistsError: it exists.
        """
        ...

    def replace(self, key: str, content: bytes, etag: str) -> str:
        """Replace one version of an object; return the new version's etag.

        Args:
            key: of the object.
            content: all of it.
            etag: of the version to replace.

        Raises:
            ChangedError: it was replaced or deleted meanwhile.
        """
        ...

    def delete(self, key: str) -> None:
        """Delete an object, if there is one.

        Args:
            key: of the object.
        """
        ...

    def list(self, prefix: str = "") -> list[Entry]:
        """All objects below a prefix, by key.

        Args:
            prefix: whole parts of a key, e.g. "checkpoints"; empty for all.
        """
        ...

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Names one level below a prefix, in order, that have objects below them.

        Args:
            prefix: whole parts of a key; empty for the store itself.
        """
        ...


class LocalStore:
    """Files below a folder. A write is synced, then renamed into its place.

    Args:
        path: of the folder; made when the first object is written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def get(self, key: str) -> tuple[bytes, str]:
        """Read a file (part of `Store`)."""
        with (self.path / key).open("rb") as file:
            return file.read(), _file_etag(os.fstat(file.fileno()))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read a part of a file (part of `Store`)."""
        with (self.path / key).open("rb") as file:
            return os.pread(file.fileno(), stop - start, start)

    def stat(self, key: str) -> Entry:
        """Look at a file (part of `Store`)."""
        path = self.path / key
        stat = path.stat()
        if S_ISDIR(stat.st_mode):
            raise FileNotFoundError(errno.ENOENT, "is a folder", str(path))
        return Entry(key, stat.st_size, stat.st_mtime, _file_etag(stat))

    def put(self, key: str, content: bytes | memoryview) -> str:
        """Replace a file as a whole (part of `Store`)."""
        return self._write(key, content, os.replace)

    def create(self, key: str, content: bytes) -> str:
        """Link a new file into its place, which fails where there is one (part of `Store`)."""
        return self._write(key, content, os.link)

    def replace(self, key: str, content: bytes, etag: str) -> str:
        """Compare and replace under a lock on the file's folder (part of `Store`)."""
        path = self.path / key
        try:
            descriptor = os.open(path.parent, os.O_RDONLY)
        except FileNotFoundError:
            raise ChangedError(errno.ESTALE, "was deleted meanwhile", str(path)) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if _file_etag(path.stat()) == etag:
                    return self.put(key, content)
            raise ChangedError(errno.ESTALE, "was changed meanwhile", str(path))
        finally:
            os.close(descriptor)

    def delete(self, key: str) -> None:
        """Delete a file (part of `Store`)."""
        (self.path / key).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> list[Entry]:
        """All files below a folder, but those that are being written (part of `Store`)."""
        found = []
        for folder, _, names in os.walk(self.path / prefix):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # deleted meanwhile
                    if not name.startswith(".writing-") and not path.is_symlink():
                        found.append(self.stat(path.relative_to(self.path).as_posix()))
        return sorted(found, key=lambda entry: entry.key)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Folders in a folder (part of `Store`)."""
        with suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.path / prefix) if entry.is_dir())
        return []

    def _write(self, key: str, content: bytes | memoryview, into_place: Callable[[Path, Path], None]) -> str:
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".writing-{uuid.uuid4().hex}")
        try:
            write_synced(aside, content)
            stat = aside.stat()
            into_place(aside, path)
            sync_folder(path.parent)
            return _file_etag(stat)
        finally:
            aside.unlink(missing_ok=True)


class BucketStore:
    """Objects in a bucket, below a prefix.

    Failed requests are repeated with growing pauses, up to a deadline. An answer may get lost: `create` and `replace`
    also succeed where the object has the very content that they write: writers that compete must write different ones.

    Args:
        uri: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
        deadline: seconds for which a failed request is repeated; 0 for a single try of a few seconds.

    Raises:
        ConfigError: the URI is no bucket's, or has credentials in it.
    """

    def __init__(self, uri: str, *, deadline: float = DEADLINE) -> None:
        parts = _check_uri(uri)
        self.place, self.deadline = uri.rstrip("/"), deadline
        self._scheme, self._bucket, self._prefix = parts.scheme, parts.netloc, unquote(parts.path).strip("/")

    def __reduce__(self) -> tuple[Callable[..., "BucketStore"], tuple[str, float]]:
        return _open_bucket, (self.place, self.deadline)  # without the client, which knows the credentials

    @cached_property
    def quick(self) -> "BucketStore":
        """The same objects, with one try of a few seconds per request: for what is repeated soon anyway."""
        return BucketStore(self.place, deadline=0.0)

    @cached_property
    def _client(self) -> Any:
        from obstore.store import from_url

        # A request that fails is repeated by `_call`, a part of a large object by obstore as well.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        timeout = timedelta(seconds=60 if self.deadline else 5)
        return from_url(
            f"{self._scheme}://{self._bucket}",
            client_options={
                "timeout": timeout,
                "connect_timeout": timedelta(seconds=5),
                "allow_http": endpoint.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "") == "true",
            },
            retry_config={
                "max_retries": 4 if self.deadline else 0,
                "retry_timeout": timedelta(seconds=min(30.0, self.deadline)),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
            **({"endpoint": endpoint} if self._scheme == "s3" and endpoint else {}),
        )

    def get(self, key: str) -> tuple[bytes, str]:
        """Download an object, a large one in parts (part of `Store`)."""
        import obstore

        def start() -> tuple[bytes, Any]:
            answer = obstore.get(self._client, self._path(key))
            meta = answer.meta
            return (b"" if meta["size"] > PART else bytes(answer.bytes())), meta

        content, meta = self._call(key, start)
        if meta["size"] > PART:
            starts = range(0, meta["size"], PART)

            def part(at: int) -> bytes:
                end = min(at + PART, meta["size"])
                return self._call(
                    key, lambda: bytes(obstore.get_range(self._client, self._path(key), start=at, end=end))
                )

            with ThreadPoolExecutor(4) as pool:
                content = b"".join(pool.map(part, starts))
        return content, _etag(meta)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Download a part of an object (part of `Store`)."""
        import obstore

        return self._call(key, lambda: bytes(obstore.get_range(self._client, self._path(key), start=start, end=stop)))

    def stat(self, key: str) -> Entry:
        """Ask for an object's facts (part of `Store`)."""
        import obstore

        return self._entry(self._call(key, lambda: obstore.head(self._client, self._path(key))))

    def put(self, key: str, content: bytes | memoryview) -> str:
        """Upload an object, a large one in parts (part of `Store`)."""
        return self._put(key, content, None)

    def create(self, key: str, content: bytes) -> str:
        """Upload an object unless it exists (part of `Store`)."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            return self._put(key, content, "create")
        except (AlreadyExistsError, PreconditionError):
            own = self._own(key, content)
            if own is None:
                raise FileExistsError(errno.EEXIST, "exists", f"{self.place}/{key}") from None
            return own

    def replace(self, key: str, content: bytes, etag: str) -> str:
        """Upload an object in place of one version of it (part of `Store`)."""
        from obstore.exceptions import PreconditionError

        # Ceph's gateway takes the quotes of an etag for a part of it.
        for given in dict.fromkeys((etag, etag.replace('"', ""))):
            name, _, version = given.partition("\n")
            try:
                return self._put(key, content, {"e_tag": name} | ({"version": version} if version else {}))
            except (PreconditionError, FileNotFoundError):
                own = self._own(key, content)
                if own is not None:
                    return own
                if self._current(key) != etag:
                    break
        raise ChangedError(errno.ESTALE, "was changed meanwhile", f"{self.place}/{key}")

    def delete(self, key: str) -> None:
        """Delete an object (part of `Store`)."""
        import obstore

        with suppress(FileNotFoundError):
            self._call(key, lambda: obstore.delete(self._client, self._path(key)))

    def list(self, prefix: str = "") -> list[Entry]:
        """All objects below a prefix (part of `Store`)."""
        import obstore

        below = self._path(prefix).rstrip("/")

        def read() -> list[Any]:
            return [meta for chunk in obstore.list(self._client, below or None, chunk_size=1000) for meta in chunk]

        return sorted(map(self._entry, self._call(prefix, read)), key=lambda entry: entry.key)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Common prefixes of the objects below a prefix (part of `Store`)."""
        import obstore

        below = self._path(prefix).rstrip("/")
        found = self._call(prefix, lambda: obstore.list_with_delimiter(self._client, below or None))
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])

    def check(self, key: str) -> None:
        """Check, before any work starts, that the bucket can be read and written and knows conditional writes.

        Args:
            key: the setting that names it, for the message.

        Raises:
            ConfigError: it does not.
        """
        name = f".probe-{uuid.uuid4().hex}"
        store = BucketStore(self.place, deadline=min(self.deadline, 10.0))
        try:
            if not _keeps_conditions(store, name):
                problem = "its storage ignores conditional writes, which keep two processes from writing to one run"
                remedy = "use storage that knows If-None-Match and If-Match, such as S3, GCS, Azure, MinIO or Ceph"
                raise ConfigError(problem, key=key, value=self.place, remedy=remedy)
            return
        except StorageAccessError as error:
            reason, _, remedy = str(error.strerror).partition("; ")
            problem = f"access is refused ({reason})"
        except FileNotFoundError:
            problem = "there is no such bucket"
            remedy = "make the bucket, or correct its name; the endpoint is set by AWS_ENDPOINT_URL and its kin"
        except OSError as error:
            problem = f"cannot be used: {error.strerror or error}"
            remedy = "check the network, and the endpoint in the environment (AWS_ENDPOINT_URL and its kin)"
        finally:
            with suppress(OSError):
                store.delete(name)
        raise ConfigError(problem, key=key, value=self.place, remedy=remedy)

    def _put(self, key: str, content: bytes | memoryview, mode: Any) -> str:
        import obstore

        def send() -> Any:
            parts = mode is None and len(content) > PART
            return obstore.put(
                self._client,
                self._path(key),
                content,
                mode=mode,
                use_multipart=parts,
                chunk_size=PART,
                max_concurrency=4,
            )

        return _etag(self._call(key, send))

    def _own(self, key: str, content: bytes) -> str | None:
        """The etag of the object if it is what an earlier try of the same write has put there."""
        with suppress(FileNotFoundError):
            found, etag = self.get(key)
            return etag if found == content else None
        return None

    def _current(self, key: str) -> str:
        with suppress(FileNotFoundError):
            return self.get(key)[1]
        return ""

    def _entry(self, meta: Any) -> Entry:
        key = meta["path"][len(self._prefix) + 1 if self._prefix else 0 :]
        return Entry(key, meta["size"], meta["last_modified"].timestamp(), _etag(meta))

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _call(self, key: str, action: Callable[[], T]) -> T:
        """Run a request until it succeeds, its answer is final, or the deadline is over."""
        from obstore import exceptions

        until, pause = time.monotonic() + self.deadline, 0.2
        place = f"{self.place}/{key}"
        while True:
            try:
                return action()
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise
            except FileNotFoundError as error:
                missing = "no such bucket" if _NO_BUCKET.search(str(error)) else "no such object"
                raise FileNotFoundError(errno.ENOENT, missing, place) from None
            except (exceptions.BaseError, PermissionError) as error:
                text, reason = str(error), _reason(error)
                refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
                if refused or isinstance(error, PermissionError) or _REFUSED.search(text):
                    message = f"{reason}; {_access_remedy(self._scheme)}"
                    raise StorageAccessError(errno.EACCES, message, place) from None
                if _NO_BUCKET.search(text):
                    raise FileNotFoundError(errno.ENOENT, "no such bucket", place) from None
                if time.monotonic() + pause > until:
                    raise OSError(errno.EIO, f"the storage does not answer as it should: {reason}", place) from None
            time.sleep(pause * (0.5 + uuid.uuid4().int % 1000 / 2000))  # clients must not return all at once
            pause = min(_LONGEST, 2.0 * pause)


def _open_bucket(uri: str, deadline: float) -> BucketStore:
    return BucketStore(uri, deadline=deadline)


def _keeps_conditions(store: Store, key: str) -> bool:
    """Whether a store refuses to create an object twice, and to replace a version that is gone."""
    etag = store.create(key, b"1")
    try:
        store.create(key, b"2")
        return False
    except FileExistsError:
        store.replace(key, b"3", etag)
    try:
        store.replace(key, b"4", etag)
        return False
    except ChangedError:
        return True


class StorePath:
    """An object of a store, or all below a prefix, with the methods of `pathlib.Path` that the package needs.

    Args:
        store: holds the object.
        key: of the object, or a prefix; empty for the store itself.
        entry: of the object, where a listing found it.
    """

    def __init__(self, store: Any, key: str = "", entry: Entry | None = None) -> None:
        self.store, self.key, self._entry = store, key, entry

    @property
    def name(self) -> str:
        """The last part of the key, or of the store's place."""
        return (self.key or self.store.place).rpartition("/")[2]

    @property
    def parent(self) -> "StorePath":
        """What lies above; above a store, the store of the prefix or bucket."""
        if self.key:
            return StorePath(self.store, self.key.rpartition("/")[0])
        return StorePath(type(self.store)(self.store.place.rpartition("/")[0]))

    @property
    def quick(self) -> "StorePath":
        """The same object, by requests that are tried once: for what is repeated soon anyway."""
        return StorePath(getattr(self.store, "quick", self.store), self.key)

    def __truediv__(self, part: str) -> "StorePath":
        return StorePath(self.store, f"{self.key}/{part}" if self.key else part)

    def __str__(self) -> str:
        return f"{self.store.place}/{self.key}" if self.key else self.store.place

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def read_bytes(self) -> bytes:
        """The object's content."""
        return self.store.get(self.key)[0]

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The object's content as a text."""
        return self.read_bytes().decode(encoding, errors)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Write the object."""
        self.store.put(self.key, text.encode(encoding))

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete the object."""
        self.store.delete(self.key)

    def entry(self) -> Entry:
        """What the store knows of the object; `FileNotFoundError` without one."""
        self._entry = self._entry or self.store.stat(self.key)
        return self._entry

    def exists(self) -> bool:
        """Whether there is such an object, or one below it."""
        with suppress(FileNotFoundError):
            return bool(self.key and self.store.stat(self.key))
        return self.is_dir()

    def is_dir(self) -> bool:
        """Whether an object lies below it."""
        return bool(self.store.list(self.key))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has no folders."""

    def delete_all(self) -> None:
        """Delete all objects below it, in the order of their keys."""
        for entry in self.store.list(self.key):
            self.store.delete(entry.key)

    def iterdir(self) -> Iterator["StorePath"]:
        """Objects and prefixes one level below."""
        start = len(self.key) + 1 if self.key else 0
        seen = set()
        for entry in self.store.list(self.key):
            name, _, rest = entry.key[start:].partition("/")
            if name and name not in seen:
                seen.add(name)
                yield StorePath(self.store, entry.key[: start + len(name)], None if rest else entry)


Place = Path | StorePath
"""Where a run lies: a local folder, or a prefix in a bucket."""


def is_uri(text: str) -> bool:
    """Whether a text names a bucket or has another scheme, rather than a path.

    Args:
        text: from a config or a command.
    """
    return re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def open_place(text: str | Path | StorePath, *, key: str = "path") -> Place:
    """A local path, or a place in a bucket, from its name.

    Args:
        text: a path, `file://...` or a bucket's URI.
        key: the setting that holds it, for messages.

    Raises:
        ConfigError: the scheme is unknown, or the URI has credentials in it or lacks a bucket.
    """
    if isinstance(text, StorePath):
        return text
    if isinstance(text, Path) or not is_uri(text):
        return Path(text).expanduser()
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path:
            remedy = "write file:///absolute/path"
            raise ConfigError("names another machine's file", key=key, value=text, remedy=remedy)
        return Path(unquote(parts.path))
    _check_uri(text, key=key)
    return StorePath(BucketStore(text))


def folders(place: Place) -> Sequence[str]:
    """Names of the folders in a folder, or of the prefixes one level below a prefix, in order; empty if there are none.

    Args:
        place: which.

    Raises:
        OSError: the storage fails.
    """
    return LocalStore(place).folders() if isinstance(place, Path) else place.store.folders(place.key)


def in_parallel(place: Place, read: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """What a function reads by each name; in a bucket several at a time, as each takes a round trip.

    Args:
        place: where it reads.
        read: the function.
        names: its arguments, in the order of the result.
    """
    if isinstance(place, Path):
        return list(map(read, names))
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(read, names))


def modified(place: Place) -> float:
    """When a file or an object was written, in seconds since the epoch by the storage's clock.

    Args:
        place: which.

    Raises:
        OSError: there is none.
    """
    return place.stat().st_mtime if isinstance(place, Path) else place.entry().modified


def size_of(place: Place) -> int:
    """Bytes of a file or an object.

    Args:
        place: which.

    Raises:
        OSError: there is none.
    """
    return place.stat().st_size if isinstance(place, Path) else place.entry().size


def remove(place: Place) -> None:
    """Remove a folder, or all objects below a prefix, as far as the storage allows.

    Args:
        place: which.
    """
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    with suppress(OSError):
        place.delete_all()


def _check_uri(uri: str, *, key: str = "path") -> Any:
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        remedy = f"use {shown}; credentials and endpoint belong into the environment (AWS_ACCESS_KEY_ID, ...)"
        raise ConfigError("has credentials or options in it", key=key, value=f"{parts.scheme}://...", remedy=remedy)
    if parts.scheme not in CREDENTIALS:
        known = ", ".join(f"{name}://" for name in (*CREDENTIALS, "file"))
        raise ConfigError("its scheme is unknown", key=key, value=uri, remedy=f"use a path, or one of: {known}")
    if not parts.netloc:
        remedy = f"write {parts.scheme}://BUCKET/PREFIX"
        raise ConfigError("names no bucket", key=key, value=uri, remedy=remedy)
    return parts


def _access_remedy(scheme: str) -> str:
    return f"renew the credentials in the environment ({CREDENTIALS[scheme]}) and run the same command again"


def _reason(error: Exception) -> str:
    """One line of an error of obstore's: the server's code if there is one, never a header."""
    text = str(error).partition("\n\nDebug source")[0]
    code = re.search(r"<Code>([^<]+)</Code>", text)
    status = re.search(r"\b[45]\d\d [A-Z][A-Za-z ]+(?=:|$)", text, re.MULTILINE)
    if code or status:
        return " ".join(found.group(found.re.groups) for found in (status, code) if found)
    return " ".join(text.split())[-200:]


def _etag(meta: Any) -> str:
    """An etag as one text; the version follows on a second line, where updates go by it (Google's storage)."""
    version = meta.get("version")
    return f"{meta.get('e_tag') or ''}\n{version}" if version and version != "null" else meta.get("e_tag") or ""


def _file_etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
