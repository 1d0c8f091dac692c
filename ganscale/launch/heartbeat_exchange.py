"""What runs in the actor of `ganscale.launch.heartbeat_actor`: plain types, so that its process loads no torch."""

import time
from typing import Any


class HeartbeatExchange:
    """The newest heartbeat of each worker, and the requested stop."""

    def __init__(self) -> None:
        self._heartbeats: dict[int, dict[str, Any]] = {}
        self._reason = 0

    def exchange(self, facts: dict[str, Any]) -> int:
        """Keep a heartbeat, with the time by the actor's clock; return the requested `StopReason`.

        Args:
            facts: fields of a `Heartbeat`.
        """
        self._heartbeats[facts["rank"]] = facts | {"time": time.time()}
        return self._reason

    def read(self) -> list[dict[str, Any]]:
        """The last heartbeats of all workers."""
        return [self._heartbeats[rank] for rank in sorted(self._heartbeats)]

    def request(self, reason: int) -> None:
        """Request a stop; of several the largest reason counts.

        Args:
            reason: a `StopReason`.
        """
        self._reason = max(self._reason, reason)
