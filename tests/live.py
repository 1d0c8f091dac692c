"""Workers of runs with `cluster.recovery: live` in processes of this machine, which die or hang at a given moment."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from ganscale.config import load
from ganscale.parallel import quorum
from ganscale.parallel.replica import Replica
from ganscale.run import checkpointing, live, stop_signal
from ganscale.run.stop_signal import SigtermFlag, StopFile, StopReason, on_sigterm
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.training.state import TrainState
from ganscale.training.statistics import Window
from ganscale.training.step import Step
from ganscale.training.transactions import Transactions
from tests.fleet import make_quick
from tests.live_hosts import Hosts, enter

MOMENTS: dict[str, tuple[type, str]] = {
    "update": (Step, "_update_generator"),
    "commit": (Window, "share"),
    "begin": (Transactions, "begin"),
    "row": (JsonlTracker, "log"),
    "save": (checkpointing.Checkpointer, "_save"),
    "tick": (Transactions, "finish_tick"),
    "join": (Transactions, "synchronize"),
}
"""Functions that a worker calls in a run, by what it does there: between D's and G's update, and so on."""


@dataclass(frozen=True)
class Fault:
    """What happens to a worker, and when.

    Attributes:
        moment: of `MOMENTS`.
        call: which call of that function, from 1.
        what: "kill", "stop" (SIGSTOP), or of its machine: "cut" off for some time, or "off", without power.
        seconds: for which it is stopped, cut off or without power; 0 where nobody lets it continue.
    """

    moment: str
    call: int
    what: str = "kill"
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.what}{f' {self.seconds:.0f} s' * bool(self.seconds)} at {self.moment} {self.call}"


def strike(fault: Fault, folder: Path, position: int) -> None:
    """Let the fault happen to this process, which is a worker of the run in `folder`."""
    with _struck(folder).open("a", encoding="utf-8") as file:
        file.write(f"{fault}, worker {position}, rank {Replica.current().rank}\n")
    if fault.what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    request = _request(folder, position)
    request.touch()
    if fault.what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while request.exists() and fault.what != "stop":  # `Workers.tend` does it
        time.sleep(0.002)


@contextmanager
def failing(fault: Fault | None, folder: Path, position: int) -> Iterator[None]:
    """Let a fault happen to this process when it comes to a moment."""
    if fault is None:
        yield
        return
    owner, name = MOMENTS[fault.moment]
    act, left = getattr(owner, name), fault.call

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            strike(fault, folder, position)
        return act(*arguments, **options)

    setattr(owner, name, count)
    try:
        yield
    finally:
        setattr(owner, name, act)


def wait_for_workers(folder: Path, seconds: float) -> None:
    """Wait at a tick until so many workers train as `Workers.wanted` says, or another one is about to join."""
    requests, until = StopFile(RunDir(folder).stop), time.monotonic() + seconds
    while Replica.current().world_size < int(_wanted(folder).read_text()) and not requests.read():
        if time.monotonic() > until:
            break
        time.sleep(0.05)


def want(folder: Path, count: int) -> None:
    """Let `wait_for_workers` wait for so many workers."""
    write_atomically(_wanted(folder), str(count))


def _wanted(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.wanted")


@contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Write the seconds from the begin of each iteration that fails to that of its repetition to a file."""
    begin, add = Transactions.begin, live._Failures.add
    began, images, lost = time.monotonic(), -1, False

    def begin_timed(self: Transactions, state: TrainState, window: Window) -> None:
        nonlocal began, images, lost
        if lost and state.images >= images:
            with _gaps(folder).open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic() - began}\n")
            lost = False
        if not lost:
            began, images = time.monotonic(), state.images
        begin(self, state, window)

    def add_noticed(self: Any, *arguments: Any) -> None:
        nonlocal lost
        lost = True
        add(self, *arguments)

    setattr(Transactions, "begin", begin_timed)  # noqa: B010
    setattr(live._Failures, "add", add_noticed)  # noqa: B010
    try:
        yield
    finally:
        Transactions.begin, live._Failures.add = begin, add


def struck(folder: Path) -> list[str]:
    """The faults that have happened to a run's workers."""
    path = _struck(folder)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _struck(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.struck")


def gaps(folder: Path) -> list[float]:
    """What all workers of a run have written (`timed`)."""
    path = _gaps(folder)
    return [float(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _gaps(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.gaps")


def _request(folder: Path, position: int) -> Path:
    """A file by which a worker requests what it cannot do to its own machine."""
    return folder.with_name(f"{folder.name}.{position}.fault")


def work(
    overrides: tuple[str, ...],
    folder: Path,
    lighthouse: str,
    fault: Fault | None,
    position: int,
    machine: tuple[int, Path, int] | None,
) -> None:
    """Train as a worker; the exit code is 0 at the end of the run, 75 after it has left."""
    if machine:
        enter(*machine)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    make_quick(setattr)
    stop_signal.EVERY, quorum.JOIN_AFTER = 0.02, 0.5
    flag = SigtermFlag(StopReason.DRAIN)
    options = {"device": torch.device("cpu"), "echo": False, "lighthouse": lighthouse}
    with timed(folder), failing(fault, folder, position), on_sigterm(flag.set):
        config = load(overrides=overrides)
        callbacks = [lambda tick: wait_for_workers(folder, 0.5 * config.cluster.timeout)]
        outcome = live.run_live(config, folder, ask=flag, callbacks=callbacks, **options)
    os._exit(75 if outcome.stop_reason else 0)


class Lighthouse:
    """torchft's lighthouse in this process."""

    def __init__(self, *, heartbeat_timeout: float = 15.0) -> None:
        from torchft.coordination import LighthouseServer

        self._server = LighthouseServer(
            bind="[::]:0",
            min_replicas=1,
            join_timeout_ms=3_600_000,
            quorum_tick_ms=50,
            heartbeat_timeout_ms=int(1000 * heartbeat_timeout),
        )
        self.address = f"http://127.0.0.1:{self._server.address().rpartition(':')[2]}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()


class Workers:
    """Starts workers of one run; leaving the `with` block kills those that are left.

    Args:
        overrides: the run's settings.
        folder: the run's.
        wanted: workers without which rank 0 does not go beyond a tick.
        hosts: machines for them; by default they share this one.
        heartbeat_timeout: seconds after which the lighthouse declares a silent worker dead; `hosts` have their own.
    """

    def __init__(
        self,
        overrides: tuple[str, ...],
        folder: Path,
        *,
        wanted: int,
        hosts: Hosts | None = None,
        heartbeat_timeout: float = 15.0,
    ) -> None:
        self.overrides, self.folder, self.hosts = overrides, folder, hosts
        self.want(wanted)
        self.lighthouse = None if hosts else Lighthouse(heartbeat_timeout=heartbeat_timeout)
        self.address = hosts.lighthouse if hosts else cast(Lighthouse, self.lighthouse).address
        self.processes: list[BaseProcess] = []
        self.places: list[int] = []
        self.faults: list[Fault | None] = []
        self._stopped: dict[int, float] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "torchft.coordination", "tests.live"])

    def want(self, count: int) -> None:
        """Change the number of workers without which rank 0 does not go beyond a tick."""
        want(self.folder, count)

    def start(self, fault: Fault | None = None, host: int = 0) -> BaseProcess:
        """Start a worker, on one of the machines if there are any."""
        machine = (self.hosts.pids[host], self.hosts.folder, host) if self.hosts else None
        arguments = (self.overrides, self.folder, self.address, fault, len(self.processes), machine)
        process: Any = self._context.Process(target=work, args=arguments, daemon=True)
        process.start()
        self.processes.append(process)
        self.places.append(host)
        self.faults.append(fault)
        return process

    def tend(self) -> None:
        """Do to machines what their workers request, and let stopped ones continue; to be called every now and then."""
        if not self.hosts:
            return
        self.hosts.tend()
        for process, until in list(self._stopped.items()):
            if time.monotonic() >= until:
                del self._stopped[process]
                os.kill(process, signal.SIGCONT)
        for position, (fault, host) in enumerate(zip(self.faults, self.places, strict=True)):
            request = _request(self.folder, position)
            if fault is None or not request.exists():
                continue
            if fault.what == "stop":
                pid = self.processes[position].pid
                assert pid
                self._stopped[pid] = time.monotonic() + fault.seconds
            elif fault.what == "cut":
                self.hosts.cut(host, fault.seconds)
            else:
                there = zip(self.processes, self.places, strict=True)
                alive = [process.pid for process, place in there if place == host and process.is_alive()]
                self.hosts.lose_power(host, [pid for pid in alive if pid], fault.seconds)
            request.unlink()

    def wait(self, process: BaseProcess, timeout: float = 600.0) -> int:
        """A worker's exit code."""
        end = time.monotonic() + timeout
        while process.exitcode is None and time.monotonic() < end:
            self.tend()
            process.join(0.05)
        assert process.exitcode is not None, f"no end within {timeout:.0f} s\n{self.log}"
        return process.exitcode

    def ended(self) -> int:
        """How many of the processes have ended."""
        return sum(process.exitcode is not None for process in self.processes)

    @property
    def log(self) -> str:
        """What rank 0 has logged so far."""
        with suppress(OSError):
            return (self.folder / "train.log").read_text(encoding="utf-8")
        return ""

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 600.0) -> None:
        """Wait until something holds."""
        end = time.monotonic() + timeout
        while not condition():
            self.tend()
            assert time.monotonic() < end, f"{what}: not within {timeout:.0f} s\n{self.log}"
            time.sleep(0.05)

    def members(self) -> int:
        """How many workers train, by the run's log."""
        found = re.findall(r" for (\d+) workers? on cpu", self.log)
        return int(found[-1]) if found else 0

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
            process.join(10.0)
        if self.lighthouse:
            self.lighthouse.close()
