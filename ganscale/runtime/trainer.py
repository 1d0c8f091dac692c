"""A run as a Ray Train job: place the workers, show their progress, report how it ended."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.runfolder import RunFolder, check_free
from ganscale.runtime.cluster import connected, nodes
from ganscale.runtime.gauges import GaugeTracker
from ganscale.runtime.group import Group, TrainingError, prepare_worker, run_group
from ganscale.runtime.resources import place
from ganscale.runtime.worker import Outcome, run_worker
from ganscale.tracking.console import LogFollower

__all__ = ["TrainingError", "train_on_ray"]


def train_on_ray(config: Config, folder: RunFolder) -> Outcome:
    """Run to the end on a Ray cluster, restarting failed workers from their last checkpoint.

    Raises:
        ConfigError: the cluster cannot give what the config asks for, or another process writes to the folder.
        TrainingError: the workers failed more often than `cluster.max_restarts`.
    """
    check_free(folder, patience=min(30.0, config.cluster.timeout / 2), say=lambda line: print(line, flush=True))
    with connected(config):
        placement = place(config, nodes())
        check_workers(config, placement.num_workers)
        group = Group(config, placement, folder.path / ".ray", config.cluster.max_restarts)
        with _Following(folder.log):
            outcome = run_group(_train_loop, {"path": str(folder.path)}, group)
    assert isinstance(outcome, Outcome), "rank 0 returns how the run ended"
    return outcome


def _train_loop(settings: dict[str, Any]) -> Outcome | ConfigError:
    """Runs in each Ray Train worker, in its process group. An error for the user to mend is returned, not retried."""
    try:
        config, device = prepare_worker(settings)
        gauges = GaugeTracker(config.run.name)
        return run_worker(config, Path(settings["path"]), device=device, echo=False, trackers=[gauges])
    except ConfigError as error:
        return error


class _Following:
    """Shows the run's log while the block runs."""

    def __init__(self, path: Path) -> None:
        self._follower = LogFollower(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            with suppress(OSError):
                self._follower.show()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            self._follower.show()
