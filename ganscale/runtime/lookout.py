"""The driver's look at its cluster while workers train: nodes that are about to go, and room for more workers."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ganscale.config import Config
from ganscale.runtime.cluster import draining, hosts
from ganscale.runtime.growth import Growth
from ganscale.runtime.heartbeat import Beat
from ganscale.runtime.notice import Reason, StopFile
from ganscale.runtime.resources import Placement

EVERY = 2.0
"""Seconds between two looks."""


class Lookout:
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
        beats: Callable[[], Sequence[Beat]],
        *,
        grows: bool = True,
    ) -> None:
        self._stop_file, self._beats, self._workers = stop, beats, placement.num_workers
        self._known = draining()
        self._before = set(map(_process, beats()))
        self._growth = Growth(config, placement, asks=grows)
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
        with suppress(Exception):
            self._growth.withdraw()

    def _look(self) -> Reason:
        leaving = draining() - self._known
        if leaving:
            beats = self._alive()
            if not beats or hosts(leaving) & {beat.host for beat in beats}:
                return Reason.DRAIN
        grows = self._growth.look(started=lambda: len(self._alive()) >= self._workers)
        return Reason.RESIZE if grows else Reason.NONE

    def _alive(self) -> list[Beat]:
        """Signs of life of this group's workers: files on the runs' storage, read only where they decide something."""
        return [beat for beat in self._beats() if _process(beat) not in self._before]


def _process(beat: Beat) -> tuple[int, str, int, int]:
    return beat.rank, beat.host, beat.pid, beat.born
