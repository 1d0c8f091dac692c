"""Who may write to a run's folder: one process at a time."""

import fcntl
import math
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.storage.files import open_for_append
from ganscale.storage.run_dir import RunDir


class BusyError(ConfigError):
    """Another process writes to a run's folder."""


class LeaseLostError(ExecutionError):
    """Another process took the run's folder over, so this one must not write."""


class WriterLease:
    """Reserves a run's folder for one writing process; the system frees it when the process dies.

    Args:
        folder: the run's folder.
        patience: seconds to wait for another writer to end (a killed driver's workers need a moment).
        info: takes a sentence for the user when there is something to wait for.

    Raises:
        BusyError: another process writes there.
        ConfigError: `.lock` cannot be opened, or is a link.
    """

    def __init__(self, folder: RunDir, *, patience: float, info: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._path = folder, folder.path / ".lock"
        try:
            self._file = open_for_append(self._path)
        except OSError as error:
            problem = "is a symbolic link" if self._path.is_symlink() else f"cannot be written ({error.strerror})"
            remedy = "remove it, or use another run.name"
            raise ConfigError(problem, key="run.dir", value=str(self._path), remedy=remedy) from None
        self._own, self._prepared = "", False
        until = time.monotonic() + patience
        report_at = time.monotonic() + 1.0
        while not self._try():
            if time.monotonic() >= report_at:
                info(f"another process is writing to {folder.path}; waiting up to {patience:.0f} s for it to end")
                report_at = math.inf
            if time.monotonic() >= until:
                self._file.close()
                raise BusyError(
                    f"another process is writing to {folder.path}",
                    key="run.name",
                    value=folder.path.name,
                    remedy="wait for it or stop it, or use another run.name",
                )
            time.sleep(0.2)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # storage without locks: continue unguarded
            return True
        return True

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


def check_free(folder: RunDir, *, patience: float, info: Callable[[str], None]) -> None:
    """Wait, before anything expensive starts, until no process writes to the folder.

    Args:
        folder: the run's folder.
        patience: seconds to wait.
        info: takes a sentence for the user when there is something to wait for.

    Raises:
        BusyError: another process writes there.
        ConfigError: `.lock` cannot be opened, or is a link.
    """
    if (folder.path / ".lock").exists():
        WriterLease(folder, patience=patience, info=info).release()
