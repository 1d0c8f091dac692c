"""Where a configuration is trained: in the trial's own process, or on a group of Ray Train workers.

A group outlives a trial: the same trial actor sends the next configuration to the running workers, so that only the
first pays for their start. A message is self-contained, as a restarted worker knows nothing, and is answered once.
"""

import io
import threading
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from ray.util.queue import Empty, Queue

from ganscale.config import Config, ConfigError, parse
from ganscale.launch.placement import Placement
from ganscale.launch.worker_group import WorkerGroupSpec, run_worker_group, worker_failure
from ganscale.launch.worker_setup import TrainingError, prepare_worker
from ganscale.parallel.collectives import Replica
from ganscale.storage.lease import Fence
from ganscale.storage.store import Place
from ganscale.sweep.trial import MultiSeedTrial, is_lost

CLOSE_TIMEOUT = 20.0
"""Seconds that a group may take to end."""
READY = -1
"""Serial number of the message that a started or restarted group sends."""


class TrialSpec(NamedTuple):
    """A configuration to train, as plain data; the fields are `MultiSeedTrial`'s."""

    config: dict[str, Any]
    drawn: dict[str, Any]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    folder: Place
    stop_failing: bool
    audited: tuple[int, ...]
    keep: int
    driver: Fence


Operation = Literal["row", "save", "load"]
"""row: train to row `argument` and return it; save: write the states of all seeds to a file or an object; load:
continue from it."""


class InProcessExecutor:
    """Trains one configuration at a time in this process.

    Args:
        device: Device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spec: TrialSpec | None = None
        self._trial: MultiSeedTrial | None = None

    def run(self, spec: TrialSpec, operation: Operation, argument: Any) -> Any:
        """Run one operation; another configuration than before replaces the current one.

        Args:
            spec: The configuration.
            operation: See `Operation`.
            argument: Number of the row, or where the states lie.
        """
        if self._trial is None or spec != self._spec:
            self._trial = None  # frees memory first
            fields: dict[str, Any] = {**spec._asdict(), "config": parse(spec.config)}
            self._spec, self._trial = spec, MultiSeedTrial(**fields, device=self._device)
        if operation == "row":
            return self._trial.row(argument)
        if operation == "load":
            source = argument if isinstance(argument, Path) else io.BytesIO(argument.read_bytes())
            states = torch.load(source, map_location="cpu", weights_only=True)
            if Replica.current().world_size > 1:
                dist.barrier()  # what they were read from is deleted when rank 0 answers
            return self._trial.adopt(states)
        states = self._trial.states()
        if Replica.current().is_rank_zero:
            _save(states, argument)
        return None

    def close(self) -> None:
        """Do nothing: it holds no workers."""


def _save(states: Any, place: Place) -> None:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save(states, place)
    else:
        buffer = io.BytesIO()
        torch.save(states, buffer)
        place.store.put(place.key, buffer.getbuffer())


class WorkerGroupExecutor:
    """Trains on a group of Ray Train workers, which starts with the first operation.

    Args:
        config: A run of the sweep, for what all runs share.
        placement: Placement of the workers.
        storage: Folder for Ray's own files.
        name: Name in Ray's dashboard.
    """

    def __init__(self, config: Config, placement: Placement, storage: Path, name: str) -> None:
        self._group = WorkerGroupSpec(config, placement, storage, max_restarts=1, name=name)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._serial = 0

    def run(self, spec: TrialSpec, operation: Operation, argument: Any) -> Any:
        """Run one operation on all workers; it is sent again to workers that were restarted.

        Args:
            spec: The configuration.
            operation: See `Operation`.
            argument: Number of the row, or where the states lie.

        Raises:
            TrainingError: The workers failed or ended.
        """
        self._serial += 1
        message = (self._serial, spec, operation, argument)
        if self._thread is None:
            self._start()  # the workers send READY
        else:
            self._messages.put(message)
        while True:
            try:
                serial, answer = self._answers.get(timeout=1.0)
            except Empty:
                if self._thread is None or not self._thread.is_alive():
                    raise self._error or TrainingError("the workers ended") from None
                continue
            if serial == self._serial:
                return answer
            if serial == READY:
                self._messages.put(message)

    def close(self) -> None:
        """Let the workers return, so that Ray frees their resources."""
        if self._thread is not None:
            self._messages.put((0, None, "stop", None))
            self._thread.join(CLOSE_TIMEOUT)

    def _start(self) -> None:
        options = {"num_cpus": 0}
        self._messages, self._answers = Queue(actor_options=options), Queue(actor_options=options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        settings = {"messages": self._messages, "answers": self._answers, "started": time.time_ns()}
        try:
            run_worker_group(_serve, settings, self._group)
        except TrainingError as error:
            cause = worker_failure(error)
            self._error = cause if is_lost(cause) else error
        except Exception as error:
            self._error = error


def _serve(settings: dict[str, Any]) -> ConfigError | None:
    """Run in each worker: rank 0 receives messages and broadcasts them, all work, rank 0 answers."""
    try:
        _, device = prepare_worker(settings)
        executor, replica, done = InProcessExecutor(device), Replica.current(), 0
        if replica.is_rank_zero:
            settings["answers"].put((READY, None))
        while True:
            message: list[Any] = [settings["messages"].get() if replica.is_rank_zero else None]
            if replica.world_size > 1:
                dist.broadcast_object_list(message, 0, device=device)
            serial, spec, operation, argument = message[0]
            if operation == "stop":
                return None
            if serial == done:  # sent again, although it had arrived
                continue
            answer = executor.run(spec, operation, argument)
            if replica.is_rank_zero:
                settings["answers"].put((serial, answer))
            done = serial
    except ConfigError as error:
        return error
