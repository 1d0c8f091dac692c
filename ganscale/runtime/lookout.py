"""The driver's look at its cluster while workers train: nodes that are about to go, and room for more workers."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ganscale.config import Config, ConfigError
from ganscale.runtime.cluster import draining, free, nodes
from ganscale.runtime.demand import Demand
from ganscale.runtime.heartbeat import Beat
from ganscale.runtime.notice import Reason, StopFile
from ganscale.runtime.resources import Node, Placement, place, worker_resources

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

    Where the config has `cluster.node_wait`, the autoscaler is asked for the nodes that the group could grow by.

    Args:
        config: the run's.
        placement: of the workers.
        stop: how they are asked.
        beats: reads their signs of life, which may be those of workers before them.
    """

    def __init__(
        self, config: Config, placement: Placement, stop: StopFile, beats: Callable[[], Sequence[Beat]]
    ) -> None:
        self._config, self._placement, self._stop_file, self._beats = config, placement, stop, beats
        self._known = draining()
        self._before = set(map(_process, beats()))
        self._demand: Demand | None = None
        self._seen = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5 * EVERY)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            with suppress(Exception):  # a cluster that does not answer shows itself in the workers, too
                reason = self._look()
                if reason and not self._stop.is_set() and self._stop_file.read() < reason:
                    self._stop_file.write(reason)
        if self._demand is not None:
            with suppress(Exception):
                self._demand.withdraw()

    def _look(self) -> Reason:
        if draining() - self._known:
            return Reason.DRAIN
        grows = may_grow(self._config, self._placement.num_workers, nodes(), self._unused())
        self._seen = self._seen + 1 if grows else 0
        return Reason.RESIZE if self._seen >= STEADY else Reason.NONE

    def _unused(self) -> Node:
        """What is free, and what is held for this run."""
        unused, held = free(), self._held()
        each = worker_resources(self._config, use_gpu=self._placement.use_gpu)
        return Node(unused.cpus + held * each["CPU"], unused.gpus + held * each.get("GPU", 0.0))

    def _held(self) -> int:
        """Workers more for which there is room by now; asks for it once the group has taken its own."""
        wanted, workers = self._config.cluster.num_workers, self._placement.num_workers
        if not self._config.cluster.node_wait or not isinstance(wanted, tuple) or workers >= wanted[1]:
            return 0
        if self._demand is None:
            if len(set(map(_process, self._beats())) - self._before) < workers:
                return 0
            each = worker_resources(self._config, use_gpu=self._placement.use_gpu)
            self._demand = Demand(each, wanted[1] - workers)
        return self._demand.held()


def _process(beat: Beat) -> tuple[int, str, int, int]:
    return beat.rank, beat.host, beat.pid, beat.born
