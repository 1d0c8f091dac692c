"""Which processes train together: a quorum of those that reach torchft's lighthouse (`cluster.recovery: live`)."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from types import TracebackType
from urllib.parse import urlsplit

import torch.distributed as dist

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable with the lighthouse's address; Ray Train's `TorchftConfig` sets it too."""
HEARTBEAT = 0.25
"""Seconds between two heartbeats: a small part of the time after which the lighthouse declares a process dead."""
RING_AFTER = 2.0
"""Seconds after which a process that waits for a quorum rings, and between two times."""
_RPC = timedelta(seconds=5)

_logger = logging.getLogger(__name__)


class QuorumError(ExecutionError):
    """No quorum came about: the lighthouse does not answer, or too few processes are left."""


@dataclass(frozen=True)
class Member:
    """What a process tells the others when it asks for a quorum.

    Attributes:
        id: of the process, unique.
        store: `HOST:PORT` of its TCPStore.
        count: of the transactions that its state has behind it; 0 if it has no state.
        rank: in the group before; None for a new one.
        group: `Quorum.time` of the group that its state is of; 0 without a state.
    """

    id: str
    store: str
    count: int
    rank: int | None
    group: int

    def order(self) -> tuple[float, str]:
        """Ranks stay in their order, so that rank 0 stays where it is; new members come last."""
        return float("inf") if self.rank is None else self.rank, self.id


@dataclass(frozen=True)
class Quorum:
    """The processes that train together from now on, the same on all of them.

    Attributes:
        name: of this quorum, unlike that of any other.
        members: by rank.
        rank: of this process; None if there are more than may take part and it is one of those left out.
        time: when it was formed, in nanoseconds by the lighthouse's clock.
    """

    name: str
    members: tuple[Member, ...]
    rank: int | None
    time: int

    @property
    def source(self) -> int:
        """Rank of the member with the newest state: of the newest group, as that of one that was away is of no use."""
        states = [(member.group, member.count) for member in self.members]
        return states.index(max(states))


class Membership:
    """This process as the lighthouse knows it: it sends heartbeats while the block runs.

    Args:
        ring: asks those who train, where there are any, for a new quorum; called in a thread while this process waits
            for one.
        lighthouse: its address, `http://HOST:PORT`.

    Raises:
        ConfigError: torchft or the lighthouse's address is not there.
    """

    def __init__(self, ring: Callable[[], None], lighthouse: str | None = None) -> None:
        self._ring = ring
        self._lighthouse = lighthouse or os.environ.get(LIGHTHOUSE, "")
        check_live(self._lighthouse)
        self.id = uuid.uuid4().hex
        self._host = _own_address(self._lighthouse)
        self._store = dist.TCPStore(self._host, 0, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
        self._ended = threading.Event()
        self._waits_since = float("inf")
        self._thread = threading.Thread(target=self._send_heartbeats, name="quorum", daemon=True)

    def __enter__(self) -> "Membership":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(_RPC.total_seconds())

    def quorum(self, count: int, group: int, rank: int | None, *, least: int, most: int, timeout: float) -> Quorum:
        """Wait for a quorum; every process that is to take part calls it.

        Args:
            count: transactions that this process's state has behind it; 0 without a state.
            group: `Quorum.time` of the group that the state is of; 0 without a state.
            rank: of this process in the group before; None without one.
            least: number of members.
            most: number of members; of more, those with the highest ranks are left out.
            timeout: seconds to wait.

        Raises:
            QuorumError: none came about in that time.
        """
        started = self._waits_since = time.monotonic()
        problem = ""
        facts: dict[Hashable, object] = {"rank": rank, "group": group}
        try:
            while (left := timeout - (time.monotonic() - started)) > 0:
                try:
                    found = self._client().quorum(
                        self.id,
                        timeout=timedelta(seconds=left),
                        address=self._host,
                        store_address=f"{self._host}:{self._store.port}",
                        step=count,
                        world_size=1,
                        data=facts,
                    )
                except (RuntimeError, TimeoutError) as error:
                    problem = str(error).splitlines()[0]
                    time.sleep(0.5)
                    continue
                quorum = _assign(found, self.id, most)
                if len(quorum.members) >= least:
                    return quorum
                problem = f"{len(quorum.members)} workers of at least {least} (cluster.num_workers)"
                time.sleep(0.5)
        finally:
            self._waits_since = float("inf")
        raise QuorumError(f"no quorum within {timeout:.0f} s at the lighthouse {self._lighthouse}: {problem}")

    def _client(self):  # noqa: ANN202 - torchft's classes are not there on every platform
        from torchft.coordination import LighthouseClient

        return LighthouseClient(self._lighthouse, connect_timeout=_RPC)

    def _send_heartbeats(self) -> None:
        client, rung = None, 0.0
        while not self._ended.wait(HEARTBEAT):
            try:
                client = client or self._client()
                client.heartbeat(self.id, timeout=_RPC)
            except (RuntimeError, TimeoutError) as error:
                _logger.debug("no heartbeat: %s", error)
                client = None
            now = time.monotonic()
            if now - max(self._waits_since, rung) > RING_AFTER:
                rung = now
                with suppress(OSError):
                    self._ring()


def check_live(lighthouse: str) -> None:
    """Refuse live recovery where it cannot be.

    Args:
        lighthouse: its address.

    Raises:
        ConfigError: torchft is not installed, or the address is not there.
    """
    problem, remedy = "", ""
    if find_spec("torchft") is None:
        problem, remedy = (
            "torchft is not installed",
            "pip install 'ganscale[live]' (Linux, Python 3.11), or restart",
        )
    elif not urlsplit(lighthouse).port:
        problem = f"{LIGHTHOUSE} does not name a lighthouse (http://HOST:PORT)"
        remedy = "start torchft_lighthouse and set it (docs/faults.md), or use restart"
    if problem:
        raise ConfigError(problem, key="cluster.recovery", value="live", remedy=remedy)


def _assign(found: object, own: str, most: int) -> Quorum:
    """Ranks of a lighthouse's quorum."""
    members = sorted(
        (
            Member(each.replica_id, each.store_address, each.step, **each.data)
            for each in found.participants  # pyright: ignore[reportAttributeAccessIssue]
        ),
        key=Member.order,
    )[:most]
    created = found.created  # pyright: ignore[reportAttributeAccessIssue]
    name = f"{found.quorum_id}-{created.seconds}-{created.nanos}"  # pyright: ignore[reportAttributeAccessIssue]
    rank = next((rank for rank, member in enumerate(members) if member.id == own), None)
    return Quorum(name, tuple(members), rank, created.seconds * 10**9 + created.nanos)


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
