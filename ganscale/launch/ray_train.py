"""A run as a Ray Train job: places the workers, follows the run's log, and restarts the workers after a failure."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ray.exceptions import RayError
from ray.train import Result

from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.launch.cluster import connected, unreachable_nodes
from ganscale.launch.compat import check_live
from ganscale.launch.controller import ControllerProcess
from ganscale.launch.elastic import ClusterMonitor
from ganscale.launch.heartbeat_actor import HeartbeatActor
from ganscale.launch.history import History, recorded
from ganscale.launch.placement import Placement
from ganscale.launch.worker_entry import train_loop
from ganscale.launch.worker_group import WorkerGroupSpec, run_worker_group
from ganscale.launch.worker_setup import TrainingError
from ganscale.launch.workers import WorkerPlanner
from ganscale.run.heartbeats import HEARTBEAT_TIMEOUT, clear_heartbeats, read_heartbeats
from ganscale.run.outcome import Outcome
from ganscale.run.stop_signal import StopFile, StopReason, on_sigterm
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import RestartBudget, history, read_failures
from ganscale.storage.lease import BusyError, check_free
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.console import LogFollower

if TYPE_CHECKING:
    from ganscale.training.loop import Tick

__all__ = ["RayOutcome", "TrainingError", "train_on_ray"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RayOutcome(Outcome):
    """How a run on Ray ended.

    Attributes:
        result: Ray Train's own result of the last attempt, with `metrics` and `checkpoint` of the newest checkpoint
            that it reported; None if no attempt came to an end.
    """

    result: Result | None = None


def train_on_ray(config: Config, folder: RunDir, callbacks: "Sequence[Callable[[Tick], None]]" = ()) -> RayOutcome:
    """Run to the end on a Ray cluster; after a failure, workers restart from the last checkpoint.

    With `cluster.recovery: live` a lost worker is replaced while the others train; all restart when all died.

    Args:
        config: The run's config.
        folder: The run's folder.
        callbacks: Called on rank 0 with each tick; cloudpickle must be able to pickle them.

    Raises:
        ConfigError: The cluster cannot provide what the config requires, or another process writes to the folder.
        TrainingError: The workers failed more than `cluster.max_restarts` times without progress.
    """
    if config.cluster.recovery == "live":
        check_live()
    _wait_until_free(config, folder)
    stop_file = StopFile(folder.stop)
    stop_file.clear()
    stop = on_sigterm(lambda: stop_file.write(StopReason.STOP))
    with connected(config) as joined, recorded(folder, joined=joined) as kept, _followed(folder), stop:
        try:
            return _Supervisor(config, folder, stop_file, callbacks, autoscales=joined, history=kept).run()
        except KeyboardInterrupt:
            clear_heartbeats(folder)
            raise
        finally:
            stop_file.clear()


class _Supervisor:
    """Starts worker groups until the run is over or its budget of restarts is spent.

    Ray itself restarts none: it does not retry failures of the process group's start, and knows no pause.
    """

    def __init__(
        self,
        config: Config,
        folder: RunDir,
        stop_file: StopFile,
        callbacks: "Sequence[Callable[[Tick], None]]" = (),
        *,
        autoscales: bool = True,
        history: History | None = None,
    ) -> None:
        self._history, self._is_live = history, config.cluster.recovery == "live"
        self._config, self._folder, self._stop_file, self._autoscales = config, folder, stop_file, autoscales
        self._planner = WorkerPlanner(config, folder, joins=autoscales, is_canceled=self._stop_requested)
        self._callbacks = callbacks
        self._heartbeats, self._controller = HeartbeatActor(folder, config.run.name), ControllerProcess()
        self._budget = RestartBudget(config.cluster.max_restarts, config.cluster.restart_pause)
        self._patience = 0.0  # seconds to wait for room or unreachable nodes, after the first start

    def run(self) -> RayOutcome:
        """Run to the end. Raises: `train_on_ray`."""
        with self._heartbeats, self._controller:
            return self._run()

    def _run(self) -> RayOutcome:
        previous_failure: str | None = None
        while True:
            try:
                placement = self._place()
            except (ConfigError, TrainingError):
                if self._stop_requested():
                    return RayOutcome(self._saved(), 0, stop_reason=StopReason.STOP)
                raise
            if self._history:
                self._history.start()
            try:
                outcome = self._attempt(placement, previous_failure)
            except TrainingError as error:
                if self._stop_requested():
                    return RayOutcome(self._saved(), 0, stop_reason=StopReason.STOP)
                previous_failure = str(error).partition("\n")[0][:300]
                if self._history:
                    self._history.failed(str(error))
                self._pause(error, previous_failure)
                continue
            if outcome.stop_reason in (StopReason.NONE, StopReason.STORAGE):
                return outcome
            if outcome.stop_reason == StopReason.STOP and not self._is_live:
                return outcome
            if self._stop_requested():
                return replace(outcome, stop_reason=StopReason.STOP)
            previous_failure = None
            self._stop_file.clear()

    def _attempt(self, placement: Placement, previous_failure: str | None) -> RayOutcome:
        try:
            heartbeats = self._heartbeats.begin()
        except RayError as error:
            raise TrainingError(f"Ray failed: {type(error).__name__}: {error}") from error
        storage, joined = self._folder.path / ".ray", self._autoscales
        controller = None if self._is_live else self._controller  # the lighthouse is to end with it
        group = WorkerGroupSpec(
            self._config, placement, storage, 0, joined=joined, live=self._is_live, controller=controller
        )
        self._patience = max(60.0, self._config.cluster.timeout)
        with (
            heartbeats,
            ClusterMonitor(
                self._planner.growth(placement), placement, self._stop_file, heartbeats, autoscales=self._autoscales
            ),
        ):
            settings = {
                "path": str(self._folder.root),
                "previous_failure": previous_failure,
                "callbacks": self._callbacks,
                "actor": heartbeats.handle,
                "attempt": heartbeats.number,
                "live": placement.num_workers if self._is_live else 0,
            }
            result = run_worker_group(train_loop, settings, group)
        outcome = result.return_value
        assert isinstance(outcome, Outcome), "rank 0 returns how the run ended"
        return RayOutcome(**vars(outcome), result=result)

    def _stop_requested(self) -> bool:
        return StopReason.STOP in (self._stop_file.requested, self._stop_file.read())

    def _pause(self, error: TrainingError, cause: str) -> None:
        """Wait before the next attempt, if the budget allows one."""
        seconds = self._budget.failed(self._saved())
        if seconds is None:
            raise TrainingError(f"{error}{history(read_failures(self._folder.failures))}") from error
        count = f"{self._budget.failures} of {self._budget.most} without a new checkpoint"
        after = f" in {seconds:.0f} s" if seconds else ""
        _logger.warning("the workers failed (%s); restarting them%s (%s)", cause, after, count)
        time.sleep(seconds)
        self._wait_for_unreachable_nodes()

    def _wait_for_unreachable_nodes(self) -> None:
        """Wait until unreachable nodes answer or are declared dead: until then Ray places workers on them."""
        until, logged = time.monotonic() + self._patience, False
        while time.monotonic() < until and not self._stop_requested():
            lost = ", ".join(unreachable_nodes())
            if not lost:
                return
            if not logged:
                _logger.warning("%s does not answer; waiting until it does, or the cluster declares it dead", lost)
                logged = True
            time.sleep(1.0)

    def _place(self) -> Placement:
        """Choose the workers; after a failure there may be no room until a node is declared dead or returns."""
        try:
            placement = self._planner.next(self._patience)
            check_workers(self._config, placement.num_workers)
            return placement
        except ConfigError as error:
            if not self._patience:
                raise
            raise TrainingError(str(error)) from error

    def _saved(self) -> int:
        """Images of the newest checkpoint."""
        return CheckpointStore(self._folder.checkpoints).images()


def _wait_until_free(config: Config, folder: RunDir) -> None:
    """Wait for another writer to end; longer if it makes no progress, as its own watchdog then ends it.

    Raises:
        BusyError: It trains, or does not end.
    """
    before = _iterations(folder)
    try:
        check_free(folder, patience=min(30.0, config.cluster.timeout / 2), info=_logger.info)
    except BusyError:
        if not before or _iterations(folder) != before:
            raise
        check_free(folder, patience=config.cluster.timeout + HEARTBEAT_TIMEOUT, info=_logger.info)


def _iterations(folder: RunDir) -> dict[int, int]:
    """Rank to iteration, by the last heartbeats."""
    return {heartbeat.rank: heartbeat.iteration for heartbeat in read_heartbeats(folder.heartbeats)}


@contextmanager
def _followed(folder: RunDir) -> Iterator[None]:
    """Show the run's log while the block runs."""
    is_local = isinstance(folder.root, Path)
    with suppress(OSError):
        folder.fetch(folder.log.name)
    follower, ended = LogFollower(folder.log), threading.Event()

    def follow() -> None:
        while not ended.wait(0.3 if is_local else 3.0):
            with suppress(OSError):
                folder.fetch(folder.log.name)
                follower.show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            folder.fetch(folder.log.name)
            follower.show()
