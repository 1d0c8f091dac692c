"""Heartbeats, and the watchdog: it names the worker that hangs and its phase, and ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ganscale.parallel.phase import PHASE, phase
from ganscale.run import heartbeats as heartbeat_module
from ganscale.run import watchdog
from ganscale.run.heartbeats import Heartbeat, PlaceChannel, read_heartbeats
from ganscale.run.watchdog import (
    EXIT_HANG,
    Watchdog,
    born,
    current_phase,
    missing,
    sentence,
    waits,
)
from ganscale.storage.failures import read_failures
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.processes import Command, final_state, free_port
from tests.run.test_stop_signal import RUN
from tests.runs import MLP, tiny

NOW = 1e9


def heartbeat(rank: int, iteration: int, phase: str, *, ago: float = 1.0, lasts: float = 60.0) -> Heartbeat:
    return Heartbeat(rank, f"host{rank}", 1000 + rank, 5, NOW - ago, 64 * iteration, iteration, phase, lasts)


CASES: dict[str, tuple[list[Heartbeat], list[int]]] = {
    "stopped": (
        [heartbeat(0, 7, "D backward"), heartbeat(1, 7, "D forward", ago=50), heartbeat(2, 7, "D backward")],
        [1],
    ),
    "two_cut": (
        [heartbeat(0, 7, "D backward", ago=50), heartbeat(1, 7, "D backward", ago=50), heartbeat(2, 7, "D backward")],
        [0, 1],
    ),
    "reads": ([heartbeat(0, 7, "D backward"), heartbeat(1, 7, "reading data"), heartbeat(2, 7, "D backward")], [1]),
    "an_iteration_behind": (
        [heartbeat(0, 7, "D backward"), heartbeat(1, 6, "G backward"), heartbeat(2, 7, "D backward")],
        [1],
    ),
    "a_network_behind": ([heartbeat(0, 7, "G backward"), heartbeat(1, 7, "D backward")], [1]),
    "saves": ([heartbeat(0, 7, "saving"), heartbeat(1, 7, "between iterations, in a reduction")], [0]),
    "evaluates": ([heartbeat(0, 7, "evaluation, in a reduction"), heartbeat(1, 7, "evaluation")], [1]),
    "all_alike": ([heartbeat(0, 7, "D backward"), heartbeat(1, 7, "D backward")], []),
}


@pytest.mark.parametrize(("heartbeats", "ranks"), CASES.values(), ids=CASES.keys())
def test_the_worker_that_did_not_arrive_is_found(heartbeats: list[Heartbeat], ranks: list[int]) -> None:
    behind, unheard = missing(heartbeats, NOW, len(heartbeats))
    assert [each.rank for each in behind] == ranks
    assert unheard == []


def test_the_sentence_names_rank_host_and_phase() -> None:
    assert (
        sentence(CASES["stopped"][0], NOW, 3) == "worker 1 on host1 hangs in iteration 8 (D forward), silent for 50 s"
    )
    assert sentence(CASES["saves"][0], NOW, 2) == "worker 0 on host0 hangs in iteration 8 (saving), for 60 s"
    assert sentence([heartbeat(0, 0, "D forward")], NOW, 3) == "worker 1 has no heartbeat; worker 2 has no heartbeat"
    assert "the network between them" in sentence(CASES["all_alike"][0], NOW, 2)


def test_what_may_last_long_is_not_a_hang() -> None:
    assert [waits(name) for name in ("evaluation", "saving", "sample grid", "tracking", "between iterations")] == [
        False
    ] * 5
    assert not waits("waiting for evaluations")
    assert not waits("waiting for evaluations, in a reduction")
    assert all(waits(name) for name in ("D forward", "G backward", "reading data", "saving, in a reduction"))


def test_an_iteration_sets_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen where examples are read and gradients are computed."""
    experiment = build(tiny(*MLP, "train.reuse_fakes=false"))
    seen: list[str] = []

    def seen_in(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *a, **k: (seen.append(current_phase(sys._getframe())), function(*a, **k))[1]

    source = experiment.sampler.source
    monkeypatch.setattr(source, "read", seen_in(source.read))
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", seen_in(torch.autograd.graph._engine_run_backward))
    for side in (experiment.step.d, experiment.step.g):
        side.apply = seen_in(side.apply)
    list(train(experiment, intervals={}, until=12))
    assert seen == ["reading data", "D backward", "D optimizer", "G backward", "G optimizer"]
    assert PHASE.name == "between iterations"


def test_a_reduction_is_seen_on_the_stack() -> None:
    frame = SimpleNamespace(f_globals={"__name__": "torch.distributed.c10d"}, f_back=None)
    outer: Any = SimpleNamespace(f_globals={"__name__": "ganscale.training.step"}, f_back=frame)
    for name, expected in (("D backward", "D reduction"), ("saving", "saving, in a reduction")):
        with phase(name):
            assert current_phase(outer) == expected
            assert current_phase(None) == name


class State:
    """As much of a run's state as the heartbeat looks at."""

    def __init__(self) -> None:
        self.images, self.iteration = 640, 10


def heartbeats(
    folder: Path, monkeypatch: pytest.MonkeyPatch, world_size: int = 2
) -> tuple[list[str], list[int], Watchdog]:
    """A heartbeat with fast beats and a timeout of half a second; what it said, and how it ended."""
    for module in (heartbeat_module, watchdog):
        monkeypatch.setattr(module, "EVERY", 0.05)
    said: list[str] = []
    ended: list[int] = []
    made = Watchdog(PlaceChannel(folder), State(), timeout=0.5, info=said.append, end=ended.append)  # pyright: ignore
    made._replica = replace(made._replica, world_size=world_size)
    return said, ended, made


def until(ready: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_live_run_gives_the_group_up_and_ends_only_the_one_that_hangs(tmp_path: Path) -> None:
    """The heartbeats name another worker, then this one."""
    ended, aborted = list[int](), list[str]()
    made = Watchdog(
        PlaceChannel(tmp_path),
        State(),  # pyright: ignore[reportArgumentType]
        timeout=0.5,
        info=lambda _: None,
        end=ended.append,
        abort=lambda: aborted.append("group"),
    )
    made._replica = replace(made._replica, world_size=2)
    host, pid, start = made._own
    own = Heartbeat(0, host, pid, start, time.time(), 640, 10, "D reduction", 60.0)
    other = replace(own, rank=1, host="elsewhere", pid=7)
    for hanging in (replace(other, phase="reading data"), other):
        channel = PlaceChannel(tmp_path)
        channel.send(own if hanging is not other else replace(own, phase="reading data"))
        PlaceChannel(tmp_path).send(hanging)
        made._give_up()
    assert (aborted, ended) == (["group"], [EXIT_HANG])


def test_a_run_that_moves_gives_signs_of_life_and_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, ended, made = heartbeats(tmp_path, monkeypatch)
    monkeypatch.setattr(watchdog, "current_phase", lambda _: "D forward")
    with made:
        started = time.monotonic()
        while time.monotonic() < started + 1.2:
            made._state.iteration += 1
            time.sleep(0.02)
        (own,) = read_heartbeats(tmp_path)
        assert own.iteration >= made._state.iteration - 20
    assert not said
    assert not ended
    assert abs(own.time - time.time()) < 5
    assert own.pid == os.getpid()
    assert own.born == born(os.getpid()) > 0


@pytest.mark.parametrize(
    ("doing", "world_size", "hangs"),
    [
        ("D backward", 2, True),
        ("D backward", 1, False),
        ("evaluation", 2, False),
        ("tracking, in a reduction", 2, True),
    ],
)
def test_the_watchdog_fires_where_it_shall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: str, world_size: int, hangs: bool
) -> None:
    said, ended, made = heartbeats(tmp_path, monkeypatch, world_size)
    monkeypatch.setattr(watchdog, "current_phase", lambda _: doing)
    with made:
        if hangs:
            until(lambda: ended)
        else:
            time.sleep(0.9)
    assert ended[:1] == ([EXIT_HANG] if hangs else [])
    if hangs:
        assert said[0] == "no iteration for 0 s: worker 1 has no heartbeat"
        assert (tmp_path / "hang.txt").read_text() == "worker 1 has no heartbeat"


def test_the_one_that_hangs_on_this_machine_is_ended_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, ended, made = heartbeats(tmp_path, monkeypatch, 3)
    monkeypatch.setattr(watchdog, "current_phase", lambda _: "D backward")
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    host = made._own[0]
    real = Heartbeat(1, host, sleepers[0].pid, born(sleepers[0].pid), 0, 0, 10, "D forward", 9.0)
    other = Heartbeat(2, host, sleepers[1].pid, born(sleepers[1].pid) + 1, 0, 0, 10, "D forward", 9.0)
    monkeypatch.setattr(made._channel, "read", lambda: [real, other, made._send_heartbeat()])
    try:
        with made:
            until(lambda: ended)
        assert sleepers[0].wait(10) == -signal.SIGKILL
        assert sleepers[1].poll() is None, "another process has its number now"
        assert "worker 1 on" in said[0]
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_storage_that_refuses_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    said, ended, made = heartbeats(tmp_path / "file" / "x", monkeypatch, 1)
    with made:
        time.sleep(0.3)
        assert made._thread.is_alive()
    assert not said
    assert not ended
    assert read_heartbeats(tmp_path / "file" / "x") == []
    (tmp_path / "0.json").write_text("{")
    (tmp_path / "1.json").write_text('{"rank": 1}')
    assert read_heartbeats(tmp_path) == []


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_stopped_worker_under_torchrun_is_named_and_the_run_ends_as_undisturbed(tmp_path: Path) -> None:
    """Two workers, one gets SIGSTOP: the other says so, ends it, and torchrun starts both again."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2"]
    overrides = [*RUN, "train.images=48000", "checkpoint.every=6000", "log.every=600", "cluster.timeout=10"]

    def command(name: str) -> Command:
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]  # made anew at each restart
        words = [*torchrun, *meeting, "-m", "ganscale.train", *overrides]
        return Command(
            [*words, f"run.dir={tmp_path}", f"run.name={name}"],
            tmp_path / f"{name}.out",
            cwd=tmp_path,
            environment={"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )

    run = RunDir(tmp_path / "stopped")
    with command("stopped") as stopped:
        stopped.until(lambda: any(row["images"] >= 9_000 for row in read_metrics(run)), 180)
        workers = {each.rank: each.pid for each in read_heartbeats(run.heartbeats)}
        assert set(workers) == {0, 1}
        os.kill(workers[1], signal.SIGSTOP)
        with suppress(OSError):
            stopped.succeed(240)
    said = run.log.read_text()
    assert "no iteration for 10 s: worker 1 on" in said
    (fault,) = read_failures(run.failures)
    assert fault.what.startswith("worker 1 on")
    assert 0 <= fault.images_lost <= 6_000
    assert not run.heartbeats.exists()
    with command("straight") as straight:
        straight.succeed(240)
    assert final_state(run.path) == final_state(tmp_path / "straight")
