"""Heartbeats and stop requests of a run on Ray: an actor on the driver's node has them, so that storage need not.

One call of each worker every two seconds takes its heartbeat there and brings a stop request back. The actor ends with
the driver. So heartbeats also go to the run's storage, more rarely in a bucket, for what outlives the driver: the
record of a failure, and another driver's look at the run. Stops are requested there as well, once each. Where the actor
does not answer, workers use the storage alone until it does.
"""

import logging
import time
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ganscale.launch.heartbeat_exchange import HeartbeatExchange
from ganscale.run.heartbeats import EVERY, Heartbeat, PlaceChannel
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place

CALL_TIMEOUT = 2.0
"""Seconds that a worker's thread, or the driver, waits for the actor."""
MOST_PENDING = 8
"""Calls of a worker that may wait for an actor which cannot be reached."""
NO_ATTEMPT = 0
"""The actor's attempt between two; the first one has the number 1."""

_logger = logging.getLogger(__name__)


class HeartbeatActor:
    """The driver's side, for a run: an actor for all attempts, killed after the block.

    Args:
        folder: the run's.
        run: its name.
    """

    def __init__(self, folder: RunDir, run: str) -> None:
        self._folder, self._run = folder, run
        self._attempts, self._handle = 0, None

    def __enter__(self) -> "HeartbeatActor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._kill()

    def begin(self) -> "AttemptHeartbeats":
        """Serve another attempt, by another actor where the last one does not answer.

        Raises:
            RayError: Ray starts none.
        """
        self._attempts += 1
        if self._handle is None or isinstance(_ask(self._handle.begin, self._attempts), Exception):
            self._kill()
            self._handle = self._start()
        return AttemptHeartbeats(self._folder, self._handle, self._attempts)

    def _start(self) -> Any:
        actor: Any = ray.remote(HeartbeatExchange).options(
            name=f"{self._run}-heartbeats-{time.time_ns()}",
            num_cpus=0,
            max_restarts=0,
            max_pending_calls=MOST_PENDING,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True),
        )
        return actor.remote(self._attempts)

    def _kill(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(RayError):
                ray.kill(handle)


class AttemptHeartbeats:
    """The driver's side, for one attempt: after the block the actor refuses this attempt's workers.

    Args:
        folder: the run's.
        handle: of the actor.
        number: of the attempt.
    """

    def __init__(self, folder: RunDir, handle: Any, number: int) -> None:
        self._place = PlaceChannel(folder.heartbeats)
        self.handle, self.number = handle, number

    def __enter__(self) -> "AttemptHeartbeats":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(RayError):
            self.handle.begin.remote(NO_ATTEMPT)

    def request(self, reason: StopReason) -> None:
        """Pass a stop request on to the workers.

        Args:
            reason: why.
        """
        with suppress(RayError):
            self.handle.request.remote(int(reason), self.number)

    def stored(self) -> list[Heartbeat]:
        """The heartbeats in storage, which may be those of an earlier attempt."""
        return self._place.read()

    def read(self) -> list[Heartbeat]:
        """The last heartbeats of all workers; those in storage if the actor does not answer."""
        found = _ask(self.handle.read, self.number)
        return self.stored() if isinstance(found, Exception) else [Heartbeat(**facts) for facts in found]


class ActorChannel:
    """A worker's side (a `HeartbeatChannel`). Only its own thread waits for the actor, and not for long.

    Args:
        actor: `AttemptHeartbeats.handle`.
        path: the run's folder, or its place in a bucket.
        attempt: `AttemptHeartbeats.number`.
    """

    def __init__(self, actor: Any, path: Place, attempt: int = NO_ATTEMPT) -> None:
        self._actor, self._attempt, self.every = actor, attempt, EVERY
        self._place, self._stop_file = PlaceChannel(path / ".heartbeats"), StopFile(path / ".stop")
        self._reason, self._warned = StopReason.NONE, False

    def ask(self) -> StopReason:
        """The stop request that came with the last heartbeat; waits for nothing."""
        return self._reason

    def open(self, rank: int, world_size: int) -> None:
        """Prepare the storage (part of `HeartbeatChannel`)."""
        self._place.open(rank, world_size)
        if rank == 0:
            _ask(self._actor.open, world_size, self._attempt)

    def start(self) -> None:
        """Count this worker; called once."""
        _ask(self._actor.start, self._attempt)

    def fail(self, text: str) -> None:
        """Tell why this worker fails.

        Args:
            text: the error.
        """
        _ask(self._actor.fail, text, self._attempt)

    def starts(self) -> tuple[int, str]:
        """How many workers of this attempt started, and why the last one failed; no worker and "" if unknown."""
        found = _ask(self._actor.starts, self._attempt)
        return (0, "") if isinstance(found, Exception) else found

    def send(self, heartbeat: Heartbeat) -> None:
        """Send a heartbeat to the actor, and to the storage if one is due there (part of `HeartbeatChannel`)."""
        found = _ask(self._actor.exchange, asdict(heartbeat), self._attempt)
        if isinstance(found, Exception):
            self._warn(found)
            self._reason = self._stop_file.read()
        else:
            self._reason = StopReason(found)
        self._place.send(heartbeat)  # last: the storage may hang

    def read(self) -> list[Heartbeat]:
        """Those that the actor has, or the storage (part of `HeartbeatChannel`)."""
        found = _ask(self._actor.read, self._attempt)
        if isinstance(found, Exception):
            self._warn(found)
            self.every = self._place.every
            return self._place.read()
        self.every = EVERY
        return [Heartbeat(**facts) for facts in found]

    def record_hang(self, text: str) -> None:
        """Keep it in the storage (part of `HeartbeatChannel`)."""
        self._place.record_hang(text)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            _logger.warning("heartbeats and stop requests go by the run's storage alone for now (%s)", reason)
        self._warned = True


def _ask(method: Any, *arguments: Any) -> Any:
    """What a method of the actor returns, or why there is no answer; waits for `CALL_TIMEOUT` seconds at most."""
    try:
        return ray.get(method.remote(*arguments), timeout=CALL_TIMEOUT)
    except Exception as error:  # whatever fails in Ray, training continues
        return error
