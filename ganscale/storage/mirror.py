"""Copies of a run's files between a local folder and a bucket.

Trackers write files; in a bucket objects are immutable. So the writer of a run in a bucket works in a temporary folder
and uploads what changed: files that grow, such as `metrics.jsonl`, as numbered segments with the new bytes
(`metrics.jsonl/<fence>-<generation>-<number>`), others whole. Readers download the newest generation of each. A file
that was rewritten, and a file of a new writer, starts a generation; its first segment holds all of the file.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ganscale.config.errors import ExecutionError
from ganscale.storage.store import Entry, StorePath

EVERY = 10.0
"""Seconds between two uploads of what has changed: what a killed writer loses of logs, at most."""
MOST_SEGMENTS = 500
"""Segments of a file, after which it is uploaded whole."""
APART = ("checkpoints", "logs", ".heartbeats", ".stop", ".group", "lease.json")
"""Objects of a run that are no copies of files."""

_SEGMENT = re.compile(r"^(.+)/(\d{8}-\d{4})-(\d{6})$")
_GROWS = re.compile(r"\.(jsonl|log|wandb)$|\.tfevents\.")
_LINES = re.compile(r"\.(jsonl|log)$")
_ASIDE = re.compile(r"(^|/)\.|\.[0-9a-f]{32}$|\.new$")
_logger = logging.getLogger(__name__)


@dataclass
class _Sent:
    """What the bucket has of a file; `inode` and `size` are the local file's at that time."""

    inode: int
    size: int
    changed: int = 0
    generation: int = -1
    segments: int = 0


class Mirror:
    """One run's files in a local folder and in a bucket.

    Args:
        root: the run in the bucket.
        path: of the local folder.
    """

    def __init__(self, root: StorePath, path: Path) -> None:
        self._root, self._path = root, path
        self._sent: dict[str, _Sent] = {}
        self._read: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()
        self._fence: Callable[[], int] | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def pull(self, below: str = "") -> None:
        """Download all files.

        Args:
            below: a folder of the run's, to which it is limited; empty for all.

        Raises:
            OSError: the storage fails.
        """
        groups: dict[str, list[Entry]] = {}
        for entry in self._root.store.list((self._root / below).key if below else self._root.key):
            name = entry.key[len(self._root.key) :].lstrip("/")
            if not name.startswith(".") and not set(name.split("/")).intersection(APART):
                segment = _SEGMENT.match(name)
                groups.setdefault(segment.group(1) if segment else name, []).append(entry)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self._download(name, groups[name]), groups))

    def fetch(self, name: str) -> None:
        """Bring one local file up to date; it stays missing where the bucket has none.

        Args:
            name: of the file, below the run.

        Raises:
            OSError: the storage fails.
        """
        found = self._root.store.list((self._root / name).key)
        if not found:
            with suppress(FileNotFoundError):
                found = [(self._root / name).entry()]
        if found:
            self._download(name, found)

    def _download(self, name: str, entries: list[Entry]) -> None:
        """Write a file from its object, or from the newest generation of its segments."""
        path = self._path / name
        segments = sorted(entry.key for entry in entries if _SEGMENT.match(entry.key))
        if not segments:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}")
            aside.write_bytes(self._root.store.get(entries[0].key)[0])
            aside.replace(path)
            self._note(name, path.stat())
            return
        newest = segments[-1].rpartition("-")[0]
        segments = [key for key in segments if key.startswith(newest)]
        known, count = self._read.get(name, ("", 0))
        start = count if known == newest and path.exists() else 0
        contents = [self._root.store.get(key)[0] for key in segments[start:]]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if start else "wb") as file:
            file.write(b"".join(contents))
        self._read[name] = (newest, len(segments))
        self._note(name, path.stat())

    def _note(self, name: str, stat: os.stat_result) -> None:
        self._sent[name] = _Sent(stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def start(self, fence: Callable[[], int], *, periodic: bool = True) -> None:
        """Upload from now on, at each `push` and every few seconds in a thread.

        Args:
            fence: confirms that this process is the run's writer, and returns its fencing number.
            periodic: whether there is that thread.
        """
        self._fence = fence
        if not periodic:
            return
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Upload no more."""
        self._ended.set()
        if self._thread:
            self._thread.join()
        self._fence = None

    def _run(self) -> None:
        failed = False
        while not self._ended.wait(EVERY):
            try:
                self.push()
                failed = False
            except ExecutionError:  # another process is the writer; the session notices it as well
                return
            except OSError as error:
                if not failed:
                    _logger.warning("the run's files could not be uploaded (%s); trying again", error)
                failed = True

    def push(self) -> None:
        """Upload what has changed, and delete what is gone.

        Raises:
            OSError: the storage fails.
            LeaseLostError: another process is the run's writer.
        """
        if self._fence is None:
            return
        with self._lock:
            fence = self._fence()
            present = dict(self._files())
            for name, stat in present.items():
                with suppress(FileNotFoundError):  # deleted meanwhile
                    self._upload(name, stat, fence)
            for name in set(self._sent) - set(present):
                for entry in self._objects(name):
                    self._root.store.delete(entry.key)
                del self._sent[name]

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for folder, _, names in os.walk(self._path):
            for each in names:
                path = Path(folder, each)
                name = path.relative_to(self._path).as_posix()
                with suppress(FileNotFoundError):
                    if not _ASIDE.search(name) and not path.is_symlink():
                        yield name, path.stat()

    def _objects(self, name: str) -> list[Entry]:
        if _GROWS.search(name):
            return self._root.store.list((self._root / name).key)
        with suppress(FileNotFoundError):
            return [(self._root / name).entry()]
        return []

    def _upload(self, name: str, stat: os.stat_result, fence: int) -> None:
        sent = self._sent.get(name)
        if sent and (sent.inode, sent.size, sent.changed) == (stat.st_ino, stat.st_size, stat.st_mtime_ns):
            return
        key, store = (self._root / name).key, self._root.store
        if not _GROWS.search(name):
            store.put(key, (self._path / name).read_bytes())
            self._note(name, stat)
            return
        grows = sent and sent.generation >= 0 and sent.inode == stat.st_ino and sent.size <= stat.st_size
        if not sent or not grows or sent.segments >= MOST_SEGMENTS:
            sent = _Sent(stat.st_ino, 0, generation=sent.generation + 1 if sent else 0)
        with (self._path / name).open("rb") as file:
            file.seek(sent.size)
            content = file.read()
        if _LINES.search(name):
            content = content[: content.rfind(b"\n") + 1]
        if content or not sent.segments:
            generation = f"{key}/{fence:08d}-{sent.generation:04d}"
            store.put(f"{generation}-{sent.segments:06d}", content)  # nobody else has this fence: a put may be repeated
            if not sent.segments:  # this generation replaces all earlier ones
                for entry in store.list(key):
                    if entry.key < generation:
                        store.delete(entry.key)
            sent.size, sent.segments = sent.size + len(content), sent.segments + 1
        sent.changed = stat.st_mtime_ns if sent.size == stat.st_size else 0
        self._sent[name] = sent
