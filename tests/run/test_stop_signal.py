"""Leaving before the end: all replicas after the same iteration, with a checkpoint, within seconds, and exactly."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.cli import STOPPED
from ganscale.config import load as load_config
from ganscale.run.session import Outcome, run_worker
from ganscale.run.stop_signal import (
    EVERY,
    MOST,
    SigtermFlag,
    StopFile,
    StopReason,
    StopSignal,
    next_interval,
    on_sigterm,
)
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.fleet import Fleet
from tests.processes import TRAIN, Command, final_state, free_port
from tests.runs import FIFTY, QUIET

CPU = torch.device("cpu")
RUN = (*FIFTY, *QUIET)


@pytest.mark.parametrize(
    ("iterations", "seconds", "expected"),
    [
        (1, 10.0, 1),
        (1, EVERY, 1),
        (10, EVERY, 10),
        (10, EVERY / 3, 30),
        (10, EVERY / 50, 40),
        (5000, 0.001, MOST),
        (100, 100 * EVERY, 1),
        (1, 0.0, 4),
    ],
)
def test_the_next_pulse_comes_after_about_the_same_time(iterations: int, seconds: float, expected: int) -> None:
    assert next_interval(iterations, seconds) == expected


def test_a_request_is_heard_within_seconds_at_any_speed() -> None:
    """The clock runs at a fast pace, then at a slow one: the worst delay is one window of the pace before."""
    now, asked_at = [0.0], [1e9]
    notice = StopSignal(
        CPU, lambda: StopReason.STOP if now[0] >= asked_at[0] else StopReason.NONE, clock=lambda: now[0]
    )
    for _ in range(3000):
        assert not notice()
        now[0] += 0.01
    asked_at[0] = now[0]
    while not notice():
        now[0] += 0.01
    assert now[0] - asked_at[0] <= EVERY + 0.02
    assert notice.agreed == StopReason.STOP
    assert notice(), "it stays so"


def test_the_gravest_reason_counts() -> None:
    notice = StopSignal(CPU, lambda: StopReason.DRAIN)
    notice.request(StopReason.STORAGE)
    notice.request(StopReason.RESIZE)
    assert notice()
    assert notice.agreed == StopReason.STORAGE


def test_a_stop_file_asks_until_it_is_gone(tmp_path: Path) -> None:
    file = StopFile(tmp_path / "folder" / "stop")
    assert file.read() == StopReason.NONE
    file.write(StopReason.RESIZE)
    assert file.read() == StopReason.RESIZE
    file.path.write_text("something else", encoding="utf-8")
    assert file.read() == StopReason.NONE
    file.clear()
    file.clear()
    assert not file.path.exists()


def test_a_lesser_request_replaces_no_greater_one(tmp_path: Path) -> None:
    file = StopFile(tmp_path / "stop")
    file.write(StopReason.STOP)
    file.write(StopReason.DRAIN)
    assert file.requested == file.read() == StopReason.STOP


def test_a_request_during_the_write_of_a_lesser_one_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, write = StopFile(tmp_path / "stop"), Path.write_text

    def slow(path: Path, data: str, encoding: str) -> int:
        if data == "DRAIN":
            file.write(StopReason.STOP)  # of another thread, which is faster
        return write(path, data, encoding)

    monkeypatch.setattr(Path, "write_text", slow)
    file.write(StopReason.DRAIN)
    assert file.read() == StopReason.STOP


def test_sigterm_is_heard_once_and_the_old_handler_comes_back() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("old"))
    try:
        flag = SigtermFlag()
        with on_sigterm(flag.set):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the next one ends the process"
        assert flag() == StopReason.STOP
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == ["old"]
    finally:
        signal.signal(signal.SIGTERM, before)


def one_hears(
    folder: str, name: str, rank: int, at: int, every: float, overrides: tuple[str, ...] = ()
) -> tuple[Outcome, int]:
    """On one replica: a run of which only `rank` is asked to leave, after `at` images; and what it reached."""
    from ganscale.parallel.collectives import Replica
    from ganscale.run import session
    from ganscale.run import stop_signal as module

    module.EVERY = every
    states: list[Any] = []
    build = session.build

    def remember(*arguments: Any, **options: Any) -> Any:
        made = build(*arguments, **options)
        states.append(made.state)
        return made

    def ask() -> StopReason:
        mine = Replica.current().rank == rank
        return StopReason.STOP if mine and states and states[0].images >= at else StopReason.NONE

    session.build = remember
    try:
        config = load_config(overrides=(*RUN, f"run.dir={folder}", f"run.name={name}", *overrides))
        outcome = run_worker(config, Path(folder) / name, device=CPU, echo=False, ask=ask)
    finally:
        session.build, module.EVERY = build, EVERY
    return outcome, states[0].images


@pytest.mark.multiprocess
@pytest.mark.parametrize("rank", [0, 2])
def test_all_replicas_leave_after_the_same_iteration(fleet: Fleet, tmp_path: Path, rank: int) -> None:
    fleet.run(one_hears, 3, str(tmp_path), "straight", -1, 0, EVERY)
    answers = fleet.run(one_hears, 3, str(tmp_path), "left", rank, 200, 0.0)
    reached = {images for _, images in answers}
    assert reached == {216}, "asked for at 204, heard before the next iteration"
    assert {outcome.stop_reason for outcome, _ in answers} == {StopReason.STOP}
    assert [row["images"] for row in read_metrics(RunDir(tmp_path / "left"))] == [60, 120, 180]
    again = fleet.run(one_hears, 3, str(tmp_path), "left", -1, 0, EVERY)
    ends = {(outcome.resumed_at, outcome.images, outcome.stop_reason) for outcome, _ in again}
    assert ends == {(216, 600, StopReason.NONE)}
    assert final_state(tmp_path / "left") == final_state(tmp_path / "straight")
    assert [row["images"] for row in read_metrics(RunDir(tmp_path / "left"))] == list(range(60, 601, 60))


def leave_at(tmp_path: Path, name: str, images: int, reason: StopReason = StopReason.STOP) -> Outcome:
    """A run alone that is asked to leave once its row of `images` is written."""
    config = load_config(overrides=(*RUN, f"run.dir={tmp_path}", f"run.name={name}"))
    folder = RunDir(tmp_path / name)

    def ask() -> StopReason:
        rows = read_metrics(folder)
        return reason if rows and rows[-1]["images"] >= images else StopReason.NONE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganscale.run.stop_signal.EVERY", 0.0)
        return run_worker(config, folder.path, device=CPU, echo=False, ask=ask)


@pytest.mark.parametrize(("asked", "left"), [(60, 72), (240, 252), (540, 552), (600, 600)])
def test_a_run_that_left_goes_on_exactly(tmp_path: Path, asked: int, left: int) -> None:
    outcome = leave_at(tmp_path, "left", asked)
    assert outcome.images == left
    assert outcome.stop_reason == (StopReason.STOP if left < 600 else StopReason.NONE)
    newest = CheckpointStore(tmp_path / "left" / "checkpoints").newest(print)
    assert newest is not None
    assert newest.images == left
    for name in ("left", "straight"):
        leave_at(tmp_path, name, 9999)
    assert final_state(tmp_path / "left") == final_state(tmp_path / "straight")


def test_a_run_asked_at_a_tick_does_what_is_due_and_leaves(tmp_path: Path) -> None:
    """Asked at 48 images: the iteration to 60 is the last, and also the end of an interval."""
    config = load_config(overrides=(*RUN, f"run.dir={tmp_path}", "run.name=tick"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganscale.run.stop_signal.EVERY", 0.0)
        calls = iter([StopReason.NONE] * 4 + [StopReason.STOP])
        outcome = run_worker(config, tmp_path / "tick", device=CPU, echo=False, ask=lambda: next(calls))
    assert (outcome.images, outcome.stop_reason) == (60, StopReason.STOP)
    assert [row["images"] for row in read_metrics(RunDir(tmp_path / "tick"))] == [60]
    assert final_state(tmp_path / "tick")


LONG = (*RUN, "train.images=60000000", "log.every=600", "checkpoint.every=60000000")


def terminate(command: Command, run: RunDir, send: Callable[[], object]) -> float:
    """Ask a command to leave once it trains; returns the seconds that it took."""
    command.until(lambda: len(read_metrics(run)) >= 2, 120)
    started = time.monotonic()
    send()
    command.wait(60)
    return time.monotonic() - started


def test_sigterm_saves_and_ends_with_its_own_code(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "term")
    arguments = [*TRAIN, "--launcher", "local", *LONG, f"run.dir={tmp_path}", "run.name=term"]
    with Command(arguments, tmp_path / "out", cwd=tmp_path) as command:
        took = terminate(command, run, lambda: command.process.send_signal(signal.SIGTERM))
        assert command.process.returncode == STOPPED, command.report("another code")
    assert took < 20
    assert "stopping at " in command.output
    assert "the same command resumes" in command.output
    assert "Traceback" not in command.output
    newest = CheckpointStore(run.checkpoints).newest(print)
    assert newest is not None
    assert newest.images >= read_metrics(run)[-1]["images"]


@pytest.mark.multiprocess
def test_sigterm_to_torchrun_saves(tmp_path: Path) -> None:
    """The agent passes it on to the workers, and waits for them."""
    run = RunDir(tmp_path / "term")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    arguments = [*torchrun, "-m", "ganscale.train", *LONG, f"run.dir={tmp_path}", "run.name=term"]
    with Command(arguments, tmp_path / "out", cwd=tmp_path, environment={"OMP_NUM_THREADS": "1"}) as command:
        terminate(command, run, lambda: command.process.send_signal(signal.SIGTERM))
    newest = CheckpointStore(run.checkpoints).newest(print)
    assert newest is not None
    assert f"stopping at {newest.images:,} images" in command.output
    assert newest.images >= read_metrics(run)[-1]["images"]
