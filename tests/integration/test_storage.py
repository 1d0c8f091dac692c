"""Storage that is full, read-only or slow: it is said, the run goes on or stops, what was saved stays good."""

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ganscale.run import checkpointing
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore, load, verify
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.train import main
from tests.processes import final_state
from tests.run.test_stop_signal import RUN

KIB = 1024
COMMAND = ("--launcher", "local", *RUN, "checkpoint.keep=2")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    options = ["-t", "tmpfs", "-o", f"size={512 * KIB}", "tmpfs", str(place)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mount refuses: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Filling:
    """Fills a file system when the run reaches some images, and leaves it full."""

    def __init__(self, place: Path, images: int, patch: pytest.MonkeyPatch) -> None:
        self.ballast = place / "ballast"
        log = JsonlTracker.log

        def fill_and_log(tracker: JsonlTracker, at: int, row: dict[str, float]) -> None:
            log(tracker, at, row)
            if at == images:
                self.fill()

        patch.setattr(JsonlTracker, "log", fill_and_log)

    def fill(self) -> None:
        """Leave no byte."""
        for block in (64 * KIB, KIB, 1):
            with suppress(OSError), self.ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(b"x" * block)


def reference(folder: Path) -> str:
    assert main([*COMMAND, f"run.dir={folder}", "run.name=straight"]) == 0
    return final_state(folder / "straight")


def test_full_storage_is_said_and_training_goes_on(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(tmp_path)
    filling = Filling(small, 180, monkeypatch)
    command = [*COMMAND, f"run.dir={small}", "run.name=full"]
    capsys.readouterr()
    assert main(command) == 1, "what comes at the end could not be kept"
    said = capsys.readouterr()
    assert "could not be saved ([Errno 28] No space left on device" in said.out
    assert said.out.count("earlier ones stay valid; training continues") == 3, "at 240, 360 and 480"
    assert said.out.count("earlier ones stay valid; the run stops") == 1, "at 600"
    assert "ganscale: training failed: [Errno 28] No space left on device" in said.err
    assert "Traceback" not in said.out + said.err
    store = CheckpointStore(small / "full" / "checkpoints")
    assert [folder.name for folder in store.folders()] == [f"{120:012d}"]
    assert load(store.folders()[0])[1]["images"] == 120
    filling.ballast.unlink()
    monkeypatch.undo()
    assert main(command) == 0
    assert "resuming at 120 images" in capsys.readouterr().out
    assert final_state(small / "full") == expected


def test_full_storage_stops_the_run_where_it_shall(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ganscale.run.stop_signal.EVERY", 0.0)
    Filling(small, 180, monkeypatch)
    assert main([*COMMAND, f"run.dir={small}", "run.name=full", "checkpoint.on_failure=stop"]) == 1
    said = capsys.readouterr()
    assert said.out.count("the checkpoint could not be saved") == 1
    assert "stopping at 252 images: a checkpoint could not be saved (checkpoint.on_failure = stop)" in said.out
    assert "run full stopped at 252 images" in said.err
    newest = CheckpointStore(small / "full" / "checkpoints").newest(print)
    assert newest is not None
    assert newest.images == 120


def test_storage_that_was_full_before_the_run_is_said(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Filling(small, -1, monkeypatch).fill()
    assert main([*COMMAND, f"run.dir={small}", "run.name=full"]) in (1, 2)
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    assert "Traceback" not in said.err


def test_storage_that_becomes_read_only_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a file system with errors does, after the first checkpoint."""
    save = checkpoint.CheckpointStore.save
    keep: list[int] = []

    def forbid(*arguments: object, **options: object) -> object:
        if keep:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        keep.append(1)
        return save(*arguments, **options)  # pyright: ignore

    monkeypatch.setattr(checkpoint.CheckpointStore, "save", forbid)
    assert main([*COMMAND, f"run.dir={tmp_path}", "run.name=ro"]) == 1
    said = capsys.readouterr()
    assert said.out.count("Read-only file system") >= 4
    assert "Traceback" not in said.out + said.err
    newest = CheckpointStore(tmp_path / "ro" / "checkpoints").newest(print)
    assert newest is not None
    assert newest.images == 120
    verify(newest.path)


def test_read_only_storage_is_refused_before_the_start(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert main([*COMMAND, f"run.dir={small}", "run.name=ro"]) == 2
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err


def test_slow_storage_changes_nothing_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(tmp_path)
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.05)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    now = [0.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            now[0] += 30.0
            return now[0]

    monkeypatch.setattr(checkpointing, "time", Clock)
    capsys.readouterr()
    assert main([*COMMAND, f"run.dir={tmp_path}", "run.name=slow"]) == 0
    said = capsys.readouterr().out
    assert said.count("use faster storage, or a larger checkpoint.every") == 1
    assert "saving a checkpoint took 30.0 s of the 90 s since the last one" in said
    assert final_state(tmp_path / "slow") == expected
    assert RunDir(tmp_path / "slow").metrics.exists()
