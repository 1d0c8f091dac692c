"""Who may write to a run: one process at a time.

In a folder the system's lock says so, which ends with the process. In a bucket the object `lease.json` does: its
holder renews it; another process takes it over by compare-and-swap, if the holder released it, is a dead process of
this machine, or has not renewed it for `SECONDS`, by this process's own clock. Each holder has a higher fencing number.
"""

import fcntl
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.storage.checkpoint import LEASE, CheckpointStore
from ganscale.storage.files import open_for_append
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import ChangedError, Place, StorePath

SECONDS = 30.0
"""Without a renewal for so long, a lease may be taken over."""


class BusyError(ConfigError):
    """Another process writes to a run's folder."""


class LeaseLostError(ExecutionError):
    """Another process took the run's folder over, so this one must not write."""


def born(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 if unknown.

    Args:
        pid: of the process.
    """
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return 0


def busy(folder: RunDir, holder: str, *, section: str = "run") -> BusyError:
    """The error that names a run's writer.

    Args:
        folder: the run's.
        holder: who it is and since when.
        section: "run", or "sweep" where the folder is a sweep's.
    """
    return BusyError(
        f"another process is writing to {folder.root}{holder and f': {holder}'}",
        key=f"{section}.name",
        value=folder.root.name,
        remedy=f"wait for it or stop it, or use another {section}.name",
    )


class Lease(Protocol):
    """The right to write to a run."""

    def claim(self) -> None:
        """Record this process as the writer, once it has looked at the run."""
        ...

    def confirm(self) -> int:
        """Make sure, before a write that counts, that this process is the writer; return its fencing number.

        Raises:
            LeaseLostError: another process is.
            OSError: the storage does not answer.
        """
        ...

    def problem(self) -> LeaseLostError | ConfigError | None:
        """Why this process must not write any more, if so."""
        ...

    def release(self) -> None:
        """Let other processes write."""
        ...


class FileLease:
    """Reserves a local run folder for one writing process; the system frees it when the process dies.

    Args:
        folder: the run's folder.
        patience: seconds to wait for another writer to end (a killed driver's workers need a moment).
        info: takes a sentence for the user when there is something to wait for.
        section: "run", or "sweep" where the folder is a sweep's; for messages.

    Raises:
        BusyError: another process writes there.
        ConfigError: `.lock` cannot be opened, or is a link.
    """

    def __init__(
        self, folder: RunDir, *, patience: float, info: Callable[[str], None] = lambda _: None, section: str = "run"
    ) -> None:
        self._folder, self._path = folder, folder.path / ".lock"
        try:
            self._file = open_for_append(self._path)
        except OSError as error:
            problem = "is a symbolic link" if self._path.is_symlink() else f"cannot be written ({error.strerror})"
            remedy = f"remove it, or use another {section}.name"
            raise ConfigError(problem, key=f"{section}.dir", value=str(self._path), remedy=remedy) from None
        self._own, self._prepared = "", False
        until = time.monotonic() + patience
        report_at = time.monotonic() + 1.0
        while not self._try():
            if time.monotonic() >= report_at:
                info(f"another process is writing to {folder.path}; waiting up to {patience:.0f} s for it to end")
                report_at = math.inf
            if time.monotonic() >= until:
                self._file.close()
                raise busy(folder, self._holder(), section=section)
            time.sleep(0.2)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # storage without locks: continue unguarded
            return True
        return True

    def _holder(self) -> str:
        """The writer and since when, as it noted them."""
        with suppress(OSError, ValueError):
            host, pid, _ = self._path.read_text(encoding="utf-8").split()
            return f"process {pid} on {host}, since {_shown(self._path.stat().st_mtime)}"
        return ""

    def confirm(self) -> int:
        """Nothing to do: the system's lock holds until this process ends (a `Lease`)."""
        return 0

    def claim(self) -> None:
        """Record this process as the writer, for an earlier writer that lost the lock without knowing (`problem`)."""
        own = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}\n"
        self._prepared = self._folder.config.exists()
        with suppress(OSError):  # full storage: the lock alone has to do
            self._file.truncate(0)
            self._file.write(own)
            self._file.flush()
            self._own = own

    def problem(self) -> LeaseLostError | ConfigError | None:
        """Why this process must not write any more, if so.

        The lock protects wherever the storage knows locks. Where it does not, or gave the lock of an unreachable
        machine to another one, this check still keeps two processes from writing.
        """
        try:
            owner = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            if self._prepared and not self._folder.config.exists():
                remedy = "put it back, or start the run again"
                return ConfigError(
                    "the run's folder was removed or moved while the run wrote to it",
                    key="run.dir",
                    value=str(self._folder.path),
                    remedy=remedy,
                )
            return None
        except OSError:
            return None
        if not self._own or owner == self._own:
            return None
        return LeaseLostError(f"another process has taken over {self._path.parent}: {owner.strip() or 'unknown'}")

    def release(self) -> None:
        """Let other processes write."""
        self._file.close()


class StoreLease:
    """Reserves a run in a bucket for one writing process, and renews that until it is released.

    Args:
        root: the run in the bucket.
        folder: the run's, for messages.
        patience: seconds to wait for another writer that renews its lease.
        info: takes a sentence for the user when there is something to wait for.
        take: False only waits until it could be taken.
        section: "run", or "sweep" where the folder is a sweep's; for messages.

    Raises:
        BusyError: another process writes there.
        OSError: the storage fails.
    """

    def __init__(
        self,
        root: StorePath,
        folder: RunDir,
        *,
        patience: float,
        info: Callable[[str], None],
        take: bool = True,
        section: str = "run",
    ) -> None:
        self._folder, self._path = folder, root / LEASE
        self._facts: dict[str, Any] = {}
        self._etag, self._renewed = "", 0.0
        self._lost: LeaseLostError | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        started, seen, since, is_alive = time.monotonic(), "", time.monotonic(), False
        reported = False
        while True:
            facts, etag = _read_lease(self._path)
            now = time.monotonic()
            if etag != seen:
                is_alive, seen, since = bool(seen), etag, now
            if not facts or facts.get("released") or _is_dead(facts) or now - since >= facts.get("seconds", SECONDS):
                if not take or self._take(facts, etag):
                    return
                continue
            if is_alive and now - started >= patience:
                raise busy(folder, f"{facts['holder']}, since {_shown(facts['since'])}", section=section)
            if not reported and now - started >= 1.0:
                reported = True
                info(f"{facts['holder']} is writing to {root}; waiting for its lease to end")
            time.sleep(1.0)

    def _take(self, old: dict[str, Any], etag: str) -> bool:
        """Become the holder; checkpoints of earlier ones count until `claim`."""
        fence, pid = old.get("fence", 0) + 1, os.getpid()
        self._facts = {
            **_own_facts(),
            "fence": fence,
            "process": [_machine(), pid, born(pid)],
            "seconds": SECONDS,
            "renewals": 0,
            "released": False,
            "open": [*old.get("open", []), fence],
            "checkpoints": old.get("checkpoints", {}),
        }
        content = json.dumps(self._facts).encode()
        store, key = self._path.store, self._path.key
        try:
            self._etag = store.replace(key, content, etag) if old else store.create(key, content)
        except (FileExistsError, ChangedError):
            return False
        self._renewed = time.monotonic()
        self._thread.start()
        return True

    def claim(self) -> None:
        """From now on checkpoints of earlier writers count only if they are there already (a `Lease`)."""
        known = {folder.name: fence for folder, fence in CheckpointStore(self._folder.checkpoints).fences().items()}
        self._renew(open=[self._facts["fence"]], checkpoints=known)
        if self._lost:
            raise self._lost

    def confirm(self) -> int:
        """Renew the lease if the last renewal is not fresh (a `Lease`)."""
        if time.monotonic() - self._renewed > SECONDS / 2:
            self._renew()
        if self._lost:
            raise self._lost
        return self._facts["fence"]

    def problem(self) -> LeaseLostError | None:
        """That another process has taken the run over, as far as this one knows (a `Lease`)."""
        return self._lost

    def release(self) -> None:
        """Let other processes write (a `Lease`); a storage that fails lets them do so after a while."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self._renew(released=True)

    def _keep(self) -> None:
        while not self._ended.wait(SECONDS / 3) and not self._lost:
            with suppress(OSError):  # tried again; nothing is committed without `confirm`
                self._renew()

    def _renew(self, **changes: Any) -> None:
        """Write the lease again, unless another process has taken it."""
        with self._lock:
            if self._lost:
                return
            facts = self._facts | changes | {"renewals": self._facts["renewals"] + 1}
            for is_second in (False, True):
                sent = time.monotonic()
                try:
                    self._etag = self._path.store.replace(self._path.key, json.dumps(facts).encode(), self._etag)
                    break
                except ChangedError:
                    now, etag = _read_lease(self._path)
                    if now.get("id") != facts["id"]:
                        self._lost = _lost(self._path.parent, now)
                        return
                    if is_second:
                        raise
                    self._etag = etag  # a renewal that was thought to have failed
            self._facts, self._renewed = facts, sent


class Fence(NamedTuple):
    """The lease of a sweep as its other processes know it: a place and the number under which its driver holds it.

    Attributes:
        root: where the sweep lies; a folder's lock ends with its driver, so that nothing is to be checked.
        number: the driver's fencing number.
    """

    root: Place
    number: int

    def problem(self) -> LeaseLostError | None:
        """That the driver no longer holds the lease, if so.

        Raises:
            OSError: the storage fails.
        """
        if isinstance(self.root, StorePath):
            facts, _ = _read_lease(self.root / LEASE)
            if facts.get("fence") != self.number:
                return _lost(self.root, facts)
            if facts.get("released"):
                return LeaseLostError(f"the driver of {self.root} has ended")
        return None


NO_DRIVER = Fence(Path(), 0)
"""Of a trial that is trained by itself."""


class TrialLease:
    """Reserves a trial in a bucket for the newest of the processes that train it, one after another.

    Ray Tune starts a trial again when it takes the process before for dead; that one may live, cut off. So the newest
    takes the trial over at once, and the others notice before their next write that counts. A process of an earlier
    driver takes nothing from one of a later driver. Each has a higher fencing number.

    Args:
        root: the trial in the bucket.
        driver: of the sweep.

    Raises:
        LeaseLostError: the sweep or the trial belongs to a later driver.
        OSError: the storage fails.
    """

    def __init__(self, root: StorePath, driver: Fence) -> None:
        self._path = root / LEASE
        while True:
            if problem := driver.problem():
                raise problem
            old, etag = _read_lease(self._path)
            if old.get("driver", 0) > driver.number:
                raise _lost(root, old)
            facts = {**_own_facts(), "fence": old.get("fence", 0) + 1, "driver": driver.number}
            content, store = json.dumps(facts).encode(), self._path.store
            with suppress(FileExistsError, ChangedError):  # another process was faster: look again
                if old:
                    store.replace(self._path.key, content, etag)
                else:
                    store.create(self._path.key, content)
                break
        self._facts = facts

    def confirm(self) -> int:
        """Make sure, before a write that counts, that no other process has taken the trial; return the fencing number.

        Raises:
            LeaseLostError: another process has.
            OSError: the storage fails.
        """
        facts, _ = _read_lease(self._path)
        if facts.get("id") != self._facts["id"]:
            raise _lost(self._path.parent, facts)
        return self._facts["fence"]


def _read_lease(path: StorePath) -> tuple[dict[str, Any], str]:
    """A lease's content and etag; empty without one."""
    try:
        content, etag = path.store.get(path.key)
    except FileNotFoundError:
        return {}, ""
    return json.loads(content), etag


def _own_facts() -> dict[str, Any]:
    """What a lease says of this process."""
    host, pid = socket.gethostname(), os.getpid()
    return {"holder": f"process {pid} on {host}", "since": time.time(), "id": uuid.uuid4().hex}


def _lost(root: Place, facts: dict[str, Any]) -> LeaseLostError:
    by = f": {facts['holder']}, since {_shown(facts['since'])}" if facts else ""
    return LeaseLostError(f"another process has taken over {root}{by}")


def acquire(
    folder: RunDir, *, patience: float, info: Callable[[str], None] = lambda _: None, section: str = "run"
) -> Lease:
    """Become a run's writer.

    Args:
        folder: the run's.
        patience: seconds to wait for another writer to end (a killed driver's workers need a moment).
        info: takes a sentence for the user when there is something to wait for.
        section: "run", or "sweep" where the folder is a sweep's; for messages.

    Raises:
        BusyError: another process writes there; the message says which, and since when.
        ConfigError: `.lock` cannot be opened, or is a link.
        OSError: a bucket fails.
    """
    if isinstance(folder.root, StorePath):
        return StoreLease(folder.root, folder, patience=patience, info=info, section=section)
    return FileLease(folder, patience=patience, info=info, section=section)


def check_free(folder: RunDir, *, patience: float, info: Callable[[str], None]) -> None:
    """Wait, before anything expensive starts, until no process writes to the run.

    Args:
        folder: the run's.
        patience: seconds to wait.
        info: takes a sentence for the user when there is something to wait for.

    Raises:
        BusyError: another process writes there; the message says which, and since when.
        ConfigError: `.lock` cannot be opened, or is a link.
        OSError: a bucket fails.
    """
    if isinstance(folder.root, StorePath):
        StoreLease(folder.root, folder, patience=patience, info=info, take=False)
    elif (folder.path / ".lock").exists():
        FileLease(folder, patience=patience, info=info).release()


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"


def _machine() -> str:
    """This machine since its start, and this container: what a process id is relative to."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _is_dead(facts: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    machine, pid, start = facts.get("process", ("", 0, 0))
    return bool(machine) and machine == _machine() and start > 0 and born(pid) != start
