"""Checkpoints: whole or not at all, never loaded when altered, old ones dropped, nothing executed on load."""

import errno
import hashlib
import io
import json
import math
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import (
    CheckpointError,
    CheckpointStore,
    SchemaError,
    load,
    retained,
    verify,
    write_state,
)

METRICS = {"loss_d": 0.25, "fid": 1e-5}
CONFIG = {"run": {"name": "größe"}, "optim": {"betas_g": [0.5, 0.999]}}


def state(images: int) -> dict[str, Any]:
    """A small state of the shape that `TrainState.state_dict` has."""
    weights = torch.arange(24.0).reshape(4, 6) + images
    return {"generator": {"w": weights}, "optimizer_g": {"state": {0: {"step": 3}}}, "images": images, "iteration": 7}


def save(store: CheckpointStore, images: int, **metrics: float) -> Path:
    return store.save(state(images), config=CONFIG, metrics=metrics or METRICS)


def names(store: CheckpointStore) -> list[int]:
    return [int(folder.name) for folder in store.folders()]


def silent(_: str) -> None:
    """Takes warnings that a test does not look at."""


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


class Full(io.BytesIO):
    """A file that takes so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, part: Any) -> int:
        if self.tell() + len(part) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(part)


def test_a_state_is_hashed_while_it_is_written() -> None:
    whole, file = io.BytesIO(), io.BytesIO()
    torch.save(state(10), whole)
    facts = write_state(file, state(10))
    assert file.getvalue() == whole.getvalue()
    assert facts == {"sha256": hashlib.sha256(whole.getvalue()).hexdigest(), "size": len(whole.getvalue())}


def test_a_full_disk_is_an_error_of_the_system_wherever_it_comes() -> None:
    """torch's own error hides the cause."""
    file = io.BytesIO()
    size = write_state(file, state(10))["size"]
    for room in range(0, size, 37):
        with pytest.raises(OSError, match="No space left"):
            write_state(Full(room), state(10))


def test_what_is_saved_is_what_is_loaded(store: CheckpointStore) -> None:
    folder = save(store, 12_800)
    assert folder.name == "000000012800"
    manifest, loaded = load(folder)
    assert (manifest.images, manifest.iteration) == (12_800, 7)
    assert manifest.config == CONFIG
    assert manifest.metrics == METRICS
    torch.testing.assert_close(loaded, state(12_800), rtol=0, atol=0)
    assert verify(folder) == manifest == store.newest(silent)


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (save(CheckpointStore(tmp_path / name), 5) / "state.pt" for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_numbers_that_json_lacks_survive(store: CheckpointStore) -> None:
    manifest = verify(save(store, 1, loss_d=float("nan"), loss_g=float("inf")))
    torch.testing.assert_close(manifest.metrics, {"loss_d": float("nan"), "loss_g": float("inf")}, equal_nan=True)


def test_nothing_is_there_before_the_first(store: CheckpointStore) -> None:
    assert store.folders() == []
    assert store.newest(silent) is None
    store.clean()


@pytest.mark.parametrize(
    ("scores", "keep", "kept"),
    [
        ({}, 3, set()),
        ({10: None}, 3, {10}),
        ({10: None, 20: None, 30: None}, 2, {20, 30}),
        ({30: None, 10: None, 20: None}, 1, {30}),
        ({10: 1.0, 20: 5.0, 30: 4.0}, 1, {10, 30}),
        ({10: 5.0, 20: 4.0, 30: 1.0}, 1, {30}),
        ({10: 1.0, 20: None, 30: None, 40: None}, 2, {10, 30, 40}),
        ({10: 2.0, 20: 2.0, 30: 9.0}, 1, {20, 30}),
        ({10: float("nan"), 20: 3.0, 30: 4.0, 40: 5.0}, 1, {20, 40}),
        ({10: 3.0, 20: float("nan"), 30: 4.0, 40: 5.0}, 1, {10, 40}),
        ({10: float("-inf"), 20: 1.0, 30: 2.0}, 1, {20, 30}),
    ],
)
def test_retained_are_the_newest_and_the_best(scores: dict[int, float | None], keep: int, kept: set[int]) -> None:
    assert retained(scores, keep) == kept


def test_old_ones_are_dropped_but_not_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, best_metric="fid")
    for images, fid in ((10, 9.0), (20, 3.0), (30, 8.0), (40, 7.0), (50, 6.0)):
        save(store, images, fid=fid)
    assert names(store) == [50, 40, 20]
    save(store, 60, loss_d=0.1)
    assert names(store) == [60, 50, 20], "a checkpoint without the metric is nobody's best"


@pytest.mark.parametrize(("higher", "best"), [(False, 20), (True, 40)])
def test_the_best_is_marked_and_kept_whichever_way_is_better(tmp_path: Path, higher: bool, best: int) -> None:
    store = CheckpointStore(tmp_path, keep=1, best_metric="score", higher_is_better=higher)
    for images, score in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 9.0), (50, math.nan), (60, 5.0)):
        rises = store.is_best({"score": score})
        store.save(state(images), config={}, metrics={"score": score})
        marked = json.loads((tmp_path / "best.json").read_text())
        assert rises == (marked["images"] == images)
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "images": best,
        "metric": "score",
        "value": 9.0 if higher else 1.0,
    }
    found = store.best()
    assert found is not None
    assert found.images == best
    assert names(store) == [60, best]


def test_of_equally_good_ones_the_later_is_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, best_metric="score")
    assert not store.is_best({"other": 1.0})
    for images in (10, 20):
        assert store.is_best({"score": 1.0})
        store.save(state(images), config={}, metrics={"score": 1.0})
    found = store.best()
    assert found is not None
    assert found.images == 20
    assert CheckpointStore(tmp_path).best() is None, "without a metric there is no best"


def test_a_damaged_later_one_does_not_push_out_the_one_just_saved(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    (save(store, 50) / "state.pt").write_bytes(b"")
    for images in (10, 20):
        save(store, images)
        found = store.newest(silent)
        assert found is not None
        assert found.images == images
    assert names(store) == [50, 20]
    save(store, 50)
    assert names(store) == [50]


def test_suspect_ones_are_kept_but_not_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, best_metric="fid")
    for images in (10, 20, 30, 40):
        save(store, images, fid=50.0 - images)
    assert names(store) == [40, 30]
    assert store.mark(30, "it went wrong") == [40]
    assert store.mark(30, "twice") == []
    said: list[str] = []
    found, best = store.newest(said.append), store.best()
    assert found is not None
    assert best is not None
    assert found.images == best.images == 30
    assert json.loads((tmp_path / "best.json").read_text())["images"] == 30
    assert len(said) == 1
    assert "000000000040" in said[0]
    assert load(tmp_path / f"{40:012d}")[1]["images"] == 40, "it can be looked at"
    assert store.newest(silent, until=29) is None


def test_suspect_ones_go_when_the_run_has_passed_them(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for images in (10, 20, 30, 45):
        save(store, images)
    store.mark(20, "it went wrong")
    save(store, 25)
    assert names(store) == [45, 30, 25], "20 and 10 were dropped before; 30 and 45 lie ahead"
    save(store, 30)
    found = store.newest(silent)
    assert found is not None
    assert found.images == 30, "it was made anew"
    save(store, 50)
    assert names(store) == [50, 30]


def test_a_state_can_be_saved_as_suspect(store: CheckpointStore) -> None:
    save(store, 10)
    store.save(state(20), config=CONFIG, metrics=METRICS, suspect="it is NaN")
    found = store.newest(silent)
    assert found is not None
    assert found.images == 10
    assert names(store) == [20, 10]


def test_what_cannot_be_read_does_not_count_and_is_not_deleted(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save(store, 10)
    (save(store, 20) / "manifest.json").write_text("{")
    save(store, 30)
    assert names(store) == [30, 20, 10], "a moment's trouble with the storage must cost nothing"
    save(store, 40)
    assert names(store) == [40, 30, 20]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "folder"])
def test_what_lies_in_the_way_of_a_checkpoint_gives_way(store: CheckpointStore, make: Callable[[Path], None]) -> None:
    save(store, 10)
    make(store.folder / f"{20:012d}")
    found = store.newest(silent)
    assert found is not None
    assert found.images == 10
    assert load(save(store, 20))[1]["images"] == 20
    assert names(store) == [20, 10]


POINTS = ["os.fsync", "os.open", "os.close", "torch.save", "json.dumps", "Path.mkdir", "Path.rename", "Path.open"]


class Dies(BaseException):
    """The process ends here: nothing catches it but what must."""


def interrupt(patch: pytest.MonkeyPatch, point: str, at: int, error: BaseException) -> list[int]:
    """From its call number `at` on, the function raises; the list counts its calls."""
    owner, name = {"os": os, "torch": torch, "json": json, "Path": Path}[point.split(".")[0]], point.split(".")[1]
    original, calls = getattr(owner, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > at:
            raise error
        return original(*arguments, **options)

    patch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("error", [Dies(), OSError(errno.ENOSPC, "No space left on device")], ids=["dies", "full"])
@pytest.mark.parametrize("point", POINTS)
def test_a_save_that_fails_anywhere_leaves_the_earlier_ones(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, point: str, error: BaseException
) -> None:
    save(store, 10)
    save(store, 20)
    at = 0
    for at in range(20):
        with monkeypatch.context() as patch:
            calls = interrupt(patch, point, at, error)
            with suppress(type(error)):
                save(store, 30)
        if calls[0] <= at:
            break
        assert names(store) in ([20, 10], [30, 20, 10])
        if point in ("os.fsync", "torch.save", "Path.rename"):  # the others keep from cleaning up as well
            assert {path.name for path in store.folder.iterdir()} == {path.name for path in store.folders()}
        for folder in store.folders():
            torch.testing.assert_close(load(folder)[1], state(int(folder.name)), rtol=0, atol=0)
        shutil.rmtree(store.folder / f"{30:012d}", ignore_errors=True)
    assert 0 < at < 19, "the point is reached, and every call of it was tried"


def test_what_a_killed_save_left_is_not_listed_and_is_cleaned(store: CheckpointStore) -> None:
    save(store, 10)
    shutil.copytree(store.folder / f"{10:012d}", store.folder / ".writing-abc")
    (store.folder / ".writing-def").mkdir()
    assert names(store) == [10]
    store.clean()
    assert os.listdir(store.folder) == [f"{10:012d}"]


def refused(folder: Path, whole: checkpoint.Manifest) -> bool:
    """Whether it is refused; if it is not, it must hold exactly what was saved."""
    try:
        manifest, loaded = load(folder)
    except CheckpointError:
        with pytest.raises(CheckpointError):
            verify(folder)
        return True
    assert manifest == whole
    torch.testing.assert_close(loaded, state(whole.images), rtol=0, atol=0)
    return False


@pytest.mark.parametrize("file", ["state.pt", "manifest.json"])
def test_truncation_and_flipped_bits_anywhere_are_noticed(store: CheckpointStore, file: str) -> None:
    folder = save(store, 10)
    whole, path = verify(folder), folder / file
    content = path.read_bytes()
    draw = random.Random(2026)
    for _ in range(150):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:place])
        assert refused(folder, whole), f"cut at byte {place}"
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        flipped = refused(folder, whole)
        assert flipped or file == "manifest.json", f"bit {bit} of byte {place}"
    path.write_bytes(content + b"\0")
    assert refused(folder, whole)
    path.write_bytes(content)
    assert not refused(folder, whole)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change a manifest as somebody would who knows how its checksum is made."""
    raw = json.loads((folder / "manifest.json").read_text()) | changes
    raw.pop("checksum")
    (folder / "manifest.json").write_text(json.dumps({**raw, "checksum": checkpoint._checksum(raw)}))


def test_an_unknown_schema_is_refused_with_both_numbers(store: CheckpointStore) -> None:
    folder = save(store, 10)
    rewrite(folder, schema=99)
    with pytest.raises(SchemaError, match=r"schema 99.*schema 1"):
        load(folder)


def compressed(content: bytes, grow: int) -> bytes:
    """The same zip with entries compressed, and one more that unpacks to `grow` bytes of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("archive/data/99", bytes(grow))
    return buffer.getvalue()


def test_a_decompression_bomb_is_refused_by_name(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manifest fits, and nothing is unpacked."""
    folder = save(store, 10)
    content = compressed((folder / "state.pt").read_bytes(), 50_000_000)
    (folder / "state.pt").write_bytes(content)
    rewrite(folder, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(CheckpointError, match="archive/data/99"):
        load(folder)


def test_a_manifest_too_large_is_not_read(store: CheckpointStore) -> None:
    folder = save(store, 10)
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(2**34)  # sparse: no disk is filled
    with pytest.raises(CheckpointError, match=r"manifest.json"):
        load(folder)


def test_a_checkpoint_under_the_name_of_another_is_not_taken_for_it(store: CheckpointStore) -> None:
    shutil.copytree(save(store, 10), store.folder / f"{20:012d}")
    warnings: list[str] = []
    found = store.newest(warnings.append)
    assert found is not None
    assert found.images == 10
    assert warnings == ["checkpoint 000000000020 is not used: it holds the state at 10 images"]


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_folder(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return spoil


def text(content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_text(content)


SPOILT: dict[str, Callable[[Path], object]] = {
    "no_state": lambda folder: (folder / "state.pt").unlink(),
    "no_manifest": lambda folder: (folder / "manifest.json").unlink(),
    "state_is_a_folder": a_folder("state.pt"),
    "manifest_is_a_folder": a_folder("manifest.json"),
    "empty": emptied,
    "no_json": text("checkpoint"),
    "list": text("[1, 2]"),
    "nothing": text("null"),
    "nested": text("[" * 100_000),
    "binary": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "other_size": lambda folder: rewrite(folder, size=1),
    "other_hash": lambda folder: rewrite(folder, sha256="0" * 64),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_newest_falls_back_to_the_one_before_and_says_so(
    store: CheckpointStore, spoil: Callable[[Path], object]
) -> None:
    save(store, 10)
    save(store, 20)
    spoil(store.folder / f"{20:012d}")
    warnings: list[str] = []
    found = store.newest(warnings.append)
    assert found is not None
    assert found.images == 10
    (warning,) = warnings
    assert warning.startswith("checkpoint 000000000020 is not used: its ")
    assert len(warning) < 200


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def test_code_in_a_checkpoint_is_refused_not_run(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = store.save(state(10) | {"bomb": Bomb()}, config=CONFIG, metrics=METRICS)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(folder)
    assert not (tmp_path / "exploded").exists()
    torch.load(folder / "state.pt", weights_only=False)
    assert (tmp_path / "exploded").exists(), "the bomb is a real one"


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    checkpoint.write_atomically(path, "old")
    for at in range(3):
        with monkeypatch.context() as patch:
            interrupt(patch, "os.fsync", at, OSError(errno.ENOSPC, "No space left on device"))
            with suppress(OSError):
                checkpoint.write_atomically(path, "new" * 1000)
        assert path.read_text() in ("old", "new" * 1000)
        assert os.listdir(tmp_path) == ["config.yaml"]


def test_scores_that_come_late_decide_on_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, best_metric="score")
    store.unscored = (10, 20)
    for images in (10, 20, 30, 40):
        save(store, images, loss_d=0.1)
    assert names(store) == [40, 20, 10], "those that wait for their scores are kept"
    assert store.add_scores(15, {"score": 1.0}) is None
    assert store.add_scores(10, {"score": 2.0, "other": math.nan}) == tmp_path / f"{10:012d}"
    assert store.is_best({"score": 1.9})
    assert not store.is_best({"score": 2.1})
    assert store.add_scores(20, {"score": 3.0}) is not None
    assert json.loads((tmp_path / "best.json").read_text()) == {"images": 10, "metric": "score", "value": 2.0}
    store.unscored = ()
    save(store, 50, score=9.0)
    assert names(store) == [50, 10]
    found = CheckpointStore(tmp_path, best_metric="score").best()
    assert found is not None
    assert found.images == 10
    verify(found.path)
    store.mark(5, "it went wrong")
    assert store.best() is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"score": "1.0"}', '{"score": null}', '{"score": true}'])
def test_damaged_scores_are_none(tmp_path: Path, text: str) -> None:
    store = CheckpointStore(tmp_path, best_metric="score")
    (save(store, 10, loss_d=0.1) / "scores.json").write_text(text)
    assert store.best() is None
