"""A run as a Ray Train job: place the workers, show their progress, start them again after a fault, report the end."""

import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ganscale.checkpoint import CheckpointStore
from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.faults import Budget, history, read_faults
from ganscale.runfolder import BusyError, RunFolder, check_free
from ganscale.runtime.begin import forget
from ganscale.runtime.cluster import connected, nodes, silent
from ganscale.runtime.demand import Demand, waiting, when_placed
from ganscale.runtime.gauges import GaugeTracker
from ganscale.runtime.group import Group, TrainingError, prepare_worker, run_group
from ganscale.runtime.heartbeat import SILENT, Beat, read_beats
from ganscale.runtime.lookout import Lookout
from ganscale.runtime.notice import Reason, StopFile, terminated
from ganscale.runtime.resources import Placement, most_workers, place, worker_resources
from ganscale.runtime.worker import Outcome, run_worker
from ganscale.tracking.console import LogFollower

__all__ = ["TrainingError", "train_on_ray"]


def train_on_ray(config: Config, folder: RunFolder) -> Outcome:
    """Run to the end on a Ray cluster, starting failed workers again from their last checkpoint.

    Raises:
        ConfigError: the cluster cannot give what the config asks for, or another process writes to the folder.
        TrainingError: the workers failed more often than `cluster.max_restarts` without getting any further.
    """
    _wait_until_free(config, folder)
    stop = StopFile(folder.stop)
    stop.clear()
    with connected(config) as joined, _Following(folder.log), terminated(lambda: stop.write(Reason.STOP)):
        try:
            return _Supervisor(config, folder, stop, grows=joined).run()
        except KeyboardInterrupt:
            forget(folder)
            raise
        finally:
            stop.clear()


class _Supervisor:
    """Starts the group of workers, again and again until the run is over or its budget is spent.

    Ray itself restarts none: it does not retry what fails while the process group forms, and knows no pause.
    """

    def __init__(self, config: Config, folder: RunFolder, stop: StopFile, *, grows: bool = True) -> None:
        self._config, self._folder, self._stop, self._grows = config, folder, stop, grows
        self._budget = Budget(config.cluster.max_restarts, config.cluster.restart_pause)
        self._patience = 0.0

    def run(self) -> Outcome:
        """The run's end; arguments and errors: `train_on_ray`."""
        again: str | None = None
        while True:
            try:
                placement = self._place()
            except (ConfigError, TrainingError):
                if self._stop.read() == Reason.STOP:
                    return Outcome(self._saved(), 0, left=Reason.STOP)
                raise
            group = Group(self._config, placement, self._folder.path / ".ray", max_restarts=0)
            self._patience = max(60.0, self._config.cluster.timeout)
            settings = {"path": str(self._folder.path), "again": again}
            try:
                with Lookout(self._config, group.placement, self._stop, self._beats, grows=self._grows):
                    outcome = run_group(_train_loop, settings, group)
            except TrainingError as error:
                again = str(error).partition("\n")[0][:300]
                if self._stop.read() == Reason.STOP:
                    return Outcome(self._saved(), 0, left=Reason.STOP)
                self._wait(error, again)
                continue
            assert isinstance(outcome, Outcome), "rank 0 returns how the run ended"
            if outcome.left not in (Reason.DRAIN, Reason.RESIZE):
                return outcome
            again = None
            self._stop.clear()

    def _wait(self, error: TrainingError, cause: str) -> None:
        """Wait before the next start, if there is to be one."""
        seconds = self._budget.failed(self._saved())
        if seconds is None:
            raise TrainingError(f"{error}{history(read_faults(self._folder.faults))}") from error
        count = f"{self._budget.failures} of {self._budget.most} without a new checkpoint"
        after = f" in {seconds:.0f} s" if seconds else ""
        _say(f"the workers failed ({cause}); starting them again{after} ({count})")
        time.sleep(seconds)
        self._outwait_the_silent()

    def _outwait_the_silent(self) -> None:
        """Ray would place workers on a node that is gone until it is counted out: wait until it is, or is back."""
        until, told = time.monotonic() + self._patience, False
        while time.monotonic() < until and self._stop.read() != Reason.STOP:
            gone = silent()
            if not gone:
                return
            if not told:
                _say(f"{', '.join(gone)} does not answer; waiting until the cluster has counted it out, or it is back")
                told = True
            time.sleep(1.0)

    def _place(self) -> Placement:
        """Where the workers go; after a fault there may be no room until a node is counted out or comes back."""
        wait = self._config.cluster.node_wait if self._grows else 0.0
        seconds = max(self._patience, wait)
        try:
            placement = when_placed(
                self._fitting,
                seconds=seconds,
                ask=partial(self._ask, seconds) if wait else None,
                given_up=lambda: self._stop.read() == Reason.STOP,
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

    def _ask(self, seconds: float, error: ConfigError) -> Demand:
        use_gpu = self._config.train.device == "cuda"
        workers = most_workers(self._config.cluster.num_workers, use_gpu=use_gpu)
        _say(waiting(error, seconds))
        return Demand(worker_resources(self._config, use_gpu=use_gpu), workers)

    def _beats(self) -> list[Beat]:
        return read_beats(self._folder.alive)

    def _saved(self) -> int:
        """Images of the newest checkpoint."""
        return max((int(path.name) for path in CheckpointStore(self._folder.checkpoints).folders()), default=0)


def _wait_until_free(config: Config, folder: RunFolder) -> None:
    """Wait for another writer to end; longer where it does not get on, as its own watchdog then ends it.

    Raises:
        BusyError: it trains, or does not end.
    """
    before = _iterations(folder)
    try:
        check_free(folder, patience=min(30.0, config.cluster.timeout / 2), say=_say)
    except BusyError:
        if not before or _iterations(folder) != before:
            raise
        check_free(folder, patience=config.cluster.timeout + SILENT, say=_say)


def _iterations(folder: RunFolder) -> dict[int, int]:
    """How far each worker of the folder's writer is, by its last sign of life."""
    return {beat.rank: beat.iteration for beat in read_beats(folder.alive)}


def _say(line: str) -> None:
    print(line, flush=True)


def _train_loop(settings: dict[str, Any]) -> Outcome | ConfigError:
    """Runs in each Ray Train worker, in its process group. An error for the user to mend is returned, not retried.

    After a fault a folder that is in use is no such error: a worker of the life before may be cut off from the others
    but not from the storage. It ends when its iteration has lasted `cluster.timeout`; until then starts fail.
    """
    try:
        config, device = prepare_worker(settings)
        path, gauges = Path(settings["path"]), GaugeTracker(config.run.name)
        ask = StopFile(RunFolder(path).stop).read
        return run_worker(config, path, device=device, echo=False, trackers=[gauges], ask=ask, again=settings["again"])
    except ConfigError as error:
        if isinstance(error, BusyError) and settings["again"] is not None:
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
