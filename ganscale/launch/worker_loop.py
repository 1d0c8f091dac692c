"""What each Ray Train worker of a run does. Imports nothing that the driver alone needs."""

from typing import Any

from ganscale.config import ConfigError
from ganscale.launch.evaluation_actor import ActorExecutor
from ganscale.launch.heartbeat_actor import ActorChannel
from ganscale.launch.prometheus import GaugeTracker
from ganscale.launch.reporting import reporting
from ganscale.launch.worker_setup import TrainingError, prepare_worker
from ganscale.parallel.replica import Replica
from ganscale.run.outcome import Outcome
from ganscale.run.session import run_worker
from ganscale.storage.lease import BusyError
from ganscale.storage.store import open_place


def train_loop(settings: dict[str, Any]) -> Outcome | ConfigError | TrainingError:
    """Run in each Ray Train worker, in its process group; errors of the configuration are returned, not retried.

    After a failure a folder in use is retried: a worker of the previous attempt may be cut off from the others but
    not from the storage. It ends when its iteration has lasted `cluster.timeout`; until then starts fail.

    Args:
        settings: of `ray_train`, with the config.
    """
    try:
        config, device = prepare_worker(settings)
        path, gauges = open_place(settings["path"]), GaugeTracker(config.run.name)
        heartbeats = ActorChannel(settings["actor"], path, settings["attempt"])
        options: dict[str, Any] = {
            "device": device,
            "echo": False,
            "previous_failure": settings["previous_failure"],
            "callbacks": settings["callbacks"],
        }
        if settings["live"]:
            from ganscale.launch.live_loop import train_live  # needed here alone

            return train_live(config, path, heartbeats, num_workers=settings["live"], trackers=[gauges], **options)
        with reporting(config.run.name, is_rank_zero=Replica.current().is_rank_zero) as reports:
            return run_worker(
                config,
                path,
                trackers=[gauges, *reports],
                ask=heartbeats.ask,
                make_executor=ActorExecutor,
                heartbeats=heartbeats,
                **options,
            )
    except ConfigError as error:
        if isinstance(error, BusyError) and settings["previous_failure"] is not None:
            raise
        return error
