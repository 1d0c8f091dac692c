"""When checkpoints are due, and what may happen while a thread writes them; neither changes a result."""

import errno
import json
import math
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import load as load_config
from ganscale.run import checkpointing, stop_signal
from ganscale.run.checkpointing import interval, read_interval
from ganscale.run.session import Outcome, run_worker
from ganscale.run.snapshot_writer import SnapshotWriter
from ganscale.run.stop_signal import StopReason
from ganscale.storage.checkpoint import CheckpointStore, verify
from ganscale.storage.failures import optimal_interval
from ganscale.storage.lease import LeaseLostError
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import CheckpointTracker
from ganscale.training.loop import Tick
from tests.processes import Command, final_state
from tests.run.test_stop_signal import RUN

CPU = torch.device("cpu")


def test_the_interval_is_a_multiple_of_a_tick() -> None:
    seconds = optimal_interval(2.0, 3600.0)
    assert interval(2.0, 1.0, 100.0, 60) == 60 * int(seconds * 100.0 / 60)
    assert interval(2.0, 1.0, 0.001, 60) == 60, "at least one tick"
    assert interval(0.0, 1.0, 100.0, 1) == int(optimal_interval(1e-3, 3600.0) * 100.0), "saving is never for nothing"


def test_what_was_decided_is_read_and_nonsense_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_interval(path) is None
    for text in ("", "{", "[]", '{"images": 0}', '{"images": "60"}', '{"images": 1.5}', "[" * 100_000):
        path.write_text(text)
        assert read_interval(path) is None
    path.write_text('{"images": 120}')
    assert read_interval(path) == 120


def run(folder: Path, name: str, *overrides: str) -> list[int]:
    """A run's checkpoints, by images."""
    config = load_config(overrides=(*RUN, "checkpoint.keep=99", f"run.dir={folder}", f"run.name={name}", *overrides))
    run_worker(config, folder / name, device=CPU, echo=False)
    return sorted(int(path.name) for path in CheckpointStore(folder / name / "checkpoints").folders())


def test_auto_measures_at_the_first_row_and_holds_for_later_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "interval", lambda *_, **__: 180)
    assert run(tmp_path, "auto", "checkpoint.every=auto", "train.images=300") == [60, 180, 300]
    remembered = RunDir(tmp_path / "auto").interval
    assert json.loads(remembered.read_text())["images"] == 180
    monkeypatch.setattr(checkpointing, "interval", lambda *_, **__: 60)
    assert run(tmp_path, "auto", "checkpoint.every=auto") == [60, 180, 300, 360, 540, 600]
    assert run(tmp_path, "fixed") == [120, 240, 360, 480, 600]
    assert final_state(tmp_path / "auto") == final_state(tmp_path / "fixed")


def test_auto_says_what_it_came_to(tmp_path: Path) -> None:
    made = run(tmp_path, "auto", "checkpoint.every=auto", "checkpoint.hours_between_faults=1e-3")
    said = RunDir(tmp_path / "auto").log.read_text(encoding="utf-8")
    assert "checkpoint.every = auto: " in said
    every = read_interval(RunDir(tmp_path / "auto").interval)
    assert every is not None
    assert every % 60 == 0
    assert made[0] == 60
    assert made[-1] == 600


class Gate:
    """Storage whose saves in a thread wait until the gate is open, and then may fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.opened, self.begun, self.error = threading.Event(), threading.Event(), error
        save = CheckpointStore.save
        main = threading.get_ident()

        def slow(store: Any, state: Any, **options: Any) -> Any:
            if threading.get_ident() != main:
                self.begun.set()
                assert self.opened.wait(60)
                if self.error:
                    raise self.error
            return save(store, state, **options)

        monkeypatch.setattr(CheckpointStore, "save", slow)

    def opens_at(self, images: int) -> Callable[[Tick], None]:
        """A callback; the first save has begun when it returns, so that what follows has one order."""

        def call(tick: Tick) -> None:
            if tick.images >= 120:
                assert self.begun.wait(60)
            if tick.images == images:
                self.opened.set()

        return call

    def opens_with(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Open when a method is called that waits."""
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self.opened.set()
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)


class Heard(CheckpointTracker):
    """Remembers what it hears of checkpoints, and from which thread."""

    def __init__(self) -> None:
        self.saved_at: list[int] = []
        self.saving_at: list[int] = []
        self.rows: list[int] = []
        self.threads: set[int] = set()

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        self.rows.append(images)

    def samples(self, images: int, picture: Any) -> None:
        pass

    def saving(self, images: int) -> None:
        self.saving_at.append(images)
        assert self.rows[-1] == images

    def saved(self, images: int, folder: Any, *, best: bool) -> None:
        self.threads.add(threading.get_ident())
        self.saved_at.append(images)
        verify(folder)

    def close(self, *, completed: bool) -> None:
        pass


def states(folder: Path) -> dict[int, str]:
    """SHA-256 of each checkpoint's state."""
    store = CheckpointStore(folder / "checkpoints")
    return {int(path.name): verify(path).sha256 for path in store.folders()}


def start(folder: Path, name: str, *overrides: str, **options: Any) -> Outcome:
    overrides = (*RUN, "checkpoint.keep=99", f"run.dir={folder}", f"run.name={name}", *overrides)
    return run_worker(load_config(overrides=overrides), folder / name, device=CPU, echo=False, **options)


ASYNC = "checkpoint.mode=async"


def test_training_goes_on_while_a_snapshot_is_written_and_the_newest_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, "inline")
    expected = states(tmp_path / "inline")
    gate, heard = Gate(monkeypatch), Heard()
    start(tmp_path, "async", ASYNC, callbacks=(gate.opens_at(480),), trackers=(heard,))
    assert states(tmp_path / "async") == {images: expected[images] for images in (120, 480, 600)}
    assert heard.saving_at == [120, 240, 360, 480, 600]
    assert heard.saved_at == [120, 480, 600]
    assert heard.threads == {threading.get_ident()}
    log = RunDir(tmp_path / "async").log.read_text(encoding="utf-8")
    assert log.count("only the newest of those that wait") == 1


def test_a_run_that_may_roll_back_keeps_all_that_are_due(tmp_path: Path) -> None:
    start(tmp_path, "inline", "health.response=rollback")
    start(tmp_path, "async", ASYNC, "health.response=rollback", "checkpoint.every=60")
    assert sorted(states(tmp_path / "async")) == list(range(60, 601, 60))
    assert states(tmp_path / "inline").items() <= states(tmp_path / "async").items()


def test_a_stop_waits_for_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    gate.opens_with(monkeypatch, SnapshotWriter, "wait")
    asked = [StopReason.NONE]

    def ask_at(tick: Tick) -> None:
        if tick.images == 180:
            asked[0] = StopReason.STOP

    monkeypatch.setattr(stop_signal, "next_interval", lambda *_: 1)
    outcome = start(tmp_path, "x", ASYNC, ask=lambda: asked[0], callbacks=(ask_at,))
    assert outcome.stop_reason == StopReason.STOP
    assert sorted(states(tmp_path / "x")) == [120, outcome.images]
    start(tmp_path, "x", ASYNC)
    start(tmp_path, "whole")
    assert final_state(tmp_path / "x") == final_state(tmp_path / "whole")


def test_a_failed_run_waits_for_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    gate.opens_with(monkeypatch, SnapshotWriter, "close")

    def fail(tick: Tick) -> None:
        if tick.images == 240:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(tmp_path, "x", ASYNC, callbacks=(fail,))
    assert sorted(states(tmp_path / "x")) == [120, 240]


@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_save_that_fails_in_the_thread_is_handled_at_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> None:
    gate, heard = Gate(monkeypatch, OSError(errno.ENOSPC, "No space left on device")), Heard()
    monkeypatch.setattr(stop_signal, "next_interval", lambda *_: 1)
    options = {"callbacks": (gate.opens_at(240),), "trackers": (heard,)}
    outcome = start(tmp_path, "x", ASYNC, f"checkpoint.on_failure={on_failure}", **options)
    log = RunDir(tmp_path / "x").log.read_text(encoding="utf-8")
    if on_failure == "continue":
        assert (outcome.stop_reason, heard.saved_at, sorted(states(tmp_path / "x"))) == (StopReason.NONE, [600], [600])
        assert "No space left on device); earlier ones stay valid; training continues" in log
    else:
        assert (outcome.stop_reason, heard.saved_at, states(tmp_path / "x")) == (StopReason.STORAGE, [], {})
        assert "No space left on device); earlier ones stay valid; the run stops" in log


def test_a_lease_lost_in_the_thread_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, LeaseLostError("another process has taken over"))
    with pytest.raises(LeaseLostError):
        start(tmp_path, "x", ASYNC, callbacks=(gate.opens_at(180),))
    assert states(tmp_path / "x") == {}


DIES = """
import sys, threading, time
from pathlib import Path
from ganscale.storage import checkpoint
from ganscale.train import main

write, main_thread = checkpoint.write_state, threading.get_ident()

class Half:
    def __init__(self, file):
        self.file = file

    def write(self, part):
        self.file.write(part)
        self.file.flush()
        if self.file.tell() > 10_000:
            Path("half").touch()
            time.sleep(600)

    def flush(self):
        self.file.flush()

def stuck(file, state):
    return write(Half(file) if state["images"] == 240 else file, state)

checkpoint.write_state = stuck
main(sys.argv[1:])
"""
"""A run whose checkpoint at 240 images is never more than half written."""


def test_a_kill_in_the_middle_of_a_write_leaves_whole_checkpoints(tmp_path: Path) -> None:
    arguments = [*RUN, ASYNC, "checkpoint.keep=99", f"run.dir={tmp_path}", "run.name=x"]
    command = [sys.executable, "-c", DIES, "--launcher", "local", *arguments]
    folder = tmp_path / "x" / "checkpoints"
    with Command(command, tmp_path / "out", cwd=tmp_path) as running:
        running.until(lambda: (tmp_path / "half").exists(), 120)
        running.kill()
    assert list(folder.glob(".writing-*")), "it was in the middle of it"
    assert all(images < 240 for images in states(tmp_path / "x"))
    start(tmp_path, "x", ASYNC)
    assert not list(folder.glob(".writing-*"))
    start(tmp_path, "whole")
    assert final_state(tmp_path / "x") == final_state(tmp_path / "whole")


def test_auto_weighs_the_pause_and_is_no_shorter_than_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interval(0.01, 1.0, 100.0, 60, least=1000.0) == 60 * math.ceil(100_000 / 60)
    chosen: list[tuple[float, float]] = []

    def choose(cost: float, *_: Any, least: float) -> int:
        chosen.append((cost, least))
        return 240

    monkeypatch.setattr(checkpointing, "interval", choose)
    start(tmp_path, "x", ASYNC, "checkpoint.every=auto", "health.response=rollback")
    ((paused, took),) = chosen
    assert min(paused, took) > 0.0
    assert paused != took
    assert min(states(tmp_path / "x")) == 60
    assert read_interval(RunDir(tmp_path / "x").interval) == 240
