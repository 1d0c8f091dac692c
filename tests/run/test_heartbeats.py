"""Heartbeats as files and as objects."""

from dataclasses import replace
from pathlib import Path

import pytest

from ganscale.run import heartbeats
from ganscale.run.heartbeats import EVERY, OBJECT_EVERY, Heartbeat, PlaceChannel, read_heartbeats
from ganscale.storage.store import LocalStore, StorePath

ONE = Heartbeat(1, "host", 7, 5, 0.0, 640, 10, "D forward", 1.0)


@pytest.mark.parametrize(("is_object", "written"), [(False, [2, 4, 6, 8, 10, 12, 14]), (True, [2, 12])])
def test_in_a_bucket_they_are_written_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_object: bool, written: list[int]
) -> None:
    place = StorePath(LocalStore(tmp_path), "a") if is_object else tmp_path / "a"
    channel = PlaceChannel(place)
    assert channel.every == (OBJECT_EVERY if is_object else EVERY)
    channel.open(1, 2)
    seen = []
    for now in range(2, 16, 2):
        monkeypatch.setattr(heartbeats.time, "monotonic", lambda now=now: now + 0.1 * (now % 4))  # not quite regular
        channel.send(replace(ONE, images=now))
        seen += [each.images for each in channel.read() if each.images not in seen]
    assert seen == written


@pytest.mark.parametrize("is_object", [False, True])
def test_rank_zero_removes_those_of_workers_that_there_are_no_more(tmp_path: Path, is_object: bool) -> None:
    place = StorePath(LocalStore(tmp_path), "a") if is_object else tmp_path / "a"
    for rank in range(4):
        channel = PlaceChannel(place)
        channel.open(rank, 4)
        channel.send(replace(ONE, rank=rank))
    PlaceChannel(place).open(1, 2)
    assert [each.rank for each in read_heartbeats(place)] == [0, 1, 2, 3]
    PlaceChannel(place).open(0, 2)
    assert [each.rank for each in read_heartbeats(place)] == [0, 1]
