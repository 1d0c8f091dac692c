"""The writer of snapshots: one at a time, the newest of those that wait, and none that has to be kept is lost."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.run import snapshot_writer
from ganscale.run.snapshot_writer import Saved, SnapshotWriter


class Storage:
    """Takes states when its gate is open."""

    def __init__(self) -> None:
        self.gate, self.begun = threading.Event(), threading.Event()
        self.states: dict[int, torch.Tensor] = {}

    def __call__(self, state: dict[str, Any], metrics: Mapping[str, float]) -> Saved:
        self.begun.set()
        assert self.gate.wait(60)
        if metrics.get("refused"):
            raise OSError("full")
        self.states[state["images"]] = state["w"].clone()
        return Saved(Path(f"{state['images']}"), False, 1.0)


@pytest.fixture
def storage() -> Iterator[Storage]:
    made = Storage()
    yield made
    made.gate.set()


@pytest.fixture
def writer(storage: Storage) -> Iterator[SnapshotWriter]:
    made = SnapshotWriter(storage)
    yield made
    storage.gate.set()
    made.close()


WEIGHTS = torch.zeros(1000)


def submit(writer: SnapshotWriter, images: int, *, keep: bool = False, **metrics: float) -> bool:
    WEIGHTS.fill_(images)  # training goes on in place
    return writer.submit({"w": WEIGHTS, "images": images}, metrics, keep=keep)


def written(writer: SnapshotWriter) -> list[int]:
    return [write.images for write in writer.finished()]


def test_the_newest_of_those_that_wait_wins(writer: SnapshotWriter, storage: Storage) -> None:
    assert submit(writer, 1)
    assert storage.begun.wait(60)
    assert all(submit(writer, images) for images in (2, 3, 4))
    assert writer.is_busy
    assert (written(writer), writer.skipped) == ([], 2)
    storage.gate.set()
    writer.wait()
    assert (written(writer), written(writer), writer.is_busy) == ([1, 4], [], False)
    torch.testing.assert_close(storage.states, {images: torch.full((1000,), float(images)) for images in (1, 4)})


def test_two_snapshots_are_all_that_is_ever_allocated(writer: SnapshotWriter, storage: Storage) -> None:
    used = set()
    storage.gate.set()
    for images in range(1, 9):
        submit(writer, images, keep=True)
    writer.wait()
    used = {id(write.snapshot) for write in writer.finished()}
    assert len(used) <= 2
    assert sorted(storage.states) == list(range(1, 9))
    assert all((state == images).all() for images, state in storage.states.items())


def test_one_that_is_kept_is_not_replaced(
    writer: SnapshotWriter, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(writer, 1)
    assert storage.begun.wait(60)
    submit(writer, 2, keep=True)
    assert not submit(writer, 3), "it does not wait"
    assert writer.skipped == 1
    wait = snapshot_writer.wait

    def opened(*arguments: Any, **options: Any) -> Any:
        storage.gate.set()
        return wait(*arguments, **options)

    monkeypatch.setattr(snapshot_writer, "wait", opened)
    assert submit(writer, 4, keep=True), "it waits until there is room"
    writer.wait()
    assert sorted(storage.states) == [1, 2, 4]


def test_an_error_belongs_to_its_snapshot(writer: SnapshotWriter, storage: Storage) -> None:
    storage.gate.set()
    submit(writer, 1, keep=True, refused=1.0)
    submit(writer, 2, keep=True)
    writer.wait()
    first, second = writer.finished()
    with pytest.raises(OSError, match="full"):
        first.future.result()
    assert second.future.result().path == Path("2")


def test_closing_waits(storage: Storage) -> None:
    writer = SnapshotWriter(storage)
    submit(writer, 1)
    submit(writer, 2)
    threading.Timer(0.05, storage.gate.set).start()
    writer.close()
    assert sorted(storage.states) == [1, 2]
