"""Live recovery on Ray: one lighthouse for a run, and workers that Ray Train replaces one by one.

Ray Train's own `TorchftConfig` makes a process group in each replica group, of one worker here, and names the
lighthouse by its host's name, which other pods of a Kubernetes cluster cannot resolve. Neither is wanted.
"""

import logging
import os
import threading
import time
from typing import Any, cast
from urllib.parse import urlsplit

import ray
from ray.train.v2.torch.torchft_config import LighthouseServerActor, TorchftConfig, _TorchftBackend
from ray.util import (
    get_current_placement_group,
    get_node_ip_address,
    placement_group_table,
    remove_placement_group,
)
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ganscale.parallel.quorum import LIGHTHOUSE

HEARTBEAT_TIMEOUT = 3.0
"""Seconds after which the lighthouse declares a silent worker dead; one whose process ended is noticed at once."""
_JOIN_TIMEOUT = 300.0
_TICK = 0.05

_logger = logging.getLogger(__name__)


class LiveConfig(TorchftConfig):
    """A group of workers that outlives each of them; `train_on_ray` starts it with `cluster.recovery: live`.

    Args:
        patience: seconds for which a lost worker may have no room anywhere, before all workers restart.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        milliseconds = {"heartbeat_timeout": HEARTBEAT_TIMEOUT, "join_timeout": _JOIN_TIMEOUT, "quorum_tick": _TICK}
        settings = {f"{name}_ms": round(1000 * seconds) for name, seconds in milliseconds.items()}
        super().__init__({"min_replicas": 1, **settings})

    @property
    def backend_cls(self) -> type["LiveBackend"]:
        """What starts the workers (part of Ray Train's `BackendConfig`)."""
        return LiveBackend


class LiveBackend(_TorchftBackend):
    """Starts the lighthouse beside Ray Train's controller, and tells all workers where it is, also later ones."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[PlacementGroup] = []

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Prepare all workers, or one that replaces another (part of Ray Train's `Backend`).

        Args:
            worker_group: the workers.
            backend_config: with the lighthouse's settings.
        """
        address = self._lighthouse(backend_config.lighthouse_kwargs)
        worker_group.execute(name_lighthouse, reachable(address, get_node_ip_address()))
        room = worker_group.execute_single(0, get_current_placement_group)
        if room not in self._rooms:  # else this worker replaces another
            self._rooms.append(room)
            arguments = (room, backend_config.patience)
            threading.Thread(target=give_up_without_room, args=arguments, name="room", daemon=True).start()

    def _lighthouse(self, settings: dict[str, Any]) -> str:
        """The lighthouse's address; unlike Ray Train's own it also starts on a head that is given no work (0 CPUs)."""
        if self.lighthouse_actor is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            options = cast(Any, LighthouseServerActor).options(num_cpus=0, scheduling_strategy=here)
            self.lighthouse_actor = options.remote(lighthouse_kwargs={"bind": "[::]:0"} | settings)
        return ray.get(self.lighthouse_actor.address.remote())

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Do nothing: workers make and end their process groups themselves (part of Ray Train's `Backend`)."""


def give_up_without_room(room: PlacementGroup, patience: float, *, poll: float = 2.0) -> None:
    """Release the workers' room, which ends all of them, when a part of it is lost and not found elsewhere.

    Ray Train's controller waits without limit for a worker that replaces another, and sees nothing else meanwhile.

    Args:
        room: of all workers.
        patience: seconds.
        poll: seconds between two looks.
    """
    since: float | None = None
    while (state := placement_group_table(room).get("state")) not in (None, "REMOVED"):
        since = (since or time.monotonic()) if state == "RESCHEDULING" else None
        if since and time.monotonic() - since > patience:
            _logger.warning("no room for a lost worker within %.0f s: all workers restart", patience)
            remove_placement_group(room)
        time.sleep(poll)


def reachable(address: str, ip: str) -> str:
    """A lighthouse's address by the IP address of its node.

    Args:
        address: `http://HOST:PORT`.
        ip: of the host.
    """
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{urlsplit(address).port}"


def name_lighthouse(address: str) -> None:
    """Let this worker know the lighthouse.

    Args:
        address: `http://HOST:PORT`.
    """
    os.environ[LIGHTHOUSE] = address
