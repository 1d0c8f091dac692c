"""Evaluation beside training (`eval.mode: async`): what its process computes, and that process on this machine.

A snapshot is a file with the state of the generator's moving average. The process builds data, network and evaluator
from the run's config, as `python -m ganscale.evaluate` does; latents and labels are functions of (seed, index). So it
finds the same numbers as an inline evaluation on a device of the same type with as many threads.
"""

import io
import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ganscale.config import Config, parse
from ganscale.config.errors import ExecutionError
from ganscale.config.register import ADDED, register
from ganscale.evaluation.callback import make_evaluator
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.storage.files import write_bytes_atomically
from ganscale.training.build import build_networks, build_source, set_tf32
from ganscale.training.ema import MovingAverage

NICENESS = 10
"""Of the process beside a local run: where no core is to spare, training goes first."""


class EvaluationFailedError(ExecutionError):
    """An evaluation in a process of its own failed, or the process died."""


class EvaluationExecutor(Protocol):
    """Evaluates one snapshot at a time in a process of its own; after a failure it can only be closed."""

    def submit(self, images: int, snapshot: Path) -> None:
        """Start an evaluation; returns at once.

        Args:
            images: of the snapshot.
            snapshot: its file, on this machine.

        Raises:
            EvaluationFailedError: there is no process.
        """
        ...

    def poll(self, timeout: float) -> Evaluation | None:
        """The result of what was submitted; None if it is not there yet.

        Args:
            timeout: seconds to wait for it.

        Raises:
            EvaluationFailedError: there will be none.
        """
        ...

    def close(self) -> None:
        """End the process, whatever it does."""
        ...


def save_snapshot(module: nn.Module, path: Path) -> None:
    """Write a network's state, whole or not at all.

    Args:
        module: the network.
        path: of the file; its folder is made.

    Raises:
        OSError: the storage refuses.
    """
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, buffer.getbuffer())


class SnapshotEvaluator:
    """Evaluates snapshots of one run in this process, alone.

    Args:
        config: the run.
        device: where to compute.

    Raises:
        ConfigError: data or extractor are not there, or damaged.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        torch.set_num_threads(config.eval.cpus)
        torch.use_deterministic_algorithms(config.train.deterministic)
        set_tf32(config.train.tf32)
        source = build_source(config, device)
        generator, _ = build_networks(config, source.shape, device, num_classes=source.num_classes)
        self._ema = MovingAverage(generator, 0.0)
        self._evaluator = make_evaluator(config, source, device=device)

    def evaluate(self, images: int, snapshot: bytes) -> Evaluation:
        """The scores of a snapshot.

        Args:
            images: of the run when it was taken.
            snapshot: content of its file.
        """
        state = torch.load(io.BytesIO(snapshot), map_location="cpu", weights_only=True)
        self._ema.module.load_state_dict(state)
        return self._evaluator.evaluate(self._ema.module, images)


class ProcessExecutor:
    """A child process on the CPU of this machine (an `EvaluationExecutor`).

    It is spawned, so a user's script needs `if __name__ == "__main__":`. Not a `ProcessPoolExecutor`, which cannot end
    a child that is at work: a run that is to stop must not wait for it.

    Args:
        config: the run.

    Raises:
        EvaluationFailedError: it cannot be started.
    """

    def __init__(self, config: Config) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        settings = config.model_dump(mode="json")
        self._process = context.Process(target=_serve, args=(other, settings, ADDED), name="evaluation", daemon=True)
        try:
            self._process.start()
        except Exception as error:  # a user's own function that cannot be pickled, no memory
            raise EvaluationFailedError(f"its process cannot be started: {type(error).__name__}: {error}") from error
        finally:
            other.close()

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid

    def submit(self, images: int, snapshot: Path) -> None:
        """Send the file's path to the child (part of `EvaluationExecutor`)."""
        try:
            self._connection.send((images, str(snapshot)))
        except OSError:
            raise EvaluationFailedError(self._death()) from None

    def poll(self, timeout: float) -> Evaluation | None:
        """Receive the child's answer (part of `EvaluationExecutor`)."""
        try:
            if not self._connection.poll(timeout):
                return None
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise EvaluationFailedError(self._death()) from None
        if isinstance(answer, str):
            raise EvaluationFailedError(answer)
        return answer

    def close(self) -> None:
        """Kill the child (part of `EvaluationExecutor`)."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _death(self) -> str:
        self._process.join(5.0)
        return f"its process ended with exit code {self._process.exitcode}"


def _serve(connection: Connection, settings: dict[str, Any], extension: dict[str, Any]) -> None:
    """The child's main function: answer each snapshot with its evaluation, or with a text that says what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group: the run ends the child
    os.nice(NICENESS)
    evaluator: SnapshotEvaluator | None = None
    with suppress(EOFError, OSError):  # the run has ended
        while True:
            images, path = connection.recv()
            try:
                register(**extension)
                evaluator = evaluator or SnapshotEvaluator(parse(settings), torch.device("cpu"))
                answer = evaluator.evaluate(images, Path(path).read_bytes())
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
            connection.send(answer)
