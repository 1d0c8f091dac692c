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

from ganscale.collectives import Replica
from ganscale.config import Config, ConfigError, parse
from ganscale.runtime.group import Group, TrainingError, prepare_worker, run_group
from ganscale.runtime.resources import Placement
from ganscale.runtime.trial import Candidate
from ganscale.search.record import TrialRow

FAREWELL = 20.0
"""Seconds that a group may take to end."""


class Work(NamedTuple):
    """A configuration to train, as plain data. The fields are `Candidate`'s."""

    config: dict[str, Any]
    drawn: dict[str, Any]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    folder: str
    stop_failing: bool
    keep: int

    def candidate(self, device: torch.device) -> Candidate:
        """The configuration in training."""
        return Candidate(
            parse(self.config),
            self.drawn,
            self.seeds,
            self.metrics,
            Path(self.folder),
            device=device,
            stop_failing=self.stop_failing,
            keep=self.keep,
        )


class Workplace(Protocol):
    """Trains one configuration at a time."""

    def row(self, work: Work, number: int) -> TrialRow:
        """Row `number` of a configuration: the recorded one, or trained now."""
        ...

    def save(self, work: Work, path: Path) -> None:
        """Write the states of all seeds."""
        ...

    def load(self, work: Work, path: Path) -> None:
        """Let a configuration go on from what `save` wrote."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class OwnProcess:
    """Trains in this process.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._work: Work | None = None
        self._candidate: Candidate | None = None

    def candidate(self, work: Work) -> Candidate:
        """The configuration in training; the one before goes."""
        if self._candidate is None or work != self._work:
            self._candidate = None
            self._work, self._candidate = work, work.candidate(self._device)
        return self._candidate

    def row(self, work: Work, number: int) -> TrialRow:
        """Row `number` of a configuration."""
        return self.candidate(work).row(number)

    def save(self, work: Work, path: Path) -> None:
        """Write the states of all seeds."""
        states = self.candidate(work).states()
        if Replica.current().is_first:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(states, path)

    def load(self, work: Work, path: Path) -> None:
        """Let a configuration go on from other states; its settings stay its own."""
        self.candidate(work).adopt(torch.load(path, map_location="cpu", weights_only=True))

    def close(self) -> None:
        """Nothing is held."""


class WorkerGroup:
    """Trains on a group of Ray Train workers, which starts with the first message.

    Args:
        config: a run of the sweep, for what all have in common.
        placement: of the workers.
        storage: folder for Ray's own files.
    """

    def __init__(self, config: Config, placement: Placement, storage: Path) -> None:
        self._group = Group(config, placement, storage, max_restarts=1)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._serial = 0

    def row(self, work: Work, number: int) -> TrialRow:
        """Row `number` of a configuration."""
        return self._ask(work, "row", number)

    def save(self, work: Work, path: Path) -> None:
        """Write the states of all seeds."""
        self._ask(work, "save", str(path))

    def load(self, work: Work, path: Path) -> None:
        """Let a configuration go on from other states."""
        self._ask(work, "load", str(path))

    def close(self) -> None:
        """Let the workers end by themselves, so that Ray gets back what they hold."""
        if self._thread is not None:
            self._messages.put((0, None, "stop", None))
            self._thread.join(FAREWELL)

    def _ask(self, work: Work, verb: str, argument: Any) -> Any:
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
            run_group(_serve, settings, self._group)
        except Exception as error:
            self._error = error


RESTARTED = -1
"""Serial number of what a worker group says first."""


def _serve(settings: dict[str, Any]) -> ConfigError | None:
    """Runs in each worker: rank 0 takes messages and passes them on, all work, rank 0 answers."""
    try:
        _, device = prepare_worker(settings)
        place, first, done = OwnProcess(device), Replica.current().is_first, 0
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
