"""When an elastic group is to have more workers: there is free room, or nodes have come that were asked for."""

import time
from collections.abc import Callable

from ganscale.config import Config, ConfigError
from ganscale.launch.cluster import free, nodes
from ganscale.launch.placement import NodeResources, Placement, place, worker_resources
from ganscale.launch.placement_request import PlacementRequest

STEADY = 3
"""Looks in a row that must see the same room before the group is made anew."""
SETTLED = 15
"""The same while more nodes are to come: each start costs more than a wait for the next node."""
IN_VAIN = 30
"""Looks after which room that is held but is of no use is given back."""
PAUSE = 300.0
"""Seconds until it is asked for again."""


def may_grow(config: Config, workers: int, all_nodes: list[NodeResources], unused: NodeResources) -> bool:
    """Whether a group of `workers` could have more: the config allows it, nodes have room, and that room is free.

    Args:
        config: the run's.
        workers: number of them now.
        all_nodes: what the cluster's nodes have.
        unused: what of it nobody uses.
    """
    if not isinstance(config.cluster.num_workers, tuple) or workers >= config.cluster.num_workers[1]:
        return False
    try:
        placement = place(config, all_nodes)
    except ConfigError:
        return False
    more = placement.num_workers - workers
    enough = unused.cpus >= more * config.cluster.cpus_per_worker
    return more > 0 and enough and (not placement.use_gpu or unused.gpus >= more)


class ScaleUpPolicy:
    """Looks for room, and where the config has `cluster.node_wait` asks for it.

    Args:
        config: the run's.
        placement: of the workers that it has.
        asks: whether the cluster can grow.
    """

    def __init__(self, config: Config, placement: Placement, *, asks: bool) -> None:
        self._config, self._workers = config, placement.num_workers
        self._each = worker_resources(config, use_gpu=placement.use_gpu)
        wanted = config.cluster.num_workers
        self._most = wanted[1] if isinstance(wanted, tuple) else self._workers
        self._asks = asks and config.cluster.node_wait > 0
        self._request: PlacementRequest | None = None
        self._asked_again = 0.0
        self._saw, self._looks = (False, 0), 0

    def look(self, *, started: Callable[[], bool]) -> bool:
        """Whether it is time to make the group anew; called again and again.

        Args:
            started: tells whether the group has taken its own room: until then asking would take that away from it.
        """
        if self._workers >= self._most:
            return False
        if self._asks and self._request is None and time.monotonic() >= self._asked_again and started():
            self._request = PlacementRequest(self._each, self._most - self._workers)
        held = self._held()
        unused = free()
        room = NodeResources(unused.cpus + held * self._each["CPU"], unused.gpus + held * self._each.get("GPU", 0.0))
        saw = may_grow(self._config, self._workers, nodes(), room), held
        self._looks = self._looks + 1 if saw == self._saw else 1
        self._saw = saw
        if held and not saw[0] and self._looks >= IN_VAIN:  # others have the rest of the cluster
            self.cancel()
            self._asked_again = time.monotonic() + PAUSE
        more_come = self._request is not None and held < self._most - self._workers
        return saw[0] and self._looks >= (SETTLED if more_come else STEADY)

    def cancel(self) -> None:
        """Give back what is held and ask for no more."""
        request, self._request = self._request, None
        if request is not None:
            request.cancel()

    def _held(self) -> int:
        """Workers more for which room is held."""
        if self._request is None:
            return 0
        held = self._request.held()
        if held is None:  # the cluster's head has forgotten it
            self.cancel()
        return held or 0
