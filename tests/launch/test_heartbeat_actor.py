"""Heartbeats by way of an actor: a stop request comes back, and without the actor the storage has to do."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError

from ganscale.launch import heartbeat_actor
from ganscale.launch.heartbeat_actor import ActorChannel, AttemptHeartbeats, HeartbeatActor
from ganscale.launch.heartbeat_exchange import HeartbeatExchange
from ganscale.run.heartbeats import EVERY, OBJECT_EVERY, Heartbeat, read_heartbeats
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import LocalStore, StorePath
from tests.integration.cluster import Cluster

ONE = Heartbeat(0, "host", 7, 5, 0.0, 640, 10, "D forward", 1.0)


class FakeActor:
    """A handle of an actor in this process; `error` is what a call raises instead of answering."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exchanges = HeartbeatExchange()
        self.error: Exception | None = None
        self.timeouts: list[float] = []
        monkeypatch.setattr(heartbeat_actor.ray, "get", self._get)

    def _get(self, answer: Callable[[], Any], timeout: float) -> Any:
        self.timeouts.append(timeout)
        if self.error:
            raise self.error
        return answer()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.exchanges, name)
        return SimpleNamespace(remote=lambda *arguments: lambda: method(*arguments))


def test_a_stop_request_comes_back_with_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = FakeActor(monkeypatch)
    channels = [ActorChannel(actor, tmp_path) for _ in range(2)]
    for rank, channel in enumerate(channels):
        channel.open(rank, 2)
        channel.send(replace(ONE, rank=rank))
        assert channel.ask() == StopReason.NONE
    heartbeats = channels[0].read()
    assert [each.rank for each in heartbeats] == [0, 1]
    assert min(each.time for each in heartbeats) > 1e9, "by the actor's clock"
    actor.exchanges.request(StopReason.DRAIN)
    actor.exchanges.request(StopReason.RESIZE)
    assert channels[1].ask() == StopReason.NONE, "it waits for nothing"
    channels[1].send(replace(ONE, rank=1))
    assert channels[1].ask() == StopReason.DRAIN
    assert set(actor.timeouts) == {heartbeat_actor.CALL_TIMEOUT}
    assert [each.rank for each in read_heartbeats(tmp_path / ".heartbeats")] == [0, 1], "what outlives the driver"


@pytest.mark.parametrize("error", [GetTimeoutError("late"), ActorDiedError(), RuntimeError("no Ray")])
def test_without_the_actor_the_storage_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    actor, place = FakeActor(monkeypatch), StorePath(LocalStore(tmp_path), "a")
    channel = ActorChannel(actor, place)
    channel.open(0, 1)
    assert channel.every == EVERY
    actor.error = error
    StopFile(place / ".stop").write(StopReason.STOP)
    channel.send(ONE)
    assert channel.ask() == StopReason.STOP
    assert [each.images for each in channel.read()] == [640]
    assert channel.every == OBJECT_EVERY
    channel.send(ONE)
    (record,) = caplog.records
    assert type(error).__name__ in record.getMessage()
    actor.error = None
    channel.send(ONE)
    assert channel.ask() == StopReason.NONE, "the actor is asked again"
    assert [each.images for each in channel.read()] == [640]
    assert channel.every == EVERY


def test_an_attempt_that_has_ended_has_no_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers may be cut off from the driver, which has started others."""
    actor = FakeActor(monkeypatch)
    former, channel = (ActorChannel(actor, tmp_path, attempt) for attempt in (1, 2))
    actor.exchanges.begin(1)
    former.start()
    former.send(ONE)
    former.fail("lost")
    AttemptHeartbeats(RunDir(tmp_path), actor, 1).request(StopReason.DRAIN)
    actor.exchanges.begin(2)
    assert channel.starts() == (0, "")
    assert channel.read() == []
    StopFile(tmp_path / ".stop").write(StopReason.STOP)
    former.send(replace(ONE, images=9))
    assert former.ask() == StopReason.STOP, "by the storage"
    former.start()
    former.fail("lost again")
    former.open(0, 0)
    assert former.starts() == (0, "")
    channel.send(replace(ONE, rank=1))
    assert channel.ask() == StopReason.NONE
    assert channel.starts() == (0, "")
    assert [each.rank for each in channel.read()] == [1]


@pytest.mark.parametrize("answers", [True, False])
def test_one_actor_has_all_attempts_as_long_as_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    actors: list[FakeActor] = []
    killed: list[Any] = []

    def start(self: HeartbeatActor) -> FakeActor:
        actors.append(FakeActor(monkeypatch))
        actors[-1].exchanges.begin(self._attempts)
        return actors[-1]

    monkeypatch.setattr(HeartbeatActor, "_start", start)
    monkeypatch.setattr(heartbeat_actor.ray, "kill", killed.append)
    with HeartbeatActor(RunDir(tmp_path), "a") as actor:
        first = actor.begin()
        actors[0].error = None if answers else ActorDiedError()
        second = actor.begin()
        assert (second.handle is first.handle) == answers
        assert killed == ([] if answers else [first.handle])
        channel = ActorChannel(second.handle, tmp_path, second.number)
        channel.send(ONE)
        assert [each.images for each in second.read()] == [640]
    assert killed[-1] is second.handle
    assert len(actors) == len(killed)


PROGRAM = """
import sys
import time
import ray
from pathlib import Path
from ganscale.launch.heartbeat_actor import ActorChannel, HeartbeatActor
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir

ray.init(log_to_driver=False)
one, folder = Heartbeat(0, "host", 7, 5, 0.0, 640, 10, "D forward", 1.0), Path(sys.argv[1])
with HeartbeatActor(RunDir(folder), "a") as actor:
    with actor.begin() as first:
        former = ActorChannel(first.handle, folder, first.number)
        former.open(0, 1)
        former.send(one)
        first.request(StopReason.DRAIN)
        assert [each.images for each in first.read()] == [640]
    heartbeats = actor.begin()
    assert heartbeats.handle is first.handle, "a restart starts no other"
    channel = ActorChannel(heartbeats.handle, folder, heartbeats.number)
    channel.open(0, 1)
    former.send(one)
    first.request(StopReason.DRAIN)
    assert ray.get(heartbeats.handle.read.remote(heartbeats.number), timeout=60) == []
    has_torch = heartbeats.handle.__ray_call__.remote(lambda self: "torch" in __import__("sys").modules)
    assert not ray.get(has_torch), "it would cost each attempt seconds"
    heartbeats.request(StopReason.RESIZE)
    channel.send(one)
    assert channel.ask() == StopReason.RESIZE
    assert [each.images for each in heartbeats.read()] == [640]
StopFile(folder / ".stop").write(StopReason.STOP)
for _ in range(300):  # Ray kills it within a moment
    channel.send(one)
    if channel.ask() == StopReason.STOP:
        break
    time.sleep(0.1)
assert channel.ask() == StopReason.STOP
assert [each.images for each in heartbeats.read()] == [640], "those in storage"
"""


@pytest.mark.ray
@pytest.mark.slow
def test_an_actor_answers_until_it_is_killed(tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        with cluster.command([sys.executable, "-c", PROGRAM, str(tmp_path)], "out", tmp_path) as command:
            assert "heartbeats and stop requests go by the run's storage alone" in command.succeed(120)
    finally:
        cluster.close()
