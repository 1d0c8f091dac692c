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
from ganscale.launch.heartbeat_actor import ActorChannel
from ganscale.launch.heartbeat_exchange import HeartbeatExchange
from ganscale.run.heartbeats import EVERY, OBJECT_EVERY, Heartbeat, read_heartbeats
from ganscale.run.stop_signal import StopFile, StopReason
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


PROGRAM = """
import sys
import ray
from pathlib import Path
from ganscale.launch.heartbeat_actor import ActorChannel, HeartbeatActor
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir

ray.init(log_to_driver=False)
one, folder = Heartbeat(0, "host", 7, 5, 0.0, 640, 10, "D forward", 1.0), Path(sys.argv[1])
with HeartbeatActor(RunDir(folder), "a") as actor:
    channel = ActorChannel(actor.handle, folder)
    channel.open(0, 1)
    assert ray.get(actor.handle.read.remote(), timeout=60) == []
    has_torch = actor.handle.__ray_call__.remote(lambda self: "torch" in __import__("sys").modules)
    assert not ray.get(has_torch), "it would cost each attempt seconds"
    actor.request(StopReason.RESIZE)
    channel.send(one)
    assert channel.ask() == StopReason.RESIZE
    assert [each.images for each in actor.read()] == [640]
StopFile(folder / ".stop").write(StopReason.STOP)
channel.send(one)
assert channel.ask() == StopReason.STOP
assert [each.images for each in actor.read()] == [640], "those in storage"
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
