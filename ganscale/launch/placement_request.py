"""Nodes that are not there yet: the cluster's autoscaler is asked for them, and the run waits.

An autoscaler (KubeRay's, Ray's own on clouds) adds nodes for what waits in the cluster's queue. So room for workers is
asked for as placement groups, one per worker: they need no right over the cluster, other jobs' demands stand beside
them, and they are gone with this process, however it ends.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from ray.exceptions import RayError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from ganscale.config import ConfigError

Placed = TypeVar("Placed")

AGAIN = 1.0
"""Seconds between two tries."""


class PlacementRequest:
    """Room for workers, asked for and held until it is withdrawn.

    Args:
        each: resources of a worker by Ray's names, e.g. `{"CPU": 1, "GPU": 1}`.
        workers: number of them.
    """

    def __init__(self, each: Mapping[str, float], workers: int) -> None:
        self._groups: list[PlacementGroup] = []
        try:
            for _ in range(workers):
                self._groups.append(placement_group([dict(each)]))
        except BaseException:
            self.cancel()
            raise

    def held(self) -> int | None:
        """Workers for which there is room by now; None where the cluster knows nothing of the demand any more."""
        states = [placement_group_table(group).get("state") for group in self._groups]
        return None if set(states) - {"PENDING", "CREATED", "RESCHEDULING"} else states.count("CREATED")

    def cancel(self) -> None:
        """Give back what is held and ask for no more."""
        groups, self._groups = self._groups, []
        for group in groups:
            with suppress(RayError):
                remove_placement_group(group)


def waiting(error: ConfigError, seconds: float) -> str:
    """What is said of a wait."""
    return f"{str(error).partition(chr(10))[0]}; asking for nodes and waiting up to {seconds:.0f} s for them"


def wait_for_placement(
    place: Callable[[], Placed],
    *,
    seconds: float,
    ask: Callable[[ConfigError], PlacementRequest] | None = None,
    given_up: Callable[[], bool] = lambda: False,
) -> Placed:
    """What `place` gives as soon as it refuses no longer.

    Args:
        place: looks at the cluster's nodes; raises ConfigError where there is no room.
        seconds: that it is tried for.
        ask: called once with the first refusal; the demand stands while this waits.
        given_up: whether to wait no longer.

    Raises:
        ConfigError: the last refusal.
    """
    until = time.monotonic() + seconds
    request: PlacementRequest | None = None
    try:
        while True:
            try:
                return place()
            except ConfigError as error:
                if time.monotonic() >= until or given_up():
                    raise
                if request is None and ask is not None:
                    request = ask(error)
            time.sleep(min(AGAIN, max(0.0, until - time.monotonic())))
    finally:
        if request is not None:
            request.cancel()
