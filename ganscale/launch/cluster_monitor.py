"""The driver's look at its cluster while workers train: nodes that are about to go, and room for more workers."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ganscale.config import Config
from ganscale.launch.cluster import draining, hosts
from ganscale.launch.elastic import ScaleUpPolicy
from ganscale.launch.placement import Placement
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.run.watchdog import Heartbeat

EVERY = 2.0
"""Seconds between two looks."""


class ClusterMonitor:
    """Asks the workers to leave while the block runs, when a node is about to go or the group can grow.

    Args:
        config: the run's.
        placement: of the workers.
        stop: how they are asked.
        beats: reads their signs of life, which may be those of workers before them.
        grows: whether the cluster may have an autoscaler.
    """

    def __init__(
        self,
        config: Config,
        placement: Placement,
        stop: StopFile,
        heartbeats: Callable[[], Sequence[Heartbeat]],
        *,
        grows: bool = True,
    ) -> None:
        self._stop_file, self._heartbeats, self._workers = stop, heartbeats, placement.num_workers
        self._known = draining()
        self._before = set(map(_process, heartbeats()))
        self._scale_up = ScaleUpPolicy(config, placement, asks=grows)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster_monitor", daemon=True)

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
        with suppress(Exception):
            self._scale_up.cancel()

    def _look(self) -> StopReason:
        leaving = draining() - self._known
        if leaving:
            heartbeats = self._alive()
            if not heartbeats or hosts(leaving) & {heartbeat.host for heartbeat in heartbeats}:
                return StopReason.DRAIN
        grows = self._scale_up.look(started=lambda: len(self._alive()) >= self._workers)
        return StopReason.RESIZE if grows else StopReason.NONE

    def _alive(self) -> list[Heartbeat]:
        """Signs of life of this group's workers: files on the runs' storage, read only where they decide something."""
        return [heartbeat for heartbeat in self._heartbeats() if _process(heartbeat) not in self._before]


def _process(heartbeat: Heartbeat) -> tuple[int, str, int, int]:
    return heartbeat.rank, heartbeat.host, heartbeat.pid, heartbeat.born
