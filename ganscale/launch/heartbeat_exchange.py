"""What runs in the actor of `ganscale.launch.heartbeat_actor`: plain types, so that its process loads no torch."""

import time
from typing import Any


class HeartbeatExchange:
    """The newest heartbeat of each worker of the current attempt, and the requested stop.

    Calls of another attempt fail: its workers, which may be cut off from the driver, then use the storage.

    Args:
        attempt: number of the current attempt.
    """

    def __init__(self, attempt: int = 0) -> None:
        self.begin(attempt)

    def begin(self, attempt: int) -> None:
        """Forget everything of the attempt before.

        Args:
            attempt: number of the current attempt from now on; that of no worker ends the attempt.
        """
        self._attempt = attempt
        self._heartbeats: dict[int, dict[str, Any]] = {}
        self._reason = 0
        self._starts, self._failure = 0, ""

    def exchange(self, facts: dict[str, Any], attempt: int = 0) -> int:
        """Keep a heartbeat, with the time by the actor's clock; return the requested `StopReason`.

        Args:
            facts: fields of a `Heartbeat`.
            attempt: the caller's.
        """
        self._check(attempt)
        self._heartbeats[facts["rank"]] = facts | {"time": time.time()}
        return self._reason

    def open(self, world_size: int, attempt: int = 0) -> None:
        """Forget workers that there are no more.

        Args:
            world_size: number of workers.
            attempt: the caller's.
        """
        self._check(attempt)
        self._heartbeats = {rank: facts for rank, facts in self._heartbeats.items() if rank < world_size}

    def start(self, attempt: int = 0) -> None:
        """Count a worker that starts.

        Args:
            attempt: the caller's.
        """
        self._check(attempt)
        self._starts += 1

    def fail(self, text: str, attempt: int = 0) -> None:
        """Keep why a worker fails.

        Args:
            text: the error.
            attempt: the caller's.
        """
        self._check(attempt)
        self._failure = text

    def starts(self, attempt: int = 0) -> tuple[int, str]:
        """Workers that started in this attempt, and why the last one failed that could report it.

        Args:
            attempt: the caller's.
        """
        self._check(attempt)
        return self._starts, self._failure

    def read(self, attempt: int = 0) -> list[dict[str, Any]]:
        """The last heartbeats of all workers.

        Args:
            attempt: the caller's.
        """
        self._check(attempt)
        return [self._heartbeats[rank] for rank in sorted(self._heartbeats)]

    def request(self, reason: int, attempt: int = 0) -> None:
        """Request a stop; of several the largest reason counts, and none of an attempt that has ended.

        Args:
            reason: a `StopReason`.
            attempt: the caller's.
        """
        if attempt == self._attempt:  # nobody waits for the answer, and Ray would print an error
            self._reason = max(self._reason, reason)

    def _check(self, attempt: int) -> None:
        if attempt != self._attempt:
            raise ValueError(f"attempt {attempt} has ended")
