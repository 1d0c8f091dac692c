"""A few worker processes that live as long as the test session and run functions as ranks of a process group."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ganscale.parallel.shared_memory import SWITCH

MAX_WORLD_SIZE = 5
SILENCE = 120.0
GRACE = 3.0  # seconds that the other ranks get to end after one has failed


@contextmanager
def over_gloo() -> Iterator[None]:
    """A rank's group that sums for the first time in this block does not use shared memory, for its whole life."""
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        del os.environ[SWITCH]


class FleetError(RuntimeError):
    """A rank failed or did not end; the message has the traceback of every rank that left one."""


def make_quick(patch: Callable[[Any, str, Any], None]) -> None:
    """Read and resize the digits once, and show D few held-out examples at a tick: runs here are of few iterations."""
    import ganscale.data.mnist
    import ganscale.training.probe

    patch(ganscale.data.mnist, "load_mnist", lru_cache(ganscale.data.mnist.load_mnist))
    patch(ganscale.training.probe, "NUM_HELD_OUT", 32)


def _serve(pipe: Connection) -> None:
    """A worker's life: receive (function, arguments, rank, world size, store, timeout), answer (ok, result)."""
    torch.set_num_threads(1)
    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    make_quick(setattr)
    while True:
        try:
            function, arguments, rank, world_size, store, timeout = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout),
            )
            answer = pickle.dumps((True, function(*arguments)))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        pipe.send_bytes(answer)


class Fleet:
    """Runs module-level functions on worlds of 1 to `MAX_WORLD_SIZE` ranks over gloo; starts workers when first needed.

    The function finds torch.distributed's default group set up, and a fresh one in each call of `run`. `preload` names
    more modules that workers find imported.
    """

    def __init__(self, *preload: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "ganscale.training.build", *preload])
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="fleet")
        self._runs = 0

    def run(
        self,
        function: Callable[..., Any],
        world_size: int,
        *arguments: Any,
        timeout: float = 300.0,
        again: bool = False,
    ) -> list[Any]:
        """Return what `function(*arguments)` returned on each rank.

        Raises:
            FleetError: a rank raised, died, or took longer than `timeout` seconds; the fleet can be used again.
        """
        while len(self._workers) < world_size:
            self._workers.append(self._start())
        self._runs += 1
        store = Path(self._folder.name) / str(self._runs)
        for rank in range(world_size):
            task = (function, arguments, rank, world_size, store, min(SILENCE, 0.9 * timeout))
            self._workers[rank][1].send_bytes(pickle.dumps(task))
        answers, problems = self._collect(world_size, timeout)
        store.unlink(missing_ok=True)
        if problems:
            # torch counts process groups: after a failed one the workers' counts differ, and they would not meet again.
            for rank in range(world_size):
                self._replace(rank)
            if not again and any("connectFullMesh failed" in text for text in problems.values()):
                return self.run(function, world_size, *arguments, timeout=timeout, again=True)  # gloo on a busy machine
            raise FleetError("\n".join(f"rank {rank}: {text}" for rank, text in sorted(problems.items())))
        return [answers[rank] for rank in range(world_size)]

    def _collect(self, world_size: int, timeout: float) -> tuple[dict[int, Any], dict[int, str]]:
        answers: dict[int, Any] = {}
        problems: dict[int, str] = {}
        waiting = {self._workers[rank][1]: rank for rank in range(world_size)}
        deadline = time.monotonic() + timeout
        while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = waiting.pop(pipe)
                try:
                    ok, value = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionResetError):
                    ok, value = False, "the process died"
                    self._replace(rank)
                (answers if ok else problems)[rank] = value
            if problems:
                deadline = min(deadline, time.monotonic() + GRACE)
        for rank in waiting.values():
            problems[rank] = "no answer in time"
            self._replace(rank)
        return answers, problems

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _replace(self, rank: int) -> None:
        process, pipe = self._workers[rank]
        process.kill()
        process.join()
        pipe.close()
        self._workers[rank] = self._start()

    def close(self) -> None:
        """End all workers."""
        for _, pipe in self._workers:
            pipe.close()
        for process, _ in self._workers:
            process.join(GRACE)
            process.kill()
        self._folder.cleanup()
