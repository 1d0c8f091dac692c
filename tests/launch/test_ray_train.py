"""The driver: waits for the run's folder to be free, and for unreachable nodes."""

import fcntl
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.config import load as load_config
from ganscale.launch import ray_train, worker_loop
from ganscale.launch.cluster import unreachable_nodes
from ganscale.launch.heartbeat_actor import AttemptHeartbeats
from ganscale.launch.placement import Placement
from ganscale.launch.ray_train import RayOutcome, _wait_until_free
from ganscale.launch.ray_train import _Supervisor as Supervisor
from ganscale.launch.worker_entry import train_loop
from ganscale.launch.worker_group import WorkerGroupSpec
from ganscale.launch.worker_setup import TrainingError
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.outcome import Outcome
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from tests.processes import free_port

CONFIG = load_config(overrides=("cluster.timeout=1",))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunDir]:
    """A folder that another process writes to for three seconds."""
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(3.0, fcntl.flock, (lock, fcntl.LOCK_UN))
        timer.start()
        yield RunDir(tmp_path)
        timer.cancel()
        timer.join()


def heartbeat(iteration: int) -> Heartbeat:
    return Heartbeat(0, "w1", 1, 1, 0.0, 0, iteration, "D forward", 0.0)


def test_a_writer_without_progress_is_waited_for(folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "read_heartbeats", lambda _: [heartbeat(7)])
    started = time.monotonic()
    _wait_until_free(CONFIG, folder)
    assert 2.0 < time.monotonic() - started < 10.0


def test_a_writer_that_trains_is_not_waited_for(folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    iterations = iter(range(9))
    monkeypatch.setattr(ray_train, "read_heartbeats", lambda _: [heartbeat(next(iterations))])
    started = time.monotonic()
    with pytest.raises(BusyError):
        _wait_until_free(CONFIG, folder)
    assert time.monotonic() - started < 2.0


def test_a_writer_without_heartbeats_is_not_waited_for(folder: RunDir) -> None:
    with pytest.raises(BusyError):
        _wait_until_free(CONFIG, folder)


@pytest.mark.parametrize(("previous_failure", "returned"), [(None, True), ("a worker died", False)])
def test_a_folder_in_use_is_retried_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, previous_failure: str | None, returned: bool
) -> None:
    """At the first start it is the user's error; later it may be a worker that is cut off from the others."""
    error = BusyError("another process writes to it")

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(worker_loop, "run_worker", refuse)
    monkeypatch.setattr(worker_loop, "prepare_worker", lambda _: (CONFIG, None))
    settings = {
        "path": str(tmp_path),
        "previous_failure": previous_failure,
        "callbacks": (),
        "actor": None,
        "attempt": 1,
        "live": 0,
    }
    if returned:
        assert train_loop(settings) is error
        return
    with pytest.raises(BusyError):
        train_loop(settings)


def supervisor(folder: Path) -> Supervisor:
    made = Supervisor(CONFIG, RunDir(folder), StopFile(folder / ".stop"))
    made._patience = 3.0
    return made


def test_a_group_that_outlives_its_workers_restarts_when_the_driver_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them leave at once where a node drains: STOP, which nobody else has requested."""
    live = load_config(overrides=("cluster.recovery=live", "cluster.num_workers=2", "train.device=cpu"))
    for stops in (False, True):
        made = Supervisor(live, RunDir(tmp_path), StopFile(tmp_path / ".stop"))
        outcomes = [RayOutcome(720, 360), RayOutcome(360, 0, stop_reason=StopReason.STOP)]
        monkeypatch.setattr(made, "_place", lambda: None)
        monkeypatch.setattr(made, "_attempt", lambda placement, failure, left=outcomes: left.pop())
        if stops:
            made._stop_file.write(StopReason.STOP)
        assert made.run() == (RayOutcome(360, 0, stop_reason=StopReason.STOP) if stops else RayOutcome(720, 360))
        assert bool(outcomes) == stops


def test_an_unreachable_node_is_waited_for_until_it_is_declared_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [["10.0.0.2"], ["10.0.0.2"], []]
    monkeypatch.setattr(ray_train, "unreachable_nodes", lambda: answers.pop(0))
    supervisor(tmp_path)._wait_for_unreachable_nodes()
    assert not answers
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "10.0.0.2" in caplog.text


def test_an_unreachable_node_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "unreachable_nodes", lambda: ["10.0.0.2"])
    started = time.monotonic()
    supervisor(tmp_path)._wait_for_unreachable_nodes()
    assert 2.0 < time.monotonic() - started < 10.0
    stopped = supervisor(tmp_path)
    stopped._stop_file.write(StopReason.STOP)
    stopped._wait_for_unreachable_nodes()
    assert time.monotonic() - started < 10.0


def test_a_node_that_accepts_no_connection_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        rows = [
            {"Alive": heartbeats, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
            for heartbeats, port in ((True, server.getsockname()[1]), (True, free_port()), (False, free_port()))
        ]
        monkeypatch.setattr("ray.nodes", lambda: rows)
        assert unreachable_nodes() == ["127.0.0.1"]


@pytest.mark.parametrize("recovery", ["restart", "live"])
def test_a_restart_has_the_processes_of_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovery: str
) -> None:
    """But for a live run's controller, with which its lighthouse ends."""
    config = load_config(overrides=(f"cluster.recovery={recovery}", "cluster.num_workers=2", "train.device=cpu"))
    made = Supervisor(config, RunDir(tmp_path), StopFile(tmp_path / ".stop"))
    handle = SimpleNamespace(begin=SimpleNamespace(remote=lambda number: None))
    numbers = iter((1, 2))
    groups: list[WorkerGroupSpec] = []
    settings: list[dict[str, Any]] = []

    def run(loop: object, given: dict[str, Any], group: WorkerGroupSpec) -> Any:
        groups.append(group)
        settings.append(given)
        if len(groups) == 1:
            raise TrainingError("a worker died")
        return SimpleNamespace(return_value=Outcome(720, 360))

    monkeypatch.setattr(made._heartbeats, "begin", lambda: AttemptHeartbeats(RunDir(tmp_path), handle, next(numbers)))
    monkeypatch.setattr(made, "_place", lambda: Placement(2, use_gpu=False, strategy="PACK"))
    monkeypatch.setattr(ray_train, "ClusterMonitor", lambda *_, **__: nullcontext())
    monkeypatch.setattr(ray_train, "unreachable_nodes", list)
    monkeypatch.setattr(ray_train, "run_worker_group", run)
    assert made.run().images == 720
    assert [group.controller for group in groups] == [None if recovery == "live" else made._controller] * 2
    assert [(given["actor"], given["attempt"]) for given in settings] == [(handle, 1), (handle, 2)]
    assert [given["previous_failure"] for given in settings] == [None, "a worker died"]
