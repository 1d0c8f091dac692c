"""A warning that names the worker for which the others wait, its machine and what it is slow at.

All replicas see the same times, so they decide alike without asking rank 0.
"""

import socket
from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ganscale.config.health import Health
from ganscale.health.policy import Decision
from ganscale.health.stragglers import Straggler, find_straggler
from ganscale.parallel.clock import RankTimes
from ganscale.parallel.replica import Replica
from ganscale.training.loop import Tick

KIND = "straggler"


def warn_of(straggler: Straggler, host: str, rows: int) -> Decision:
    """The warning; nothing else follows, as the result is the same.

    Args:
        straggler: the worker.
        host: its machine.
        rows: of metrics that show it.
    """
    what = "reading data" if straggler.phase == "data" else "computation"
    text = (
        f"worker {straggler.rank} on {host} needs {straggler.ratio:.1f} times the median worker's time, mostly more in "
        f"{what}: the others waited {straggler.lost:.0f} s for it in the last {rows} rows of metrics"
    )
    return Decision("warn", kind=KIND, text=text)


class StragglerCheck:
    """Looks for a straggler at every tick; all replicas make one and call it alike.

    Args:
        device: on which the replicas compute: where it is no CPU, or there is one replica, there is nothing to find.
        settings: of the section `health`.
    """

    def __init__(self, device: torch.device, settings: Health) -> None:
        self._settings, self._hosts = settings, list[str]()
        world_size = Replica.current().world_size
        if device.type == "cpu" and world_size > 1 and KIND not in settings.ignore:
            found: list[str | None] = [None] * world_size
            dist.all_gather_object(found, socket.gethostname())
            self._hosts = [str(host) for host in found]
        self._ticks: deque[Sequence[RankTimes]] = deque(maxlen=settings.patience)
        self._reported: int | None = None

    def __call__(self, tick: Tick) -> Decision:
        """Decide; a straggler is reported once for as long as it is one.

        Args:
            tick: the newest.
        """
        if len(tick.times) != len(self._hosts) or not self._hosts:
            return Decision()
        self._ticks.append(tick.times)
        if len(self._ticks) < self._settings.patience:
            return Decision()
        found = find_straggler(self._ticks, factor=self._settings.straggler_factor)
        before, self._reported = self._reported, found.rank if found else None
        if found is None or found.rank == before:
            return Decision()
        return warn_of(found, self._hosts[found.rank], len(self._ticks))
