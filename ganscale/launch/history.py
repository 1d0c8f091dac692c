"""What is left of a command after its cluster has ended: its log, and those of its workers, in `logs/` of the run.

logs/<time>-<host>/
    driver.log          the command's own log, and how it ended
    <number>/           after a failure, or at the end
        cause.txt       what had failed
        <host>/         ends of the node's log files, by their names in Ray's folder of logs
"""

import logging
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ganscale.config import ConfigError
from ganscale.launch.compat import log_folder
from ganscale.launch.node_logs import read_logs
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, StorePath, folders, remove
from ganscale.tracking.console import PACKAGE

_logger = logging.getLogger(__name__)

KEPT = 10
"""Newest commands whose logs are kept."""
COLLECTIONS = 20
"""Most failures of a command whose logs are kept: the first ones, and the last."""
LINES = 5000
"""Most lines of the command's log: the last."""
EVERY = 15.0
"""Seconds between two writes of the command's log."""
NODE_TIMEOUT = 20.0
"""Seconds that the nodes may take to send their logs."""

NodeLogs = Mapping[str, Mapping[str, bytes] | str]
"""By host: files by name, or why there are none."""


def collect_logs(since: float) -> dict[str, Mapping[str, bytes] | str]:
    """Log files of all nodes that answer.

    Args:
        since: Seconds since the epoch; older files are left out.
    """
    job, folder = ray.get_runtime_context().get_job_id(), log_folder()
    task: Any = ray.remote(read_logs)
    found: dict[str, Mapping[str, bytes] | str] = {}
    calls, here, own = {}, "", ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        name = node["NodeManagerHostname"]
        name = f"{name}-{node['NodeID'][:6]}" if name in calls or name in found else name
        if not node["Alive"]:
            found[name] = "Ray has declared this node dead"
            continue
        if node["NodeID"] == own:
            here, found[name] = name, {}
            continue
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        calls[name] = options.remote(folder, job, since)
    if here:  # without a process for it
        found[here] = read_logs(folder, job, since)
    deadline = time.monotonic() + NODE_TIMEOUT
    for name, call in calls.items():
        try:
            found[name] = ray.get(call, timeout=max(0.1, deadline - time.monotonic()))
        except Exception as error:  # a node that dies meanwhile; whatever fails in Ray, the run continues
            found[name] = f"no logs: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return found


class History(logging.Handler):
    """Keeps a command's log and its workers' in the run, as long as the block of `recorded` lasts.

    Args:
        folder: The run's.
        collect: Log files of all nodes since a time.
    """

    def __init__(self, folder: RunDir, collect: Callable[[float], NodeLogs] = collect_logs) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._began, self._collect = time.time(), collect
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._began))
        self._parent: Place = folder.root / "logs"
        self.place: Place = self._parent / f"{stamp}-{socket.gethostname()}"
        self._lines: deque[str] = deque(maxlen=LINES)
        self._changed, self._writes = False, False
        self._number = 0
        self._collecting: threading.Thread | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the command's log."""
        try:
            self.note(self.format(record))
        except Exception:
            self.handleError(record)

    def note(self, text: str) -> None:
        """Add lines to the command's log.

        Args:
            text: The lines.
        """
        self._lines.extend(text.splitlines())
        self._changed = True

    def start(self) -> None:
        """Write to the storage from now on; an earlier start of a command that was refused leaves nothing there."""
        if not self._writes:
            self._writes = True
            self._thread.start()

    def failed(self, cause: str) -> None:
        """Collect the workers' logs in a thread, while the run restarts.

        Args:
            cause: What failed.
        """
        if self._number < COLLECTIONS and (self._collecting is None or not self._collecting.is_alive()):
            self._gather(cause)

    def end(self, cause: str, *, gather: bool = True) -> None:
        """Collect the workers' logs, write all, and stop; waits for the storage, but not for ever.

        Args:
            cause: How the command ended.
            gather: Whether to collect the workers' logs.
        """
        if not self._writes:
            return
        if gather:
            self._wait()
            self._gather(cause)
        self._wait()
        self._ended.set()
        self._thread.join(2 * NODE_TIMEOUT)

    def _wait(self) -> None:
        if self._collecting:
            self._collecting.join(2 * NODE_TIMEOUT)

    def _gather(self, cause: str) -> None:
        self._number += 1
        number, since = self._number, self._began
        self._collecting = threading.Thread(target=self._keep, args=(number, cause, since), name="logs", daemon=True)
        self._collecting.start()

    def _keep(self, number: int, cause: str, since: float) -> None:
        place = self.place / f"{number:02d}"
        try:
            _write(place / "cause.txt", f"{cause}\n".encode())
            for host, files in self._collect(since).items():
                for name, content in (
                    {"missing.txt": files.encode()}.items() if isinstance(files, str) else files.items()
                ):
                    _write(place / host / name.replace("/", "-"), content)
        except Exception as error:  # of Ray or the storage; the run continues
            self.note(f"the workers' logs could not be kept ({type(error).__name__}: {error})")

    def _run(self) -> None:
        with suppress(OSError):
            for name in sorted(folders(self._parent))[: -KEPT + 1]:
                remove(self._parent / name)
        while not self._ended.wait(EVERY):
            self._write_log()
        self._write_log()

    def _write_log(self) -> None:
        if self._changed:
            self._changed = False
            try:
                _write(self.place / "driver.log", "".join(f"{line}\n" for line in list(self._lines)).encode())
            except OSError:
                self._changed = True  # the storage may answer next time


def _write(place: Place, content: bytes) -> None:
    if isinstance(place, StorePath):
        place.store.put(place.key, content)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(f"{place}.new")
    aside.write_bytes(content)
    aside.replace(place)


@contextmanager
def recorded(folder: RunDir, *, joined: bool, collect: Callable[[float], NodeLogs] = collect_logs) -> Iterator[History]:
    """Record the package's log, and how the block ends.

    Args:
        folder: The run's.
        joined: Whether the cluster existed before. The logs of one that was started here stay on this machine: they
            are collected after failures only.
        collect: Log files of all nodes since a time.
    """
    history = History(folder, collect)
    PACKAGE.addHandler(history)
    try:
        yield history
    except Exception as error:
        is_expected = isinstance(error, ConfigError)
        history.note(str(error) if is_expected else "".join(traceback.format_exception(error)))
        if joined and not isinstance(error, BusyError):  # such as a cluster that is too small
            history.start()
        history.end(f"{type(error).__name__}: {error}"[:20_000], gather=not is_expected)
        raise
    except BaseException:
        history.end("", gather=False)
        raise
    else:
        history.end("the command ended without an error", gather=joined)
    finally:
        PACKAGE.removeHandler(history)
