"""Which processes train together: a quorum of those that reach torchft's lighthouse (`cluster.recovery: live`)."""

import logging
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from types import TracebackType
from urllib.parse import urlsplit

import torch.distributed as dist

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.parallel.connections import close_silent
from ganscale.parallel.members import LIGHTHOUSE, Quorum, assign, check_torchft

HEARTBEAT = 0.25
"""Seconds between two heartbeats: a small part of the time after which the lighthouse declares a process dead."""
JOIN_AFTER = 2.0
"""Seconds after which a process that waits for a quorum requests to join; then after twice as many, and so on."""
JOIN_EVERY = 60.0
"""Seconds between two such requests, at most: each lets those who train form their group again, also in vain."""
POLL = 2.0
"""Seconds between two looks whether a process that waits for a quorum is to leave."""
_RPC = timedelta(seconds=5)

_logger = logging.getLogger(__name__)


class QuorumError(ExecutionError):
    """No quorum came about: the lighthouse does not answer, or too few processes are left."""


class Membership:
    """This process as the lighthouse knows it: it sends heartbeats while the block runs.

    Args:
        request_join: asks those who train, where there are any, for a new quorum; called in a thread while this process
            waits for one.
        run: what must be the same on all members (`Member.run`).
        lighthouse: its address, `http://HOST:PORT`.

    Raises:
        ConfigError: torchft or the lighthouse's address is not there.
    """

    def __init__(self, request_join: Callable[[], None], run: Mapping[str, str], lighthouse: str | None = None) -> None:
        self._request_join, self._run = request_join, dict(run)
        self._lighthouse = lighthouse or os.environ.get(LIGHTHOUSE, "")
        check_live(self._lighthouse)
        self.renew()
        self._host, self._port = _own_address(self._lighthouse), urlsplit(self._lighthouse).port or 0
        self._store = dist.TCPStore(self._host, 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
        self._ended = threading.Event()
        self._waits_since = float("inf")
        works = self._send_heartbeats, self._request_joins
        self._threads = [threading.Thread(target=work, name="quorum", daemon=True) for work in works]

    def __enter__(self) -> "Membership":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(_RPC.total_seconds())

    def renew(self) -> None:
        """Become another process for the lighthouse: a quorum of the same ones as before needs no others."""
        self.id = uuid.uuid4().hex

    def quorum(
        self,
        count: int,
        group: int,
        rank: int | None,
        *,
        least: int,
        most: int,
        timeout: float,
        poll: Callable[[], None] = lambda: None,
    ) -> Quorum:
        """Wait for a quorum; every process that is to take part calls it.

        Args:
            count: transactions that this process's state has behind it; 0 without a state.
            group: when the group was formed that the state is of; 0 without a state.
            rank: of this process in the group before; None without one.
            least: number of members.
            most: number of members; of more, those with the highest ranks are left out, and wait.
            timeout: seconds to wait.
            poll: called every `POLL` seconds meanwhile; may raise.

        Raises:
            QuorumError: none came about in that time.
            ConfigError: the other members train another run.
        """
        started = self._waits_since = time.monotonic()
        problem = ""
        facts: dict[Hashable, object] = {"rank": rank, "group": group, "run": self._run}
        try:
            while (left := timeout - (time.monotonic() - started)) > 0:
                poll()
                try:
                    found = self._asked(count, facts, left, poll)
                except (RuntimeError, TimeoutError) as error:
                    problem = str(error).splitlines()[0]
                    time.sleep(0.5)
                    continue
                quorum = assign(found, self.id, most, self._lighthouse)
                if quorum.rank is not None and len(quorum.members) >= least:
                    return quorum
                problem = f"{len(quorum.members)} workers of {least} to {most} (cluster.num_workers)"
                time.sleep(0.5)
        finally:
            self._waits_since = float("inf")
        hint = f"{problem}; is it this run's own?"
        raise QuorumError(f"no quorum within {timeout:.0f} s at the lighthouse {self._lighthouse}: {hint}")

    def _asked(self, count: int, facts: dict[Hashable, object], timeout: float, poll: Callable[[], None]) -> object:
        """The lighthouse's answer; its client waits in a thread, as no signal reaches the one in which it does."""
        own, answers = self.id, queue.SimpleQueue()

        def ask() -> None:
            try:
                answer = self._client().quorum(
                    own,
                    timeout=timedelta(seconds=timeout),
                    address=self._host,
                    store_address=f"{self._host}:{self._store.port}",
                    step=count,
                    world_size=1,
                    data=facts,
                )
            except Exception as error:
                answer = error
            answers.put(answer)

        threading.Thread(target=ask, name="quorum", daemon=True).start()
        while True:
            try:
                answer = answers.get(timeout=POLL)
                break
            except queue.Empty:
                poll()
                close_silent(self._port)  # another lighthouse does not know of this request
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _client(self):  # noqa: ANN202 - torchft's classes are not there on every platform
        from torchft.coordination import LighthouseClient

        return LighthouseClient(self._lighthouse, connect_timeout=_RPC)

    def _send_heartbeats(self) -> None:
        client, last = None, ""
        while not self._ended.wait(HEARTBEAT):
            try:
                client = client or self._client()
                client.heartbeat(self.id, timeout=_RPC)
                last = ""
            except Exception as error:
                client = None
                if (text := f"{type(error).__name__}: {error}") != last:
                    _logger.warning("no heartbeat to the lighthouse: %s", text)
                last = text

    def _request_joins(self) -> None:
        asked, pause = 0.0, JOIN_AFTER
        while not self._ended.wait(HEARTBEAT):
            now, since = time.monotonic(), self._waits_since
            if since > asked:
                pause = JOIN_AFTER
            if now - max(since, asked) <= pause:
                continue
            asked, pause = now, min(2.0 * pause, JOIN_EVERY)
            try:
                self._request_join()
            except Exception as error:
                _logger.warning("the request to join could not be written: %s: %s", type(error).__name__, error)


def check_live(lighthouse: str) -> None:
    """Refuse live recovery where it cannot be.

    Args:
        lighthouse: its address.

    Raises:
        ConfigError: torchft is not installed, or the address is not there.
    """
    check_torchft()
    if not urlsplit(lighthouse).port:
        problem = f"{LIGHTHOUSE} does not name a lighthouse (http://HOST:PORT)"
        remedy = "start torchft_lighthouse and set it (docs/faults.md), or use restart"
        raise ConfigError(problem, key="cluster.recovery", value="live", remedy=remedy)


def _own_address(lighthouse: str) -> str:
    """The address by which others reach this process: that of the interface towards the lighthouse."""
    parts = urlsplit(lighthouse)
    host, port = parts.hostname or "", parts.port or 0
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            f"the lighthouse's host cannot be reached: {error}",
            key="cluster.recovery",
            value="live",
            remedy=f"correct {LIGHTHOUSE} = {lighthouse}",
        ) from None
