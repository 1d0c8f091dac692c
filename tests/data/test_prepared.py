"""Prepared sets are read as their source would be: order, resume, world sizes; damage is named."""

import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.api import Trainer
from ganscale.config import ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data.folder import FolderSource, Reading
from ganscale.data.pictures import Rules
from ganscale.data.prepared import INDEX, MANIFEST, ROW, DamagedError, PreparedSet
from ganscale.parallel.replica import Replica
from ganscale.prepare.convert import Settings, prepare
from ganscale.storage.store import LocalStore, Place, open_place
from tests.buckets import Server, moto
from tests.data.shards import write_parquet, write_tars

CPU = torch.device("cpu")
SIZE, BATCH = 8, 7
KINDS = ("folder", "zip", "prepared", "tars", "parquet", "bucket", "tars in a bucket")
TRAINED = ("prepared", "parquet", "bucket", "tars in a bucket")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as started:
        yield started


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in three classes: as a folder, a zip, tars, parquet files, and prepared."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(30):
        path = root / "folder" / "abc"[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(path)
    with zipfile.ZipFile(root / "pictures.zip", "w") as archive:
        for path in sorted((root / "folder").rglob("*.png")):
            archive.write(path, path.relative_to(root / "folder"))
    prepare(root / "folder", root / "prepared", Settings(SIZE, shard_size=9000), lambda done, total, bad: None)
    write_tars(root / "folder", root / "tars")
    write_parquet(root / "folder", root / "parquet")
    return root


def place_of(kind: str, root: Path, server: Server, patch: pytest.MonkeyPatch) -> Place:
    patch.setenv("GANSCALE_CACHE", str(root / "cache"))
    if "bucket" not in kind:
        return root / ("pictures.zip" if kind == "zip" else kind)
    place = open_place(server.use(patch))
    for path in (root / ("tars" if "tars" in kind else "prepared")).iterdir():
        place.store.put(path.name, path.read_bytes())  # pyright: ignore[reportAttributeAccessIssue]
    return place


def source_of(place: Place, *, num_workers: int = 0, reading: Reading | None = None) -> FolderSource:
    return FolderSource(
        place, SIZE, seed=5, device=CPU, mirror=True, num_workers=num_workers, reading=reading or Reading(cache_mib=1)
    )


def shares(rank: int, world: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """The reads of a rank."""
    for start in itertools.count(first, BATCH):
        yield from ((start + a, start + b) for a, b in Replica(rank, world).rows(BATCH))


@pytest.mark.parametrize("kind", KINDS)
def test_order_resume_and_worlds_are_exact(
    kind: str, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = source_of(root / "folder").read(0, 98)
    place = place_of(kind, root, server, monkeypatch)
    for world, first in itertools.product((1, 2, 3, 4), (0, 35)):
        for rank in range(world):
            source = source_of(place)
            source.expect(lambda rank=rank, world=world, first=first: shares(rank, world, first))
            for start, stop in itertools.takewhile(lambda read: read[1] <= 98, shares(rank, world, first)):
                found, classes = source.read(start, stop)
                assert torch.equal(found, images[start:stop])
                assert torch.equal(classes, labels[start:stop])


@pytest.mark.parametrize("kind", TRAINED)
def test_workers_that_decode_change_nothing(
    kind: str, root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = source_of(root / "folder").read(0, 98)
    source = source_of(place_of(kind, root, server, monkeypatch), num_workers=1)
    source.expect(lambda: ((start, start + BATCH) for start in itertools.count(0, BATCH)))
    for start in range(0, 91, BATCH):
        found, classes = source.read(start, start + BATCH)
        assert torch.equal(found, images[start : start + BATCH])
        assert torch.equal(classes, labels[start : start + BATCH])
    assert torch.equal(source.read(3, 9)[0], images[3:9]), "an unexpected read"
    rows = torch.tensor([4, 29, 4])
    assert torch.equal(source.gather(rows)[0], source_of(root / "folder").gather(rows)[0])


@pytest.mark.parametrize("kind", TRAINED)
def test_a_run_does_not_depend_on_where_its_data_lie(
    kind: str, root: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(place: Place, name: str, *more: str) -> dict[str, torch.Tensor]:
        overrides = ["data.name=folder", f"data.path={place}", f"data.resolution={SIZE}", f"run.dir={tmp_path}"]
        overrides += [f"run.name={name}", "train.batch_size=5", "data.num_workers=0", "wandb.mode=disabled"]
        overrides += ["eval.every=0", "checkpoint.every=20", "checkpoint.mode=inline", "log.every=20", *more]
        result = Trainer(overrides=overrides, launcher="local").fit()
        assert all(row["decode_limit"] > 0 for row in result.metrics)
        return result.load_generator().network.state_dict()

    place = place_of(kind, root, server, monkeypatch)
    plain = train(root / "folder", "plain", "train.images=40")
    train(place, "other", "train.images=20")
    resumed = train(place, "other", "train.images=40")
    for name, value in plain.items():
        assert torch.equal(value, resumed[name]), name


def test_a_process_reads_an_index_once_unless_it_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy(root, tmp_path / "set")
    reads: list[str] = []
    read = LocalStore.read_range

    def counted(self: LocalStore, key: str, start: int, stop: int) -> bytes:
        reads.append(key)
        return read(self, key, start, stop)

    monkeypatch.setattr(LocalStore, "read_range", counted)
    check_files(config_of(place))
    source_of(place)
    assert reads.count(INDEX) == 1
    content = bytearray((place / INDEX).read_bytes())
    content[3] ^= 1
    (place / INDEX).write_bytes(content)
    with pytest.raises(DamagedError, match=INDEX):
        PreparedSet(place)


def copy(root: Path, target: Path) -> Path:
    target.mkdir()
    for path in (root / "prepared").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def config_of(path: Path, *more: str):
    return load(None, ["data.name=folder", f"data.path={path}", f"data.resolution={SIZE}", *more])


def test_a_damaged_picture_is_named_with_its_shard(root: Path, tmp_path: Path) -> None:
    place = copy(root, tmp_path / "set")
    found = PreparedSet(place)
    shard = place / found.shard_name(17)
    content = bytearray(shard.read_bytes())
    content[int(found.index[17]["offset"]) + 60] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        source_of(place).gather(torch.tensor([17]))
    assert caught.value.key == "data.path"
    for text in (shard.name, "00000017.png", found.name(17)):
        assert text in str(caught.value)
    with pytest.raises(ConfigError, match=shard.name):
        check_files(config_of(place))


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_shard_that_is_not_whole_is_refused_before_reading(root: Path, tmp_path: Path, how: str) -> None:
    place = copy(root, tmp_path / "set")
    shard = place / PreparedSet(place).manifest.shards[1].name
    if how == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-700])
    with pytest.raises(DamagedError, match=shard.name):
        PreparedSet(place)
    with pytest.raises(ConfigError, match=shard.name) as caught:
        check_files(config_of(place))
    assert caught.value.key == "data.path"


def test_a_shard_that_shrinks_during_a_run_is_named(root: Path, tmp_path: Path) -> None:
    place = copy(root, tmp_path / "set")
    source = source_of(place)
    shard = place / PreparedSet(place).shard_name(0)
    shard.write_bytes(shard.read_bytes()[: int(PreparedSet(root / "prepared").index[0]["offset"]) + 9])
    with pytest.raises(ConfigError, match=r"shard-00000.tar.*ends"):
        source.gather(torch.tensor([0]))


@pytest.mark.parametrize("name", [INDEX, MANIFEST])
def test_a_damaged_index_or_manifest_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    place = copy(root, tmp_path / "set")
    content = bytearray((place / name).read_bytes())
    content[len(content) // 2] ^= 1
    (place / name).write_bytes(content[: None if name == INDEX else -9])
    with pytest.raises(DamagedError, match=name):
        PreparedSet(place)


def test_another_version_of_the_format_is_refused(root: Path, tmp_path: Path) -> None:
    place = copy(root, tmp_path / "set")
    content = json.loads((place / MANIFEST).read_text()) | {"format": "ganscale.prepared/9"}
    (place / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="prepared/9"):
        PreparedSet(place)


@pytest.mark.parametrize(
    ("key", "value"),
    [("resolution", "16"), ("channels", "1"), ("fit", "pad"), ("background", "[0,0,0]"), ("labels", "path")],
)
def test_settings_that_differ_from_the_preparation_are_refused(root: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_files(config_of(root / "prepared", f"data.{key}={value}"))
    assert caught.value.key == f"data.{key}"
    assert f"--{key}" in caught.value.remedy


def test_settings_of_the_preparation_are_accepted(root: Path) -> None:
    check_files(config_of(root / "prepared", "data.channels=3", "data.fit=crop", "data.labels=none"))
    source = FolderSource(root / "prepared", SIZE, seed=1, device=CPU, rules=Rules(channels=3), labels="none")
    assert source.num_classes == 0
    assert source.state_hash() != source_of(root / "prepared").state_hash()


def test_pictures_in_a_bucket_that_are_not_prepared_are_refused(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_place(server.use(monkeypatch))
    place.store.put("a.png", (root / "folder" / "a" / "0.png").read_bytes())  # pyright: ignore
    for action in (lambda: check_files(config_of(place)), lambda: source_of(place)):  # pyright: ignore
        with pytest.raises(ConfigError) as caught:
            action()
        assert caught.value.key == "data.path"
        assert "ganscale prepare" in caught.value.remedy


def test_a_picture_of_the_index_takes_24_bytes(root: Path) -> None:
    """docs/data.md says so; a million pictures take 24 MB."""
    assert ROW.itemsize == 24
    assert (root / "prepared" / INDEX).stat().st_size == 30 * 24


def test_a_local_store_reads_ranges(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"0123456789")
    assert store.read_range("a", 2, 5) == b"234"
    assert store.read_range("a", 8, 20) == b"89"
