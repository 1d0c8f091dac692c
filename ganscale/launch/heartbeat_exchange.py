"""What runs in the actor of `ganscale.launch.heartbeat_actor`: plain types, so that its process loads no torch."""

import time
from typing import Any


class HeartbeatExchange:
    """The newest heartbeat of each worker, and the requested stop."""

    def __init__(self) -> None:
        self._heartbeats: dict[int, dict[str, Any]] = {}
        self._reason = 0
        self._starts, self._failure = 0, ""

    def exchange(self, facts: dict[str, Any]) -> int:
        """Keep a heartbeat, with the time by the actor's clock; return the requested `StopReason`.

        Args:
            facts: fields of a `Heartbeat`.
        """
        self._heartbeats[facts["rank"]] = facts | {"time": time.time()}
        return self._reason

    def open(self, world_size: int) -> None:
        """Forget workers that there are no more.

        Args:
            world_size: number of workers.
        """
        self._heartbeats = {rank: facts for rank, facts in self._heartbeats.items() if rank < world_size}

    def start(self) -> None:
        """Count a worker that starts."""
        self._starts += 1

    def fail(self, text: str) -> None:
        """Keep why a worker fails.

        Args:
            text: the error.
        """
        self._failure = text

    def starts(self) -> tuple[int, str]:
        """Workers that started in this attempt, and why the last one failed that could report it."""
        return self._starts, self._failure

    def read(self) -> list[dict[str, Any]]:
        """The last heartbeats of all workers."""
        return [self._heartbeats[rank] for rank in sorted(self._heartbeats)]

    def request(self, reason: int) -> None:
        """Request a stop; of several the largest reason counts.

        Args:
            reason: a `StopReason`.
        """
        self._reason = max(self._reason, reason)
