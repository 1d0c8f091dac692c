"""Changes of the cluster under a run: room that is requested and waited for, nodes that drain, room to scale up.

An autoscaler (KubeRay's, Ray's own on clouds) adds nodes for what is pending in the cluster's queue. Room is therefore
requested as placement groups, one per worker: they need no privileges, do not interfere with other jobs' requests, and
vanish with this process, however it ends.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from ray.exceptions import RayError
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from ganscale.config import Config, ConfigError
from ganscale.launch.cluster import host_names, nodes, unused
from ganscale.launch.compat import draining_nodes
from ganscale.launch.heartbeat_actor import AttemptHeartbeats
from ganscale.launch.placement import NodeResources, Placement, place, worker_resources
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.stop_signal import StopFile, StopReason

Placed = TypeVar("Placed")

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to place."""
POLL_INTERVAL = 2.0
"""Seconds between two polls of `ClusterMonitor`."""
STABLE_POLLS = 3
"""Consecutive polls that must see the same room before the group restarts with more workers."""
SETTLED_POLLS = 15
"""The same while more nodes are pending: a restart costs more than the wait for the next node."""
USELESS_POLLS = 30
"""Consecutive polls after which room that is held but too small is released."""
REQUEST_PAUSE = 300.0
"""Seconds until it is requested again."""


class PlacementRequest:
    """Room for workers, requested and held until it is canceled.

    Args:
        each: Resources of a worker by Ray's names, e.g. `{"CPU": 1, "GPU": 1}`.
        workers: Number of workers.
        beside: Resources of a process beside the workers; empty for none.
    """

    def __init__(self, each: Mapping[str, float], workers: int, beside: Mapping[str, float] | None = None) -> None:
        self._groups: list[PlacementGroup] = []
        self._beside: list[PlacementGroup] = []
        try:
            if beside:
                self._beside.append(placement_group([dict(beside)]))
            for _ in range(workers):
                self._groups.append(placement_group([dict(each)]))
        except BaseException:
            self.cancel()
            raise

    def held(self) -> int | None:
        """Number of workers that have room so far; None if the cluster lost the request."""
        states = [placement_group_table(group).get("state") for group in self._groups]
        return None if set(states) - {"PENDING", "CREATED", "RESCHEDULING"} else states.count("CREATED")

    def cancel(self) -> None:
        """Release all room, held or pending."""
        groups, self._groups, self._beside = [*self._groups, *self._beside], [], []
        for group in groups:
            with suppress(RayError):
                remove_placement_group(group)


def waiting_message(error: ConfigError, seconds: float) -> str:
    """The log line of a wait for nodes.

    Args:
        error: Why there is no room yet.
        seconds: Longest wait.
    """
    return f"{str(error).partition(chr(10))[0]}; requesting nodes and waiting up to {seconds:.0f} s for them"


def wait_for_placement(
    place: Callable[[], Placed],
    *,
    seconds: float,
    request: Callable[[ConfigError], PlacementRequest] | None = None,
    is_canceled: Callable[[], bool] = lambda: False,
) -> Placed:
    """Call `place` until it succeeds, and return its result.

    Args:
        place: Inspects the cluster's nodes; raises ConfigError where there is no room.
        seconds: Longest wait.
        request: Called with the first ConfigError; its result is held until this returns.
        is_canceled: Whether to stop waiting.

    Raises:
        ConfigError: The last one of `place`.
    """
    until = time.monotonic() + seconds
    pending: PlacementRequest | None = None
    try:
        while True:
            try:
                return place()
            except ConfigError as error:
                if time.monotonic() >= until or is_canceled():
                    raise
                if pending is None and request is not None:
                    pending = request(error)
            time.sleep(min(RETRY_INTERVAL, max(0.0, until - time.monotonic())))
    finally:
        if pending is not None:
            pending.cancel()


def may_grow(config: Config, workers: int, all_nodes: list[NodeResources], available: NodeResources) -> bool:
    """Whether a group could have more workers: the config allows it, nodes have room, and that room is unused.

    Args:
        config: The run's config.
        workers: Current number of workers.
        all_nodes: Resources of the cluster's nodes.
        available: Unused resources of all nodes together.
    """
    if not isinstance(config.cluster.num_workers, tuple) or workers >= config.cluster.num_workers[1]:
        return False
    try:
        placement = place(config, all_nodes)
    except ConfigError:
        return False
    more = placement.num_workers - workers
    enough = available.cpus >= more * config.cluster.cpus_per_worker
    return more > 0 and enough and (not placement.use_gpu or available.gpus >= more)


class ScaleUpPolicy:
    """Decides when an elastic group restarts with more workers; requests room where `cluster.node_wait` allows it.

    Args:
        config: The run's config.
        placement: Its current workers.
        autoscales: Whether the cluster can add nodes.
    """

    def __init__(self, config: Config, placement: Placement, *, autoscales: bool) -> None:
        self._config, self._workers = config, placement.num_workers
        self._each = worker_resources(config, use_gpu=placement.use_gpu)
        wanted = config.cluster.num_workers
        self._max_workers = wanted[1] if isinstance(wanted, tuple) else self._workers
        self._may_request = autoscales and config.cluster.node_wait > 0
        self._request: PlacementRequest | None = None
        self._paused_until = 0.0
        self._seen, self._polls = (False, 0), 0

    def should_resize(self, *, has_started: Callable[[], bool]) -> bool:
        """Whether to restart the group now; polled at a fixed interval.

        Args:
            has_started: Whether the group occupies its own room: an earlier request would take that room.
        """
        more = self._max_workers - self._workers
        if more <= 0:
            return False
        can_request = self._may_request and self._request is None and time.monotonic() >= self._paused_until
        if can_request and has_started():
            self._request = PlacementRequest(self._each, more)
        held, free = self._held(), unused()
        room = NodeResources(free.cpus + held * self._each["CPU"], free.gpus + held * self._each.get("GPU", 0.0))
        seen = may_grow(self._config, self._workers, nodes(), room), held
        self._polls = self._polls + 1 if seen == self._seen else 1
        self._seen = seen
        if held and not seen[0] and self._polls >= USELESS_POLLS:  # other jobs use the rest of the cluster
            self.cancel()
            self._paused_until = time.monotonic() + REQUEST_PAUSE
        is_pending = self._request is not None and held < more
        return seen[0] and self._polls >= (SETTLED_POLLS if is_pending else STABLE_POLLS)

    def cancel(self) -> None:
        """Release all requested room."""
        request, self._request = self._request, None
        if request is not None:
            request.cancel()

    def _held(self) -> int:
        held = self._request.held() if self._request is not None else 0
        if held is None:  # the head node restarted and lost the request
            self.cancel()
        return held or 0


class ClusterMonitor:
    """Requests a stop of the workers while the block runs, when one of their nodes drains or the group can grow.

    Args:
        config: The run's config.
        placement: Its workers.
        stop_file: Where the stop is requested.
        actor: Has the heartbeats, and takes stop requests to the workers.
        autoscales: Whether the cluster can add nodes.
    """

    def __init__(
        self,
        config: Config,
        placement: Placement,
        stop_file: StopFile,
        actor: AttemptHeartbeats,
        *,
        autoscales: bool = True,
    ) -> None:
        self._stop_file, self._actor, self._workers = stop_file, actor, placement.num_workers
        self._known_draining = draining_nodes()
        self._previous = set(map(_process, actor.stored()))
        self._scale_up = ScaleUpPolicy(config, placement, autoscales=autoscales)
        # Ray cannot add workers to a group that outlives them: all leave, as where a node drains.
        self._growth = StopReason.DRAIN if config.cluster.recovery == "live" else StopReason.RESIZE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster_monitor", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5 * POLL_INTERVAL)

    def _run(self) -> None:
        while not self._ended.wait(POLL_INTERVAL):
            with suppress(Exception):  # a cluster that does not answer fails the workers, too
                reason = self._poll()
                if reason > self._stop_file.requested and not self._ended.is_set() and self._stop_file.read() < reason:
                    self._actor.request(reason)  # first: the storage may not answer for minutes
                    self._stop_file.write(reason)
            if self._stop_file.requested:
                self._actor.request(self._stop_file.requested)
        with suppress(Exception):
            self._scale_up.cancel()

    def _poll(self) -> StopReason:
        draining = draining_nodes() - self._known_draining
        if draining:
            heartbeats = self._current()
            if not heartbeats or host_names(draining) & {heartbeat.host for heartbeat in heartbeats}:
                return StopReason.DRAIN
        grows = self._scale_up.should_resize(has_started=lambda: len(self._current()) >= self._workers)
        return self._growth if grows else StopReason.NONE

    def _current(self) -> list[Heartbeat]:
        """Heartbeats of this attempt's workers; without the actor, the storage may have those of an earlier one."""
        return [heartbeat for heartbeat in self._actor.read() if _process(heartbeat) not in self._previous]


def _process(heartbeat: Heartbeat) -> tuple[int, str, int, int]:
    return heartbeat.rank, heartbeat.host, heartbeat.pid, heartbeat.born
