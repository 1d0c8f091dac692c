"""Where a trial's configuration is trained: in the trial's own process, or on a group of Ray Train workers.

A group outlives a trial: the next configuration of the same trial actor is sent to the workers that are there, so that
only the first pays for their start. A message carries all that a restarted worker needs to know, and is answered once.
"""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from ray.util.queue import Empty, Queue

from ganscale.config import Config, ConfigError, parse
from ganscale.launch.placement import Placement
from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec, prepare_worker, run_worker_group
from ganscale.parallel.collectives import Replica
from ganscale.sweep.record import TrialRow
from ganscale.sweep.trial import MultiSeedTrial

FAREWELL = 20.0
"""Seconds that a group may take to end."""


class TrialSpec(NamedTuple):
    """A configuration to train, as plain data. The fields are `MultiSeedTrial`'s."""

    config: dict[str, Any]
    drawn: dict[str, Any]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    folder: str
    stop_failing: bool
    keep: int

    def trial(self, device: torch.device) -> MultiSeedTrial:
        """The configuration in training."""
        return MultiSeedTrial(
            parse(self.config),
            self.drawn,
            self.seeds,
            self.metrics,
            Path(self.folder),
            device=device,
            stop_failing=self.stop_failing,
            keep=self.keep,
        )


class TrialExecutor(Protocol):
    """Trains one configuration at a time."""

    def row(self, work: TrialSpec, number: int) -> TrialRow:
        """Row `number` of a configuration: the recorded one, or trained now."""
        ...

    def save(self, work: TrialSpec, path: Path) -> None:
        """Write the states of all seeds."""
        ...

    def load(self, work: TrialSpec, path: Path) -> None:
        """Let a configuration go on from what `save` wrote."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class InProcessExecutor:
    """Trains in this process.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: TrialSpec | None = None
        self._trial: MultiSeedTrial | None = None

    def trial(self, work: TrialSpec) -> MultiSeedTrial:
        """The configuration in training; the one before goes."""
        if self._trial is None or work != self._work:
            self._trial = None
            self._work, self._trial = work, work.trial(self._device)
        return self._trial

    def row(self, work: TrialSpec, number: int) -> TrialRow:
        """Row `number` of a configuration."""
        return self.trial(work).row(number)

    def save(self, work: TrialSpec, path: Path) -> None:
        """Write the states of all seeds."""
        states = self.trial(work).states()
        if Replica.current().is_rank_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(states, path)

    def load(self, work: TrialSpec, path: Path) -> None:
        """Let a configuration go on from other states; its settings stay its own."""
        self.trial(work).adopt(torch.load(path, map_location="cpu", weights_only=True))

    def close(self) -> None:
        """Nothing is held."""


class WorkerGroupExecutor:
    """Trains on a group of Ray Train workers, which starts with the first message.

    Args:
        config: a run of the sweep, for what all have in common.
        placement: of the workers.
        storage: folder for Ray's own files.
    """

    def __init__(self, config: Config, placement: Placement, storage: Path) -> None:
        self._group = WorkerGroupSpec(config, placement, storage, max_restarts=1)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._serial = 0

    def row(self, work: TrialSpec, number: int) -> TrialRow:
        """Row `number` of a configuration."""
        return self._ask(work, "row", number)

    def save(self, work: TrialSpec, path: Path) -> None:
        """Write the states of all seeds."""
        self._ask(work, "save", str(path))

    def load(self, work: TrialSpec, path: Path) -> None:
        """Let a configuration go on from other states."""
        self._ask(work, "load", str(path))

    def close(self) -> None:
        """Let the workers end by themselves, so that Ray gets back what they hold."""
        if self._thread is not None:
            self._messages.put((0, None, "stop", None))
            self._thread.join(FAREWELL)

    def _ask(self, work: TrialSpec, verb: str, argument: Any) -> Any:
        """Send a message and return its answer; workers that were restarted are sent it again."""
        self._serial += 1
        message = (self._serial, work, verb, argument)
        if self._thread is None:
            self._start()  # the workers say when they are there
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
            if serial == RESTARTED:
                self._messages.put(message)

    def _start(self) -> None:
        options = {"num_cpus": 0}
        self._messages, self._answers = Queue(actor_options=options), Queue(actor_options=options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        settings = {"messages": self._messages, "answers": self._answers, "started": time.time_ns()}
        try:
            run_worker_group(_serve, settings, self._group)
        except Exception as error:
            self._error = error


RESTARTED = -1
"""Serial number of what a worker group says first."""


def _serve(settings: dict[str, Any]) -> ConfigError | None:
    """Runs in each worker: rank 0 takes messages and passes them on, all work, rank 0 answers."""
    try:
        _, device = prepare_worker(settings)
        place, first, done = InProcessExecutor(device), Replica.current().is_rank_zero, 0
        if first:
            settings["answers"].put((RESTARTED, None))
        while True:
            message: list[Any] = [settings["messages"].get() if first else None]
            if Replica.current().world_size > 1:
                dist.broadcast_object_list(message, 0, device=device)
            serial, work, verb, argument = message[0]
            if verb == "stop":
                return None
            if serial == done:  # sent again, though it had not got lost
                continue
            answer = place.row(work, argument) if verb == "row" else None
            if verb in ("save", "load"):
                getattr(place, verb)(work, Path(argument))
            if first:
                settings["answers"].put((serial, answer))
            done = serial
    except ConfigError as error:
        return error
