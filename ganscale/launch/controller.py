"""Ray Train's controller in a process that outlives an attempt: a restart need not start one and import Ray Train.

It runs what Ray's own actor runs, a new `TrainController` for each attempt, one after the other. Ray's process ends
with the attempt and takes along all actors that it started; this one is kept only where the controller has ended all of
them itself, and otherwise killed, which does the same.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.actor import exit_actor
from ray.exceptions import RayError
from ray.train import ControllerError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

WARN = "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC"
"""Variable that Ray sets to 0 for its controller, which waits for its workers in a coroutine."""


class ControllerHost:
    """What runs in the process."""

    def __init__(self) -> None:
        self._controller: Any = None

    async def run(self, kind: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, bool]:
        """Run a group of workers to its end.

        Args:
            kind: Ray's class `TrainController`.
            arguments: of it.

        Returns:
            Its result, and whether this process can run another: the workers were ended without an error of Ray's.
        """
        self._controller = kind(**arguments)
        await self._controller.run()
        controller, self._controller = self._controller, None
        result = controller.get_result()
        return result, controller.get_worker_group() is None and not isinstance(result.error, ControllerError)

    async def abort(self) -> None:
        """End the workers and this process; Ray calls it at Ctrl-C."""
        if self._controller is not None:
            await self._controller.abort()
        exit_actor()

    async def get_all_reported_checkpoints(self, *arguments: Any) -> Any:
        """What `ray.train.get_all_reported_checkpoints` asks for in a worker.

        Args:
            arguments: of the controller's method.
        """
        return await self._controller.get_all_reported_checkpoints(*arguments)


class ControllerProcess:
    """The driver's side: starts the process on its node when it is first needed, and ends it after the block."""

    def __init__(self) -> None:
        self._host: Any = None

    def __enter__(self) -> "ControllerProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._kill()

    def run(
        self,
        kind: Callable[..., Any],
        arguments: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        prepare: Callable[[Any], None],
    ) -> Any:
        """Run a group of workers to its end.

        Args:
            kind: Ray's class `TrainController`.
            arguments: of it.
            environment: variables of the process, for its workers; they count when it starts.
            prepare: called with the process's actor before.

        Returns:
            Ray Train's result.

        Raises:
            RayError: the process died.
        """
        reusable = False
        try:
            self._host = self._host or _start(environment)
            prepare(self._host)
            result, reusable = ray.get(self._host.run.remote(kind, arguments))
            return result
        finally:
            if not reusable:
                self._kill()

    def _kill(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            with suppress(RayError):
                ray.kill(host)


def _start(environment: Mapping[str, str]) -> Any:
    actor: Any = ray.remote(ControllerHost).options(
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        runtime_env={"env_vars": {WARN: "0"} | dict(environment)},
    )
    return actor.remote()
