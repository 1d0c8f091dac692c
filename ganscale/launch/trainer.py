"""Ray Train's trainer with fewer processes of Ray's own, by private names that tests hold to versions of Ray.

Where a version names them otherwise, it starts these processes as without this module.
"""

from collections.abc import Callable
from typing import Any

from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

CLEANER = "PlacementGroupCleanerCallback"
"""Class of Ray's callback that starts the cleaner of placement groups."""
REQUESTS = ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request")
"""Methods of Ray's scaling policies that start the coordinator of autoscaling, and talk to it."""


class LeanTrainer(DataParallelTrainer):
    """Without a cleaner of placement groups and a coordinator of autoscaling on a cluster that is the run's alone.

    There placement groups end with the driver, the cleaner would need a dashboard that there is not, and no autoscaler
    takes requests.

    Args:
        loop: the function of the workers.
        alone: whether the cluster was started for the run, and ends with it.
        options: of `DataParallelTrainer`.
    """

    def __init__(self, loop: Callable[[dict[str, Any]], Any], *, alone: bool, **options: Any) -> None:
        super().__init__(loop, **options)
        self._alone = alone

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not (self._alone and type(each).__name__ == CLEANER)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self._alone:
            for name in REQUESTS:
                setattr(arguments["scaling_policy"], name, _no_request)
        return super()._initialize_and_run_controller(**arguments)


def _no_request() -> None:
    """Stands for `REQUESTS`."""
