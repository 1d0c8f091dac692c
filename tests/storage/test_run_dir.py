"""The run's folder: where it lies, what may go on in it, who may write."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ganscale.config import Config, ConfigError, load, parse
from ganscale.run.heartbeats import read_heartbeats
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import read_failures
from ganscale.storage.lease import BusyError, FileLease, LeaseLostError, check_free
from ganscale.storage.run_dir import RunDir, inspect, locate, migrate, prepare


def config(path: Path, *overrides: str) -> Config:
    return load(overrides=[f"run.dir={path}", "run.name=try1", *overrides])


def save(folder: RunDir, config: Config, images: int) -> None:
    store = CheckpointStore(folder.path / "checkpoints")
    store.save({"images": images, "iteration": 1}, config=config.model_dump(mode="json"), metrics={})


def started(path: Path, *overrides: str) -> tuple[Config, RunDir]:
    """A run with a checkpoint at 100 images."""
    old = config(path, *overrides)
    folder = locate(old)
    prepare(old, folder)
    save(folder, old, 100)
    return old, folder


def test_a_relative_folder_lies_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(load(overrides=["run.name=a"])).path == tmp_path / "runs" / "a"
    assert locate(load(overrides=["run.name=a", "run.dir=../x"])).path == tmp_path / ".." / "x" / "a"


def test_an_absolute_folder_and_a_home_are_taken_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert locate(load(overrides=["run.name=a", "run.dir=/data/runs"])).path == Path("/data/runs/a")
    assert locate(load(overrides=["run.name=a", "run.dir=~/runs"])).path == tmp_path / "home" / "runs" / "a"


def test_in_a_ray_job_a_relative_folder_lies_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    upload.mkdir(parents=True)
    monkeypatch.chdir(upload)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert locate(load(overrides=["run.name=a"])).path == tmp_path / "home" / "runs" / "a"
    assert locate(load(overrides=["run.name=a", "run.dir=/data"])).path == Path("/data/a")


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run.dir = ~nobody-there/runs: its place cannot be found"):
        locate(load(overrides=["run.dir=~nobody-there/runs"]))


def test_a_working_directory_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="name an absolute folder"):
        locate(load())


def test_a_fresh_folder_may_start_and_looking_makes_nothing(tmp_path: Path) -> None:
    new = config(tmp_path / "not" / "yet")
    assert inspect(new, locate(new)) is None
    assert list(tmp_path.iterdir()) == []


def test_the_same_config_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    old, folder = started(tmp_path)
    save(folder, old, 200)
    manifest = inspect(old, folder)
    assert manifest is not None
    assert manifest.images == 200
    (folder.path / "checkpoints" / f"{200:012d}" / "state.pt").write_bytes(b"")
    manifest = inspect(old, folder)
    assert manifest is not None
    assert manifest.images == 100


RESUMABLE = (
    "train.images=5000000",
    "train.device=cpu",
    "log.every=7",
    "checkpoint.keep=1",
    "wandb.mode=disabled",
    "cluster.num_workers=3",
)


def test_changes_that_leave_the_trajectory_alone_are_allowed(tmp_path: Path) -> None:
    _, folder = started(tmp_path)
    manifest = inspect(config(tmp_path, *RESUMABLE), folder)
    assert manifest is not None
    assert manifest.images == 100


@pytest.mark.parametrize("config_file", ["there", "gone"])
def test_a_run_of_an_earlier_version_goes_on_without_its_unused_settings(tmp_path: Path, config_file: str) -> None:
    raw = config(tmp_path).model_dump(mode="json")
    raw["penalty"]["lecam_decay"] = 0.9
    raw["model"]["generator"]["class_dim"] = 7
    old = parse(raw)
    folder = locate(old)
    prepare(old, folder)
    save(folder, old, 100)
    if config_file == "gone":
        folder.config.unlink()
    manifest = inspect(config(tmp_path), folder)
    assert manifest is not None
    assert manifest.images == 100


@pytest.mark.parametrize("config_file", ["there", "gone"])
def test_other_changes_are_refused_and_listed(tmp_path: Path, config_file: str) -> None:
    _, folder = started(tmp_path)
    if config_file == "gone":  # the checkpoint carries the config too
        folder.config.unlink()
    new = config(tmp_path, *RESUMABLE, "optim.lr_g=0.5", "train.batch_size=8")
    with pytest.raises(ConfigError) as caught:
        inspect(new, folder)
    assert (caught.value.key, caught.value.value) == ("run.name", "try1")
    assert "optim.lr_g: 0.0002 -> 0.5\n    train.batch_size: 64 -> 8\n" in str(caught.value)


def test_a_checkpoint_of_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """It was copied there: the folder's own config fits."""
    old, folder = started(tmp_path)
    other = config(tmp_path / "other", "optim.lr_g=0.5")
    save(folder, other, 200)
    with pytest.raises(ConfigError) as caught:
        inspect(old, folder)
    assert caught.value.key == "run.name"
    assert "000000000200" in str(caught.value)
    assert "optim.lr_g: 0.5 -> 0.0002" in str(caught.value)


def test_a_checkpoint_of_a_version_with_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the run would start from image 0; where an earlier checkpoint is valid, that one is used."""
    monkeypatch.setattr(checkpoint, "SCHEMA", checkpoint.SCHEMA + 1)
    old, folder = started(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError) as caught:
        inspect(old, folder)
    assert caught.value.key == "run.name"
    assert f"schema {checkpoint.SCHEMA + 1}" in str(caught.value)


def test_a_folder_of_an_earlier_version_stays_readable(tmp_path: Path) -> None:
    """Its heartbeats and failures get their new names once; a folder that has them stays as it is."""
    old, folder = started(tmp_path)
    beat = {"rank": 0, "host": "a", "pid": 1, "born": 2, "time": 0.0, "images": 60, "iteration": 5}
    (folder.path / ".alive").mkdir()
    (folder.path / ".alive" / "0.json").write_text(json.dumps({**beat, "phase": "D forward", "lasts": 1.0}))
    row = {"time": 1.0, "what": "killed", "workers": 2, "reached": 90, "resumed": 60, "seconds_lost": 3.5}
    (folder.path / "faults.jsonl").write_text(json.dumps({**row, "images_lost": 30}) + "\n")
    inspect(old, folder)
    assert [each.images for each in read_heartbeats(folder.heartbeats)] == [60]
    assert [each.images_lost for each in read_failures(folder.failures)] == [30]
    assert not (folder.path / "faults.jsonl").exists()
    (folder.path / "faults.jsonl").touch()
    migrate(folder)
    assert len(read_failures(folder.failures)) == 1


@pytest.mark.parametrize("content", [b"train: {", b"train: {imagez: 3}\n", b"\x80\xff", b"[1]"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    old, folder = started(tmp_path)
    folder.config.write_bytes(content)
    with pytest.raises(ConfigError, match=r"the config in this run's folder cannot be read") as caught:
        inspect(old, folder)
    assert str(caught.value).count("remedy:") == 1


def _below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "runs"


UNWRITABLE: dict[str, Callable[[Path], Path]] = {
    "below_a_file": _below_a_file,
    "a_file": lambda tmp_path: (tmp_path / "file").touch() or tmp_path / "file",
    "device": lambda _: Path("/dev/null"),
    "proc": lambda _: Path("/proc/runs"),
    "long": lambda tmp_path: tmp_path / ("x" * 300),
    "very_long": lambda tmp_path: tmp_path.joinpath(*["x" * 99] * 99),
    "nul": lambda tmp_path: tmp_path / "a\0b",
    "dangling_link": lambda tmp_path: (tmp_path / "link").symlink_to("/proc/none/x") or tmp_path / "link",
    "link_loop": lambda tmp_path: (tmp_path / "link").symlink_to(tmp_path / "link") or tmp_path / "link",
}


@pytest.mark.parametrize("make", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = RunDir(make(tmp_path) / "try1")
    with pytest.raises(ConfigError, match=r"^run.dir = (?s:.*)remedy: name a folder on storage that you may write"):
        inspect(config(tmp_path), folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        inspect(config(tmp_path), RunDir(tmp_path / "try1"))


def holder(folder: RunDir) -> subprocess.Popen[str]:
    """Another process that writes to the folder."""
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); "
        "print('mine', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(folder.path / ".lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_one_process_writes_at_a_time_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "try1")
    folder.path.mkdir()
    said: list[str] = []
    process = holder(folder)
    try:
        with pytest.raises(ConfigError) as caught:
            FileLease(folder, patience=1.3, info=said.append)
        assert (caught.value.key, caught.value.value) == ("run.name", "try1")
        assert said == [f"another process is writing to {folder.path}; waiting up to 1 s for it to end"]
        with pytest.raises(ConfigError, match="another process"):
            check_free(folder, patience=0, info=said.append)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    lock = FileLease(folder, patience=0)
    with pytest.raises(ConfigError, match="another process"):
        FileLease(folder, patience=0)
    lock.release()
    check_free(folder, patience=0, info=said.append)
    assert len(said) == 1


def test_a_writer_that_lost_the_folder_without_knowing_writes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on storage without locks, or that gave the lock of a machine cut off from it to another one."""
    folder = RunDir(tmp_path)
    old = FileLease(folder, patience=0)
    old.claim()
    assert old.problem() is None
    with pytest.raises(BusyError, match=rf"is writing to .*: process {os.getpid()} on \S+, since \d{{4}}-"):
        FileLease(folder, patience=0)
    forget_locks(monkeypatch)
    new = FileLease(folder, patience=0)
    assert old.problem() is None
    new.claim()
    assert new.problem() is None
    assert isinstance(old.problem(), LeaseLostError)
    (tmp_path / ".lock").unlink()
    assert new.problem() is None
    new.release()
    old.release()


def forget_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the storage knows no locks."""

    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "try1").mkdir()
    (tmp_path / "try1" / ".lock").symlink_to(target)
    with pytest.raises(ConfigError) as caught:
        FileLease(RunDir(tmp_path / "try1"), patience=0)
    assert (caught.value.key, caught.value.value) == ("run.dir", str(tmp_path / "try1" / ".lock"))
    assert target.read_text() == "mine"


def test_patience_outlasts_a_writer_that_ends(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    process = holder(folder)
    timer = threading.Timer(1.0, process.kill)
    timer.start()
    started = time.monotonic()
    FileLease(folder, patience=30).release()
    assert 0.5 < time.monotonic() - started < 20
    process.wait(30)


def test_looking_whether_a_folder_is_free_makes_nothing(tmp_path: Path) -> None:
    check_free(RunDir(tmp_path / "try1"), patience=0, info=print)
    assert list(tmp_path.iterdir()) == []
