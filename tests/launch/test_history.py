"""What is left of a command in its run: its log, and the ends of the workers' logs after failures."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.launch import history, node_logs
from ganscale.launch.history import NodeLogs, recorded
from ganscale.launch.node_logs import read_logs
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, StorePath, folders
from tests.buckets import moto

JOB = "02000000"
_logger = logging.getLogger("ganscale.launch.test")


def collected(since: float) -> NodeLogs:
    return {
        "w1": {"worker-1.err": b"CUDA error: uncorrectable ECC error", "events/event_RAYLET.log": b"{}"},
        "w2": "dead",
    }


def contents(place: Place) -> dict[str, str]:
    """Texts of all files below a place, by their paths without the command's folder."""
    if isinstance(place, StorePath):
        found = {
            entry.key[len(place.key) + 1 :]: place.store.get(entry.key)[0] for entry in place.store.list(place.key)
        }
    else:
        found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name.partition("/")[2]: content.decode() for name, content in found.items()}


def fail(error: BaseException, folder: RunDir, *, joined: bool = True, starts: bool = True) -> None:
    with recorded(folder, joined=joined, collect=collected) as kept:
        _logger.warning("the workers failed (%s)", "ECC")
        if starts:
            kept.start()
        raise error


def check_failure(place: Place) -> None:
    found = contents(place)
    assert found.keys() == {
        "driver.log",
        *(f"01/{name}" for name in ("cause.txt", "w1/worker-1.err", "w1/events-event_RAYLET.log", "w2/missing.txt")),
    }
    assert "the workers failed (ECC)" in found["driver.log"]
    assert "raise error\nRuntimeError: the end" in found["driver.log"], "the traceback"
    assert (found["01/cause.txt"], found["01/w2/missing.txt"]) == ("RuntimeError: the end\n", "dead")
    assert "ECC" in found["01/w1/worker-1.err"]


def test_the_cause_of_a_failure_is_in_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        fail(RuntimeError("the end"), RunDir(tmp_path))
    check_failure(tmp_path / "logs")
    assert not logging.getLogger("ganscale").handlers


def test_the_cause_of_a_failure_is_in_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is downloaded where the run is read."""
    with moto() as server:
        folder = RunDir(f"{server.use(monkeypatch)}/run")
        with pytest.raises(RuntimeError):
            fail(RuntimeError("the end"), folder)
        check_failure(folder.root / "logs")
        assert list(RunDir(folder.root).pull().path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "joined", "starts", "files"),
    [
        (ConfigError("too small", key="cluster.num_workers", value=9), True, False, {"driver.log"}),
        (ConfigError("too small", key="cluster.num_workers", value=9), False, False, set()),
        (BusyError("another process writes to it"), True, False, set()),
        (RuntimeError("Ray does not start"), False, False, set()),
        (KeyboardInterrupt(), True, True, {"driver.log"}),
    ],
)
def test_what_other_ends_leave(
    error: BaseException, joined: bool, starts: bool, files: set[str], tmp_path: Path
) -> None:
    with pytest.raises(type(error)):
        fail(error, RunDir(tmp_path), joined=joined, starts=starts)
    assert contents(tmp_path / "logs").keys() == files


@pytest.mark.parametrize(("joined", "files"), [(True, 5), (False, 1)])
def test_a_command_that_succeeds(joined: bool, files: int, tmp_path: Path) -> None:
    """Logs of a cluster of its own stay on the machine."""
    with recorded(RunDir(tmp_path), joined=joined, collect=collected) as kept:
        kept.start()
        _logger.warning("starting 2 workers")
    assert len(contents(tmp_path / "logs")) == files


def test_logs_are_collected_while_the_run_restarts(tmp_path: Path) -> None:
    """A node that hangs holds nothing up but the next collection."""
    go, started = threading.Event(), threading.Event()

    def hang(since: float) -> NodeLogs:
        started.set()
        go.wait(20)
        return collected(since)

    with recorded(RunDir(tmp_path), joined=False, collect=hang) as kept:
        kept.start()
        kept.failed("first")
        assert started.wait(20)
        kept.failed("second, while the first hangs")
        go.set()
    causes = {name: text for name, text in contents(tmp_path / "logs").items() if name.endswith("cause.txt")}
    assert causes == {"01/cause.txt": "first\n"}


def test_a_failing_collection_is_noted(tmp_path: Path) -> None:
    def refuse(since: float) -> NodeLogs:
        raise RuntimeError("the head is gone")

    with recorded(RunDir(tmp_path), joined=True, collect=refuse) as kept:
        kept.start()
    assert "the head is gone" in contents(tmp_path / "logs")["driver.log"]


def test_a_damaged_line_of_the_log_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with recorded(RunDir(tmp_path), joined=True, collect=collected) as kept:
        kept.start()
        _logger.warning("%d images", "x")


def test_a_log_that_the_storage_refused_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, refused = history._write, []

    def flaky(place: Place, content: bytes) -> None:
        if place.name == "driver.log" and not refused:
            refused.append(content)
            raise OSError("away")
        write(place, content)

    monkeypatch.setattr(history, "_write", flaky)
    monkeypatch.setattr(history, "EVERY", 0.01)
    with recorded(RunDir(tmp_path), joined=True, collect=collected) as kept:
        kept.start()
        _logger.warning("the only line")
        while not refused:
            time.sleep(0.01)
    assert "the only line" in contents(tmp_path / "logs")["driver.log"]


def test_the_newest_commands_are_kept(tmp_path: Path) -> None:
    for number in range(history.KEPT + 5):
        (tmp_path / "logs" / f"20200101-0000{number:02d}-w1").mkdir(parents=True)
    with recorded(RunDir(tmp_path), joined=True, collect=collected) as kept:
        kept.start()
    names = folders(tmp_path / "logs")
    assert len(names) in (history.KEPT - 1, history.KEPT)
    assert names[-1] == kept.place.name


@pytest.fixture
def session(tmp_path: Path) -> Callable[[str, bytes], None]:
    def write(name: str, content: bytes) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    return write


def test_the_logs_of_a_job_and_of_its_node(session: Callable[[str, bytes], None], tmp_path: Path) -> None:
    for name in (
        *(f"worker-a-{JOB}-1.err", f"worker-a-{JOB}-1.out", "raylet.out", "gcs_server.out"),
        *("train/ray-train-app-worker-1.log", "events/event_GCS.log"),
    ):
        session(name, b"x")
    for name in ("worker-a-01000000-1.err", "worker-b-ffffffff-2.out", "dashboard.log", "debug_state.txt"):
        session(name, b"another's")
    session(f"worker-b-{JOB}-2.out", b"")
    found = read_logs(str(tmp_path), JOB, 0.0)
    assert set(found.values()) == {b"x"}
    assert len(found) == 6
    assert read_logs(str(tmp_path), JOB, time.time() + 60) == {}
    assert read_logs(str(tmp_path / "missing"), JOB, 0.0) == {}


def test_logs_are_limited(session: Callable[[str, bytes], None], tmp_path: Path) -> None:
    session(f"worker-a-{JOB}-1.err", b"a" * node_logs.FILE_BYTES + b"the end")
    for number in range(2 * node_logs.NODE_FILES):
        session(f"worker-{number}-{JOB}-1.out", b"x")
    session("raylet.out", b"y")  # the newest
    found = read_logs(str(tmp_path), JOB, 0.0)
    assert len(found) == node_logs.NODE_FILES
    assert all(JOB in name for name in found), "what is not of the job comes last"
    assert all(len(content) <= node_logs.FILE_BYTES for content in found.values())
    (tmp_path / "raylet.out").unlink()
    for path in tmp_path.glob("*.out"):
        path.unlink()
    assert read_logs(str(tmp_path), JOB, 0.0)[f"worker-a-{JOB}-1.err"].endswith(b"the end")


def test_the_drivers_own_node_needs_no_process(
    session: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(f"worker-a-{JOB}-1.err", b"x")
    called: list[str] = []

    class Task:
        def options(self, *, scheduling_strategy: Any, **_: Any) -> "Task":
            called.append(scheduling_strategy.node_id)
            return self

        def remote(self, *_: Any) -> dict[str, bytes]:
            return {"raylet.out": b"y"}

    names = [("w1", "aa" * 28), ("w1", "bb" * 28), ("w2", "cc" * 28)]
    rows = [{"NodeManagerHostname": name, "NodeID": key, "Alive": key[:2] != "cc"} for name, key in names]
    context = SimpleNamespace(get_job_id=lambda: JOB, get_node_id=lambda: "aa" * 28)
    monkeypatch.setattr(history, "log_folder", lambda: str(tmp_path))
    monkeypatch.setattr(history.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(history.ray, "nodes", lambda: rows)
    monkeypatch.setattr(history.ray, "remote", lambda function: Task())
    monkeypatch.setattr(history.ray, "get", lambda answer, timeout: answer)
    found = history.collect_logs(0.0)
    assert found["w1"] == {f"worker-a-{JOB}-1.err": b"x"}
    assert found["w1-bbbbbb"] == {"raylet.out": b"y"}
    assert isinstance(found["w2"], str)
    assert called == ["bb" * 28]
