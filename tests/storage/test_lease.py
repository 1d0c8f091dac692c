"""The writer of a run in a bucket: one at a time, named, followed when it dies; a deposed one commits nothing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.storage import lease as leases
from ganscale.storage.checkpoint import CheckpointStore, load
from ganscale.storage.lease import (
    BusyError,
    Fence,
    LeaseLostError,
    StoreLease,
    TrialLease,
    _read_lease,
    born,
    check_free,
)
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import LocalStore, StorePath

CONFIG = {"run": {"name": "a"}}


def silent(_: str) -> None:
    """Takes what is said."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SECONDS", 0.9)


@pytest.fixture
def root(tmp_path: Path) -> StorePath:
    return StorePath(LocalStore(tmp_path / "runs"), "a")


@pytest.fixture
def take(root: StorePath) -> Iterator[Callable[..., StoreLease]]:
    taken: list[StoreLease] = []

    def make(patience: float = 0.0) -> StoreLease:
        taken.append(StoreLease(root, RunDir(root), patience=patience, info=silent))
        return taken[-1]

    yield make
    for each in taken:
        each.release()


def die(lease: StoreLease) -> None:
    """Renew no more, as a process that hangs or lost its network."""
    lease._ended.set()
    lease._thread.join()


def save(root: StorePath, images: int, confirm: Callable[[], int], value: float = 0.0) -> None:
    state = {"w": torch.full((3,), value), "images": images, "iteration": 1}
    CheckpointStore(root / "checkpoints", keep=9, confirm=confirm).save(state, config=CONFIG, metrics={})


def names(root: StorePath) -> list[int]:
    return [int(folder.name) for folder in CheckpointStore(root / "checkpoints").folders()]


def test_a_second_writer_is_told_who_writes_and_since_when(root: StorePath, take: Callable[..., StoreLease]) -> None:
    first = take()
    first.claim()
    with pytest.raises(BusyError, match=rf"process {os.getpid()} on \S+, since \d{{4}}-\d\d-\d\d ") as caught:
        take()
    assert (caught.value.key, caught.value.value) == ("run.name", "a")
    with pytest.raises(BusyError):
        check_free(RunDir(root), patience=0.0, info=silent)
    assert first.confirm() == 1
    first.release()
    check_free(RunDir(root), patience=0.0, info=silent)
    started = time.monotonic()
    assert take().confirm() == 2
    assert time.monotonic() - started < 0.9, "a released lease is taken at once"


def test_a_writer_that_renews_no_more_is_followed_and_writes_no_more(
    root: StorePath, take: Callable[..., StoreLease]
) -> None:
    old = take()
    old.claim()
    die(old)
    new = take()
    new.claim()
    assert new.confirm() == 2
    time.sleep(0.5)
    with pytest.raises(LeaseLostError, match=r"has taken over .*: process"):
        old.confirm()
    assert isinstance(old.problem(), LeaseLostError)
    with pytest.raises(LeaseLostError):
        save(root, 10, old.confirm)
    assert not (root / "checkpoints").exists(), "it put nothing"
    assert new.problem() is None


def test_a_dead_process_of_this_machine_is_followed_at_once(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        first = take()
        first._renew(process=[leases._machine(), process.pid, born(process.pid)], seconds=60.0)
        die(first)
        monkeypatch.setattr(time, "sleep", interrupt)
        with pytest.raises(TimeoutError):  # it waits
            take()
        process.kill()
    assert take().confirm() == 2


def interrupt(_: float) -> None:
    raise TimeoutError


def test_of_many_that_follow_a_dead_writer_one_wins(root: StorePath, take: Callable[..., StoreLease]) -> None:
    old = take()
    die(old)
    facts, etag = _read_lease(old._path)
    others = [StoreLease.__new__(StoreLease) for _ in range(3)]
    for each in others:
        each.__dict__.update(old.__dict__, _thread=old._thread.__class__(target=silent, args=("",)))
    won = [each for each in others if each._take(facts, etag)]
    assert len(won) == 1


def test_a_writer_outlives_an_outage_of_the_storage(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take()
    lease.claim()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> str:
            raise OSError("no answer")

        patch.setattr(LocalStore, "put", fail)
        time.sleep(1.0)
        with pytest.raises(OSError, match="no answer"):
            save(root, 10, lease.confirm)
    assert lease.confirm() == 1
    assert lease.problem() is None
    save(root, 10, lease.confirm)
    assert names(root) == [10]


def test_what_a_deposed_writer_still_puts_there_does_not_count(
    root: StorePath, take: Callable[..., StoreLease]
) -> None:
    """It confirmed, then slept; its manifest comes after the next writer has claimed the run."""
    old = take()
    old.claim()
    save(root, 10, old.confirm, 1.0)
    die(old)
    new = take()
    save(root, 20, lambda: 1, 2.0)
    assert names(root) == [20, 10], "before the claim: the new writer resumes from it"
    new.claim()
    assert names(root) == [20, 10]
    save(root, 30, lambda: 1, 3.0)
    assert (root / "checkpoints" / f"{30:012d}" / "manifest.json").exists()
    assert names(root) == [20, 10]
    save(root, 20, lambda: 1, 9.0)
    save(root, 30, new.confirm, 4.0)
    assert names(root) == [30, 20, 10]
    torch.testing.assert_close(load(root / "checkpoints" / f"{30:012d}")[1]["w"], torch.full((3,), 4.0))
    die(new)
    third = take()
    third.claim()
    save(root, 40, lambda: 2)
    assert names(root) == [30, 20, 10]
    store = CheckpointStore(root / "checkpoints")
    store.clean()
    assert not [entry for entry in root.store.list(f"{root.key}/checkpoints/{40:012d}") if "state" in entry.key]
    assert names(root) == [30, 20, 10]


@pytest.mark.parametrize("at", ["list", "put", "create"])
def test_a_writer_that_sleeps_within_a_save_leaves_its_successors_checkpoint(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """It sleeps before one of its requests, while a successor takes the run over and saves the same images."""
    old = take()
    old.claim()
    save(root, 10, old.confirm, 1.0)
    die(old)
    new: list[StoreLease] = []

    def succeed() -> None:
        new.append(take())
        new[0].claim()
        save(root, 20, new[0].confirm, 2.0)

    with monkeypatch.context() as patch:
        before_checkpoint(patch, at, 20, succeed)
        with pytest.raises(LeaseLostError):
            save(root, 20, old.confirm, 9.0)
    assert names(root) == [20, 10]
    torch.testing.assert_close(load(root / "checkpoints" / f"{20:012d}")[1]["w"], torch.full((3,), 2.0))
    save(root, 30, new[0].confirm, 3.0)
    assert names(root) == [30, 20, 10]


def test_a_writer_that_sleeps_while_it_cleans_up_leaves_its_successors_checkpoint(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are a state without a manifest, and a manifest that does not count."""
    first = take()
    first.claim()
    die(first)
    old = take()
    old.claim()
    for images in (20, 30):
        save(root, images, lambda: 1, 9.0)
    root.store.delete(f"{root.key}/checkpoints/{20:012d}/manifest.json")
    die(old)

    def succeed() -> None:
        new = take()
        new.claim()
        for images in (20, 30):
            save(root, images, new.confirm, images / 10)

    with monkeypatch.context() as patch:
        before_checkpoint(patch, "delete", 20, succeed)
        CheckpointStore(root / "checkpoints").clean()
    assert names(root) == [30, 20]
    for images in (20, 30):
        state = load(root / "checkpoints" / f"{images:012d}")[1]
        torch.testing.assert_close(state["w"], torch.full((3,), images / 10))


def test_a_manifest_of_a_writer_that_lost_the_run_is_replaced(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appears between the listing and the manifest of the one that has the run."""
    die(take())
    new = take()
    new.claim()
    key = f"{root.key}/checkpoints/{20:012d}/manifest.json"
    with monkeypatch.context() as patch:
        before_checkpoint(patch, "create", 20, lambda: root.store.put(key, b"{}"))
        save(root, 20, new.confirm, 2.0)
    assert names(root) == [20]
    torch.testing.assert_close(load(root / "checkpoints" / f"{20:012d}")[1]["w"], torch.full((3,), 2.0))


def before_checkpoint(patch: pytest.MonkeyPatch, name: str, images: int, action: Callable[[], None]) -> None:
    """Do something once, before the first request of this name for a checkpoint's objects."""
    original, done = getattr(LocalStore, name), []

    def call(store: LocalStore, key: str = "", *rest: object) -> object:
        if f"checkpoints/{images:012d}" in key and not done:
            done.append(key)
            action()
        return original(store, key, *rest)

    patch.setattr(LocalStore, name, call)


def test_a_renewal_that_arrived_without_an_answer_is_no_loss(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = take()
    replace = LocalStore.replace
    with monkeypatch.context() as patch:

        def lose_the_answer(*arguments: Any) -> str:
            replace(*arguments)
            raise OSError("no answer")

        patch.setattr(LocalStore, "replace", lose_the_answer)
        with pytest.raises(OSError, match="no answer"):
            lease._renew()
    lease.claim()
    assert (lease.confirm(), lease.problem()) == (1, None)


def test_a_checkpoint_is_there_once_its_manifest_is(
    root: StorePath, take: Callable[..., StoreLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between any two requests, the earlier checkpoints stay and the new one is there whole or not at all."""
    lease = take()
    lease.claim()
    save(root, 10, lease.confirm, 1.0)
    die(lease)
    for name in ("put", "create", "delete"):
        for at in range(6):
            with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                patch.setattr(LocalStore, name, interrupted(getattr(LocalStore, name), at))
                save(root, 20, lambda: 1, 2.0)
                break
            for images in names(root):
                manifest, state = load(root / "checkpoints" / f"{images:012d}")
                assert (manifest.images, float(state["w"][0])) == (images, images / 10)
            assert 10 in names(root)
        else:
            pytest.fail(f"{name} was interrupted at every call")


def interrupted(original: Callable[..., object], at: int) -> Callable[..., object]:
    """The function, which from its call number `at` on does nothing but raise."""
    calls = count()

    def call(*arguments: object) -> object:
        if next(calls) >= at:
            raise KeyboardInterrupt
        return original(*arguments)

    return call


def test_the_lease_says_nothing_but_names_times_and_numbers(root: StorePath, take: Callable[..., StoreLease]) -> None:
    take().claim()
    facts = json.loads((root / "lease.json").read_bytes())
    expected = "checkpoints fence holder id open process released renewals seconds since"
    assert " ".join(sorted(facts)) == expected


def test_the_newest_process_of_a_trial_takes_it(root: StorePath, take: Callable[..., StoreLease]) -> None:
    """Unless a later driver has: each has a higher fencing number."""
    lease = take()
    first = Fence(root, lease.confirm())
    trial = root / "trials" / "0000"
    old = TrialLease(trial, first)
    assert old.confirm() == 1
    new = TrialLease(trial, first)
    assert new.confirm() == 2
    with pytest.raises(LeaseLostError, match=rf"{trial}: process {os.getpid()} on .*, since 20"):
        old.confirm()
    assert first.problem() is None
    lease.release()
    assert "has ended" in str(first.problem())
    second = Fence(root, take().confirm())
    assert "another process has taken over" in str(first.problem())
    with pytest.raises(LeaseLostError):
        TrialLease(trial, first)
    assert new.confirm() == 2, "until the later driver trains it, it may go on"
    assert TrialLease(trial, second).confirm() == 3
    with pytest.raises(LeaseLostError):
        new.confirm()
    (trial / "lease.json").write_text((trial / "lease.json").read_text().replace('"driver": 2', '"driver": 3'))
    with pytest.raises(LeaseLostError):
        TrialLease(trial, second)
