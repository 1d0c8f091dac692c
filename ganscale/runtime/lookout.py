"""The driver's look at its cluster while workers train: nodes that are about to go, and room for more workers."""

import threading
from contextlib import suppress

from ganscale.config import Config, ConfigError
from ganscale.runtime.cluster import draining, free, nodes
from ganscale.runtime.notice import Reason, StopFile
from ganscale.runtime.resources import Node, place

EVERY = 2.0
"""Seconds between two looks."""
STEADY = 3
"""Looks in a row that must see the room before the group is made anew."""


def may_grow(config: Config, workers: int, all_nodes: list[Node], unused: Node) -> bool:
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


class Lookout:
    """Asks the workers to leave while the block runs, when a node is about to go or the group can grow.

    Args:
        config: the run's.
        workers: their number.
        stop: how they are asked.
    """

    def __init__(self, config: Config, workers: int, stop: StopFile) -> None:
        self._config, self._workers, self._stop_file = config, workers, stop
        self._known = draining()
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(EVERY)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            with suppress(Exception):  # a cluster that does not answer shows itself in the workers, too
                reason = self._look()
                if reason and not self._stop.is_set() and self._stop_file.read() < reason:
                    self._stop_file.write(reason)

    def _look(self) -> Reason:
        if draining() - self._known:
            return Reason.DRAIN
        grows = may_grow(self._config, self._workers, nodes(), free())
        self._seen = self._seen + 1 if grows else 0
        return Reason.RESIZE if self._seen >= STEADY else Reason.NONE
