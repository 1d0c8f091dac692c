"""Ray Train's controller in a process for all attempts: when it is kept, and when a new one is started."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._common import constants
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.execution.context import TrainContext
from ray.train.v2.api import data_parallel_trainer

from ganscale.launch import controller, trainer
from ganscale.launch.controller import ControllerHost, ControllerProcess
from tests.integration.cluster import Cluster


def test_the_private_names_are_rays() -> None:
    """On a newer version of Ray: read what it calls its controller for."""
    for name in ("run", "abort", "get_result", "get_worker_group", "get_all_reported_checkpoints"):
        assert callable(getattr(getattr(data_parallel_trainer, trainer.CONTROLLER), name))
    assert isinstance(getattr(data_parallel_trainer, trainer.VARIABLES)(), dict)
    assert constants.RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR == controller.WARN
    assert callable(TrainContext.get_all_reported_checkpoints)


class Controller:
    """Ray's controller; `group` is what it has not ended."""

    def __init__(self, error: Exception | None, group: object = None) -> None:
        self.error, self.group, self.aborted = error, group, False

    async def run(self) -> None:
        pass

    async def abort(self) -> None:
        self.aborted = True

    async def get_all_reported_checkpoints(self, *arguments: Any) -> Any:
        return arguments

    def get_result(self) -> Any:
        return SimpleNamespace(error=self.error)

    def get_worker_group(self) -> object:
        return self.group


@pytest.mark.parametrize(
    ("error", "group", "reusable"),
    [
        (None, None, True),
        (WorkerGroupError("a worker died", {}), None, True),
        (WorkerGroupError("a worker died", {}), "workers that did not end", False),
        (ControllerError(RuntimeError("the workers did not start")), None, False),
    ],
)
def test_it_is_kept_where_all_workers_were_ended(error: Exception | None, group: object, *, reusable: bool) -> None:
    result, again = asyncio.run(ControllerHost().run(Controller, {"error": error, "group": group}))
    assert (result.error, again) == (error, reusable)


def test_what_ray_asks_its_controller_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[str] = []
    monkeypatch.setattr(controller, "exit_actor", lambda: exits.append("exit"))
    host, inner = ControllerHost(), Controller(None)
    asyncio.run(host.abort())
    assert exits == ["exit"], "Ctrl-C between two attempts"
    host._controller = inner
    assert asyncio.run(host.get_all_reported_checkpoints(3, "mode")) == (3, "mode")
    asyncio.run(host.abort())
    assert (inner.aborted, exits) == (True, ["exit"] * 2)


class Hosts:
    """Actors by the order of their start; a call of `run` raises the next outcome or returns it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcomes: list[Any]) -> None:
        self.started, self.killed = 0, list[str]()
        self._outcomes = outcomes
        monkeypatch.setattr(controller, "_start", self._start)
        monkeypatch.setattr(controller.ray, "get", self._get)
        monkeypatch.setattr(controller.ray, "kill", lambda host: self.killed.append(host.name))

    def _start(self, environment: Mapping[str, str]) -> Any:
        self.started += 1
        return SimpleNamespace(name=f"host {self.started}", run=SimpleNamespace(remote=lambda *arguments: arguments))

    def _get(self, arguments: tuple[Any, ...]) -> Any:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.mark.parametrize("error", [ActorDiedError(), KeyboardInterrupt()])
def test_another_is_started_after_an_error(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    hosts = Hosts(monkeypatch, [("first", True), ("second", False), error, ("last", True)])
    used: list[str] = []

    def run(process: ControllerProcess) -> Any:
        return process.run(Controller, {}, environment={}, prepare=lambda host: used.append(host.name))

    with ControllerProcess() as process:
        for expected in ("first", "second", error, "last"):
            if isinstance(expected, str):
                assert run(process) == expected
                continue
            with pytest.raises(type(error)):
                run(process)
        assert hosts.killed == ["host 1", "host 2"]
    assert used == ["host 1", "host 1", "host 2", "host 3"]
    assert hosts.killed == ["host 1", "host 2", "host 3"]


def test_without_an_attempt_there_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(monkeypatch, [])
    with ControllerProcess():
        pass
    assert (hosts.started, hosts.killed) == (0, [])


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import ray
from ganscale.config import load
from ganscale.launch.controller import ControllerProcess
from ganscale.launch.placement import Placement
from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec, run_worker_group

folder = Path(sys.argv[1])

def loop(settings):
    import torch, torch.distributed as dist
    dist.all_reduce(torch.ones(1))
    (Path(settings["folder"]) / f"{settings['attempt']}-{dist.get_rank()}").write_text(str(os.getpid()))
    if settings["dies"]:
        time.sleep(600) if dist.get_rank() else os.kill(os.getpid(), signal.SIGKILL)
    return dist.get_world_size()

def ended(pid):
    try:
        return "State:\\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True

ray.init(log_to_driver=False)
config = load(None, ["train.device=cpu", "cluster.num_workers=2"])
with ControllerProcess() as process:
    placement = Placement(2, use_gpu=False, strategy="PACK")
    group = WorkerGroupSpec(config, placement, folder / "ray", 0, joined=False, controller=process)
    settings = {"folder": str(folder)}
    try:
        run_worker_group(loop, settings | {"attempt": 1, "dies": True}, group)
        raise SystemExit("a worker died, and nothing failed")
    except TrainingError as error:
        print(f"failed: {error}")
    host = process._host
    assert host is not None, "it is kept"
    assert run_worker_group(loop, settings | {"attempt": 2, "dies": False}, group).return_value == 2
    assert process._host is host
    former = [int((folder / f"1-{rank}").read_text()) for rank in range(2)]
    until = time.monotonic() + 30
    while not all(map(ended, former)):
        assert time.monotonic() < until, "workers of the first attempt live"
        time.sleep(0.1)
    modules = host.__ray_call__.remote(lambda self: "torch" in __import__("sys").modules)
    assert not ray.get(modules), "the controller needs no torch"
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_next_workers_start_in_the_same_process(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        with cluster.command([sys.executable, "-c", PROGRAM, str(tmp_path)], "out", tmp_path) as command:
            assert "failed: " in command.succeed(300)
    finally:
        cluster.close()
