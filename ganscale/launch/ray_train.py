"""A run as a Ray Train job: place the workers, show their progress, start them again after a fault, report the end."""

import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.launch.cluster import connected, nodes, silent
from ganscale.launch.cluster_monitor import ClusterMonitor
from ganscale.launch.placement import Placement, max_workers, place, worker_resources
from ganscale.launch.placement_request import PlacementRequest, wait_for_placement, waiting
from ganscale.launch.prometheus import GaugeTracker
from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec, prepare_worker, run_worker_group
from ganscale.run.recovery import clear_heartbeats
from ganscale.run.session import Outcome, run_worker
from ganscale.run.stop_signal import StopFile, StopReason, on_sigterm
from ganscale.run.watchdog import HEARTBEAT_TIMEOUT, Heartbeat, read_heartbeats
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import RestartBudget, history, read_failures
from ganscale.storage.lease import BusyError, check_free
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.console import LogFollower

__all__ = ["TrainingError", "train_on_ray"]


def train_on_ray(config: Config, folder: RunDir) -> Outcome:
    """Run to the end on a Ray cluster, starting failed workers again from their last checkpoint.

    Raises:
        ConfigError: the cluster cannot give what the config asks for, or another process writes to the folder.
        TrainingError: the workers failed more often than `cluster.max_restarts` without getting any further.
    """
    _wait_until_free(config, folder)
    stop = StopFile(folder.stop)
    stop.clear()
    with connected(config) as joined, _Following(folder.log), on_sigterm(lambda: stop.write(StopReason.STOP)):
        try:
            return _Supervisor(config, folder, stop, grows=joined).run()
        except KeyboardInterrupt:
            clear_heartbeats(folder)
            raise
        finally:
            stop.clear()


class _Supervisor:
    """Starts the group of workers, again and again until the run is over or its budget is spent.

    Ray itself restarts none: it does not retry what fails while the process group forms, and knows no pause.
    """

    def __init__(self, config: Config, folder: RunDir, stop: StopFile, *, grows: bool = True) -> None:
        self._config, self._folder, self._stop, self._grows = config, folder, stop, grows
        self._budget = RestartBudget(config.cluster.max_restarts, config.cluster.restart_pause)
        self._patience = 0.0

    def run(self) -> Outcome:
        """The run's end; arguments and errors: `train_on_ray`."""
        previous_failure: str | None = None
        while True:
            try:
                placement = self._place()
            except (ConfigError, TrainingError):
                if self._stop.read() == StopReason.STOP:
                    return Outcome(self._saved(), 0, stop_reason=StopReason.STOP)
                raise
            group = WorkerGroupSpec(self._config, placement, self._folder.path / ".ray", max_restarts=0)
            self._patience = max(60.0, self._config.cluster.timeout)
            settings = {"path": str(self._folder.path), "previous_failure": previous_failure}
            try:
                with ClusterMonitor(self._config, group.placement, self._stop, self._heartbeats, grows=self._grows):
                    outcome = run_worker_group(_train_loop, settings, group)
            except TrainingError as error:
                previous_failure = str(error).partition("\n")[0][:300]
                if self._stop.read() == StopReason.STOP:
                    return Outcome(self._saved(), 0, stop_reason=StopReason.STOP)
                self._wait(error, previous_failure)
                continue
            assert isinstance(outcome, Outcome), "rank 0 returns how the run ended"
            if outcome.stop_reason not in (StopReason.DRAIN, StopReason.RESIZE):
                return outcome
            previous_failure = None
            self._stop.clear()

    def _wait(self, error: TrainingError, cause: str) -> None:
        """Wait before the next start, if there is to be one."""
        seconds = self._budget.failed(self._saved())
        if seconds is None:
            raise TrainingError(f"{error}{history(read_failures(self._folder.failures))}") from error
        count = f"{self._budget.failures} of {self._budget.most} without a new checkpoint"
        after = f" in {seconds:.0f} s" if seconds else ""
        _info(f"the workers failed ({cause}); starting them again{after} ({count})")
        time.sleep(seconds)
        self._wait_for_unreachable_nodes()

    def _wait_for_unreachable_nodes(self) -> None:
        """Ray would place workers on a node that is gone until it is counted out: wait until it is, or is back."""
        until, told = time.monotonic() + self._patience, False
        while time.monotonic() < until and self._stop.read() != StopReason.STOP:
            gone = silent()
            if not gone:
                return
            if not told:
                _info(f"{', '.join(gone)} does not answer; waiting until the cluster has counted it out, or it is back")
                told = True
            time.sleep(1.0)

    def _place(self) -> Placement:
        """Where the workers go; after a fault there may be no room until a node is counted out or comes back."""
        wait = self._config.cluster.node_wait if self._grows else 0.0
        seconds = max(self._patience, wait)
        try:
            placement = wait_for_placement(
                self._fitting,
                seconds=seconds,
                ask=partial(self._ask, seconds) if wait else None,
                given_up=lambda: self._stop.read() == StopReason.STOP,
            )
            check_workers(self._config, placement.num_workers)
            return placement
        except ConfigError as error:
            if not self._patience:
                raise
            raise TrainingError(str(error)) from error

    def _fitting(self) -> Placement:
        placement = place(self._config, nodes())
        if self._patience:  # after a fault another number of nodes may do; before the first start it is for the user
            check_workers(self._config, placement.num_workers)
        return placement

    def _ask(self, seconds: float, error: ConfigError) -> PlacementRequest:
        use_gpu = self._config.train.device == "cuda"
        workers = max_workers(self._config.cluster.num_workers, use_gpu=use_gpu)
        _info(waiting(error, seconds))
        return PlacementRequest(worker_resources(self._config, use_gpu=use_gpu), workers)

    def _heartbeats(self) -> list[Heartbeat]:
        return read_heartbeats(self._folder.heartbeats)

    def _saved(self) -> int:
        """Images of the newest checkpoint."""
        return max((int(path.name) for path in CheckpointStore(self._folder.checkpoints).folders()), default=0)


def _wait_until_free(config: Config, folder: RunDir) -> None:
    """Wait for another writer to end; longer where it does not get on, as its own watchdog then ends it.

    Raises:
        BusyError: it trains, or does not end.
    """
    before = _iterations(folder)
    try:
        check_free(folder, patience=min(30.0, config.cluster.timeout / 2), info=_info)
    except BusyError:
        if not before or _iterations(folder) != before:
            raise
        check_free(folder, patience=config.cluster.timeout + HEARTBEAT_TIMEOUT, info=_info)


def _iterations(folder: RunDir) -> dict[int, int]:
    """How far each worker of the folder's writer is, by its last sign of life."""
    return {heartbeat.rank: heartbeat.iteration for heartbeat in read_heartbeats(folder.heartbeats)}


def _info(line: str) -> None:
    print(line, flush=True)


def _train_loop(settings: dict[str, Any]) -> Outcome | ConfigError:
    """Runs in each Ray Train worker, in its process group. An error for the user to mend is returned, not retried.

    After a fault a folder that is in use is no such error: a worker of the life before may be cut off from the others
    but not from the storage. It ends when its iteration has lasted `cluster.timeout`; until then starts fail.
    """
    try:
        config, device = prepare_worker(settings)
        path, gauges = Path(settings["path"]), GaugeTracker(config.run.name)
        ask = StopFile(RunDir(path).stop).read
        return run_worker(
            config,
            path,
            device=device,
            echo=False,
            trackers=[gauges],
            ask=ask,
            previous_failure=settings["previous_failure"],
        )
    except ConfigError as error:
        if isinstance(error, BusyError) and settings["previous_failure"] is not None:
            raise
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
