"""Ray Train's trainer with fewer processes of Ray's own, by private names that tests hold to versions of Ray.

Where a version names them otherwise, it starts these processes as without this module.
"""

import signal
import threading
from collections.abc import Callable
from typing import Any

from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ganscale.launch.controller import ControllerProcess

CONTROLLER, VARIABLES = "TrainController", "get_env_vars_to_propagate"
"""What that module starts in an actor, and the environment variables that it gives it."""
DATASETS = "DatasetsCallback"
"""Class of Ray's callback that starts the manager of data sets of `ray.data`, and loads that package in each worker."""
CLEANER = "PlacementGroupCleanerCallback"
"""Class of Ray's callback that starts the cleaner of placement groups."""
REQUESTS = ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request")
"""Methods of Ray's scaling policies that start the coordinator of autoscaling, and talk to it."""


class LeanTrainer(DataParallelTrainer):
    """Without a manager of Ray's data sets, and with a controller that serves more than one group of workers.

    On a cluster that is the run's alone also without a cleaner of placement groups and a coordinator of autoscaling:
    there placement groups end with the driver, the cleaner would need a dashboard that there is not, and no autoscaler
    takes requests.

    Args:
        loop: the function of the workers; it reads no data sets of Ray's.
        alone: whether the cluster was started for the run, and ends with it.
        process: runs the controller; None for a process of Ray's own.
        options: of `DataParallelTrainer`, but no `datasets`.
    """

    def __init__(
        self,
        loop: Callable[[dict[str, Any]], Any],
        *,
        alone: bool,
        process: ControllerProcess | None = None,
        **options: Any,
    ) -> None:
        super().__init__(loop, **options)
        self._alone, self._process = alone, process

    def _create_default_callbacks(self) -> list[Any]:
        left_out = {DATASETS, CLEANER} if self._alone else {DATASETS}
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in left_out]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self._alone:
            for name in REQUESTS:
                setattr(arguments["scaling_policy"], name, _no_request)
        kind, variables = (getattr(data_parallel_trainer, name, None) for name in (CONTROLLER, VARIABLES))
        if self._process is None or kind is None or variables is None:
            return super()._initialize_and_run_controller(**arguments)
        before = signal.getsignal(signal.SIGINT)
        try:
            return self._process.run(kind, arguments, environment=variables(), prepare=self._on_interrupt)
        finally:
            if _is_main_thread():
                signal.signal(signal.SIGINT, before)  # Ctrl-C between two attempts ends the run as it does elsewhere

    def _on_interrupt(self, controller: Any) -> None:
        """Let Ctrl-C end a controller, as Ray does."""
        if _is_main_thread():
            self._register_sigint_handler(controller)


def _is_main_thread() -> bool:
    """Whether this thread may set handlers of signals."""
    return threading.current_thread() is threading.main_thread()


def _no_request() -> None:
    """Stands for `REQUESTS`."""
