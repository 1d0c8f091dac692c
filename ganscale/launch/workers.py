"""Chooses the workers of each attempt: waits for nodes, and returns to the number of before when some were lost."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.launch.cluster import nodes
from ganscale.launch.elastic import PlacementRequest, wait_for_placement, waiting_message
from ganscale.launch.placement import (
    NodeResources,
    Placement,
    evaluation_resources,
    max_workers,
    place,
    place_recorded,
    place_recorded_or_fewer,
    recorded,
    worker_resources,
)
from ganscale.storage.run_dir import RunDir
from ganscale.storage.workers import WorkerRecord, read_workers, updated

_logger = logging.getLogger(__name__)

SETTLE_TIME = 5.0
"""Seconds for which a cluster must have the same nodes before they are counted for `cluster.num_workers: auto`."""
SETTLE_LIMIT = 30.0
"""Longest wait for that."""

_AUTO = (
    "cluster.num_workers = auto: as many workers as the cluster's nodes hold now: %d (it has %d nodes); "
    "cluster.num_workers=N fixes the number, and waits for the nodes"
)
_FEWER = (
    "the run resumes with fewer workers than before: %s instead of %s%s; cluster.node_wait=SECONDS waits for nodes, "
    "cluster.num_workers=%d asks for no more than these"
)


def applicable(config: Config, record: WorkerRecord | None) -> WorkerRecord | None:
    """The record if it decides about a resume: the number is auto and the device may be the record's.

    Args:
        config: The run's config.
        record: The run's record.
    """
    other = {"cpu": True, "cuda": False, "auto": None}[config.train.device]
    return None if record is None or config.cluster.num_workers != "auto" or record.use_gpu is other else record


def settled(
    look: Callable[[], Sequence[NodeResources]], *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Wait until a cluster has had the same nodes for `SETTLE_TIME`; False after `SETTLE_LIMIT`.

    Args:
        look: Lists the nodes.
        clock: Seconds since any moment.
        sleep: Waits for some seconds.
    """
    start = since = clock()
    seen = look()
    while clock() - since < SETTLE_TIME:
        if clock() - start >= SETTLE_LIMIT:
            return False
        sleep(1.0)
        if (now := look()) != seen:
            seen, since = now, clock()
    return True


class WorkerPlanner:
    """The workers of a run over its attempts.

    Args:
        config: The run's config.
        folder: Its folder, which has the record of its workers.
        joins: Whether the cluster existed before, and may get nodes.
        is_canceled: Whether to stop waiting.
    """

    def __init__(
        self, config: Config, folder: RunDir, *, joins: bool, is_canceled: Callable[[], bool] = lambda: False
    ) -> None:
        self._config, self._joins, self._is_canceled = config, joins, is_canceled
        self._wait = config.cluster.node_wait if joins else 0.0
        self._record = applicable(config, read_workers(folder))
        self._accepted_fewer = False

    def next(self, patience: float) -> Placement:
        """Choose the workers of the next attempt.

        Args:
            patience: Seconds to wait where there is no room at all; 0 at the first start.

        Raises:
            ConfigError: There is no room, or more workers than images.
        """
        record = self._record
        placement = self._first(patience) if record is None else self._resumed(record, patience)
        if self._config.cluster.num_workers == "auto":
            current = WorkerRecord(placement.num_workers, placement.use_gpu)
            self._record = applicable(self._config, updated(record, self._config, current))
        return placement

    def growth(self, placement: Placement) -> Config:
        """The config by which a group may grow: up to the record's workers where the config says auto.

        Args:
            placement: The group's workers.
        """
        record = self._record
        return self._config if record is None or placement.use_gpu != record.use_gpu else recorded(self._config, record)

    def _first(self, patience: float) -> Placement:
        config = self._config
        is_auto = self._joins and config.cluster.num_workers == "auto"
        if is_auto:
            settled(nodes, clock=time.monotonic, sleep=time.sleep)

        def look() -> Placement:
            placement = place(config, nodes())
            if patience:  # after a failure, wait for a number of nodes that divides the batch
                check_workers(config, placement.num_workers)
            return placement

        placement = self._waited(config, look, max(patience, self._wait))
        if is_auto:
            _logger.info(_AUTO, placement.num_workers, len(nodes()))
        return placement

    def _resumed(self, record: WorkerRecord, patience: float) -> Placement:
        """The record's workers, after a wait for nodes; fewer if these do not come. Once is enough."""
        if not self._accepted_fewer:
            wanted = recorded(self._config, record, record.num_workers)
            try:
                return self._waited(wanted, lambda: place_recorded(self._config, record, nodes()), self._wait)
            except ConfigError:
                if self._is_canceled():  # a stop was requested, so that no attempt follows
                    raise
        look = partial(place_recorded_or_fewer, self._config, record)
        placement = self._waited(self._config, lambda: look(nodes()), patience)
        self._accepted_fewer = (placement.use_gpu, placement.num_workers) < (record.use_gpu, record.num_workers)
        if self._accepted_fewer:
            kinds = [f"{each.num_workers} on {'GPU' if each.use_gpu else 'CPU'}" for each in (placement, record)]
            grows = self._joins and placement.use_gpu == record.use_gpu
            _logger.warning(_FEWER, *kinds, ", and grows when nodes come" * grows, placement.num_workers)
        return placement

    def _waited(self, config: Config, look: Callable[[], Placement], seconds: float) -> Placement:
        request = partial(self._request, config, seconds) if self._wait else None
        return wait_for_placement(look, seconds=seconds, request=request, is_canceled=self._is_canceled)

    def _request(self, config: Config, seconds: float, error: ConfigError) -> PlacementRequest:
        use_gpu = config.train.device == "cuda"
        _logger.info(waiting_message(error, seconds))
        each, beside = worker_resources(config, use_gpu=use_gpu), evaluation_resources(config)
        return PlacementRequest(each, max_workers(config.cluster.num_workers, use_gpu=use_gpu), beside)
