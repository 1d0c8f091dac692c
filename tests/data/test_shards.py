"""Tars and parquet files beside the inputs of `odd_shards`: what is kept, and what counts as the same data."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ganscale.config import Config, ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data import parquet, webdataset
from ganscale.data.files import read
from ganscale.data.folder import SAMPLE_OF_BUCKET, FolderSource, Reading
from ganscale.data.parquet import ParquetFiles
from ganscale.data.shards import open_files
from ganscale.data.webdataset import TarFiles
from ganscale.prepare.convert import Settings, prepare
from ganscale.storage.store import open_place
from tests.buckets import Server, moto
from tests.data.odd_shards import B, images, tar
from tests.data.odd_shards import parquet as table
from tests.data.shards import write_parquet, write_tars

CPU = torch.device("cpu")
SIZE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 pictures of one size in bytes, in two classes."""
    for number in range(20):
        path = tmp_path / "folder" / ("cats" if number < 12 else "dogs") / f"{number:02d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
    return tmp_path / "folder"


def config_of(path: object, *more: str) -> Config:
    return load(None, ["data.name=folder", f"data.path={path}", f"data.resolution={SIZE}", *more])


def source_of(path: Path, **options: object) -> FolderSource:
    return FolderSource(path, SIZE, seed=5, device=CPU, **options)  # pyright: ignore[reportArgumentType]


def test_the_index_of_a_tar_is_made_once(folder: Path, tmp_path: Path, cache: Path, monkeypatch) -> None:
    place = write_tars(folder, tmp_path / "tars")
    walked: list[str] = []
    walk = webdataset.walk_tar
    monkeypatch.setattr(webdataset, "walk_tar", lambda file: walked.append(file.name) or walk(file))
    first = source_of(place).read(0, 20)[0]
    assert len(walked) == len(list(cache.iterdir())) == 3
    assert len(list(place.iterdir())) == 3, "nothing is written beside the source"
    assert torch.equal(source_of(place).read(0, 20)[0], first)
    assert len(walked) == 3
    next(cache.iterdir()).write_text("damaged")
    assert torch.equal(source_of(place).read(0, 20)[0], first)
    assert len(walked) == 4
    (place / "00001.tar").write_bytes(tar({"a.png": B, "a.cls": b"0"}))
    assert source_of(place).num_images < 20
    assert len(walked) == 5


def test_without_a_place_for_the_index_tars_are_still_read(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GANSCALE_CACHE", str(tmp_path / "file"))
    assert source_of(write_tars(folder, tmp_path / "tars")).num_images == 20


def test_the_index_is_made_by_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.tar").write_bytes(tar({"a.png": bytes(10**6), "b.png": bytes(10**6)}))
    with (tmp_path / "0.tar").open("rb") as file:
        taken = 0
        plain = file.read

        def counted(size: int = -1) -> bytes:
            nonlocal taken
            content = plain(size)
            taken += len(content)
            return content

        class Counted:
            seek, tell, read = file.seek, file.tell, staticmethod(counted)

        assert [member.size for member in webdataset.walk_tar(Counted())] == [10**6, 10**6]  # pyright: ignore
    assert taken < 20_000


def test_a_picture_of_a_tar_is_read_by_its_range(folder: Path, tmp_path: Path) -> None:
    files = open_files(write_tars(folder, tmp_path / "tars"))
    assert isinstance(files, TarFiles)
    for row, path in enumerate(sorted(folder.rglob("*.bmp"))):
        name = files.listing().pictures[row]
        assert files.inner_name(name) == str(path.relative_to(folder))
        assert read(files, name) == path.read_bytes()
        _, _, start, size, _ = files.index[row].tolist()
        assert files.store.read_range(files.shard_name(row), start, start + size) == path.read_bytes()
    with pytest.raises(FileNotFoundError):
        files.size("00000.tar/none.bmp")


def test_row_groups_are_kept_within_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_parquet(folder, tmp_path / "parquet", rows=2)
    files = open_files(place)
    assert isinstance(files, ParquetFiles)
    names = files.listing().pictures
    read(files, names[0])
    files.cache_bytes = sum(5 * group.nbytes // 2 for group in files._groups.values())
    for name in names:
        read(files, name)
        assert 1 <= len(files._groups) <= 2
    loaded = []
    plain = ParquetFiles._opened
    monkeypatch.setattr(ParquetFiles, "_opened", lambda self, shard: loaded.append(shard) or plain(self, shard))
    for name in (names[-1], names[-2], names[-3], names[-1]):
        read(files, name)
    assert not loaded
    files.cache_bytes = 0
    assert read(files, names[0]) == sorted(folder.rglob("*.bmp"))[0].read_bytes()
    assert len(loaded) == len(files._groups) == 1


def test_many_parquet_files_are_not_open_at_a_time(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "OPEN", 2)
    source = source_of(write_parquet(folder, tmp_path / "parquet", 5))
    assert source.gather(torch.arange(20))[1].tolist() == [0] * 12 + [1] * 8
    assert len(source._pictures.contents.files._files) == 2  # pyright: ignore[reportAttributeAccessIssue]


def test_a_bucket_that_fails_is_no_damaged_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.parquet").write_bytes(table({"image": images(), "label": [0, 1]}))
    files = ParquetFiles(tmp_path, tmp_path, ["0.parquet"])

    def fail(shard: str) -> object:
        raise OSError("timed out")

    monkeypatch.setattr(files, "_opened", fail)
    with pytest.raises(ConfigError, match=r"0\.parquet has a damaged column label"):
        files.labels()
    monkeypatch.setattr(files, "_base", object())  # of a bucket
    with pytest.raises(OSError, match="timed out"):
        files.labels()


def test_row_groups_larger_than_the_cache_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = [np.random.default_rng(n).integers(0, 256, (400, 500, 3), np.uint8) for n in range(4)]
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    contents = [(tmp_path / f"{number}.png").read_bytes() for number in range(4)]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.parquet").write_bytes(table({"image": images(contents, pa.binary())}, row_group_size=2))
    check_files(config_of(tmp_path / "set", "data.cache_mib=1", "data.num_workers=0"))
    assert any("data.shuffle_block=2" in record.getMessage() for record in caplog.records)
    caplog.clear()
    check_files(config_of(tmp_path / "set", "data.cache_mib=2", "data.num_workers=0"))
    assert not any("data.shuffle_block" in record.getMessage() for record in caplog.records)


def changed(place: Path) -> None:
    """Another picture of the same size in bytes."""
    path = next(path for path in sorted(place.iterdir()) if path.suffix == ".tar")
    with tarfile.open(path) as archive:
        start = next(entry.offset_data for entry in archive if entry.name.endswith(".bmp"))
    content = bytearray(path.read_bytes())
    content[start + 100] ^= 1
    path.write_bytes(content)


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "renamed": lambda folder, _: (folder / "cats" / "01.bmp").rename(folder / "cats" / "01b.bmp"),
    "removed": lambda folder, _: (folder / "cats" / "01.bmp").unlink(),
    "labeled": lambda folder, _: (folder / "cats" / "11.bmp").rename(folder / "dogs" / "11.bmp"),
    "replaced": lambda folder, _: (folder / "cats" / "01.bmp").write_bytes((folder / "cats" / "02.bmp").read_bytes()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [write_tars, write_parquet])
def test_a_change_changes_the_identity(folder: Path, tmp_path: Path, make: Callable, change: str) -> None:
    before = source_of(make(folder, tmp_path / "first")).state_hash()
    assert source_of(make(folder, tmp_path / "copy")).state_hash() == before
    CHANGES[change](folder, tmp_path)
    assert source_of(make(folder, tmp_path / "second")).state_hash() != before


def test_a_tar_that_is_changed_in_place_has_another_identity(folder: Path, tmp_path: Path) -> None:
    place = write_tars(folder, tmp_path / "tars")
    before = source_of(place).state_hash()
    changed(place)
    assert source_of(place).state_hash() != before


def test_whole_row_groups_are_sampled_for_the_identity(folder: Path, tmp_path: Path, monkeypatch) -> None:
    files = open_files(write_parquet(folder, tmp_path / "parquet", rows=5))
    opened = set()
    plain = ParquetFiles.open
    monkeypatch.setattr(ParquetFiles, "open", lambda self, name: opened.add(name) or plain(self, name))
    monkeypatch.setattr("ganscale.data.identity.MAX_READ", 10)
    source_of(tmp_path / "parquet").state_hash()
    opened.clear()
    source = source_of(tmp_path / "parquet")
    opened.clear()
    source.state_hash()
    assert len(opened) == 10
    assert len({files.unit(name) for name in opened}) == 2


@pytest.mark.parametrize("make", [write_tars, write_parquet])
def test_prepare_makes_of_shards_what_it_makes_of_their_folder(folder: Path, tmp_path: Path, make: Callable) -> None:
    settings = Settings(SIZE, shard_size=10**6)
    expected = prepare(folder, tmp_path / "one", settings, lambda *_: None)
    found = prepare(make(folder, tmp_path / "source"), tmp_path / "two", settings, lambda *_: None)
    assert list(found["classes"].values()) == list(expected["classes"].values()) == [12, 8]
    for name in ("shard-00000.tar", "index.bin"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_prepare_leaves_out_what_has_no_class_or_lies_in_a_damaged_tar(folder: Path, tmp_path: Path) -> None:
    place = write_tars(folder, tmp_path / "tars")
    (place / "9.tar").write_bytes(tar({"a.png": B, "a.cls": b"1", "b.png": B}))
    (place / "truncated.tar").write_bytes((place / "00000.tar").read_bytes()[:3000])
    with pytest.raises(ConfigError, match=r"truncated.tar"):
        prepare(place, tmp_path / "out", Settings(SIZE), lambda *_: None)
    report = prepare(place, tmp_path / "out", Settings(SIZE, skip_bad=True), lambda *_: None)
    assert (report["pictures"], report["bad"]) == (21, 2)
    bad = (tmp_path / "out" / "bad.jsonl").read_text()
    assert "9.tar/b.png" in bad
    assert "truncated.tar" in bad


def test_prepare_warns_of_folders_of_parquet_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.parquet").write_bytes(table({"image": images()}))
    prepare(tmp_path / "set", tmp_path / "out", Settings(SIZE), lambda *_: None)
    assert any("folders of parquet files are no classes" in record.getMessage() for record in caplog.records)


def put(folder: Path, server: Server, patch: pytest.MonkeyPatch) -> object:
    place = open_place(server.use(patch))
    for path in folder.iterdir():
        place.store.put(path.name, path.read_bytes())  # pyright: ignore[reportAttributeAccessIssue]
    return place


@pytest.mark.parametrize("make", [write_tars, write_parquet])
def test_shards_in_a_bucket_are_prepared(folder: Path, tmp_path: Path, server: Server, monkeypatch, make) -> None:
    source = make(folder, tmp_path / "source")
    settings = Settings(SIZE, shard_size=10**6)
    expected = prepare(source, tmp_path / "one", settings, lambda *_: None)
    found = prepare(put(source, server, monkeypatch), tmp_path / "two", settings, lambda *_: None)  # pyright: ignore
    assert found["data_hash"] == expected["data_hash"]


def test_parquet_in_a_bucket_is_refused(folder: Path, tmp_path: Path, server: Server, monkeypatch) -> None:
    place = put(write_parquet(folder, tmp_path / "source"), server, monkeypatch)
    for action in (lambda: check_files(config_of(place)), lambda: source_of(place)):  # pyright: ignore
        with pytest.raises(ConfigError) as caught:
            action()
        assert caught.value.key == "data.path"
        assert "ganscale prepare" in caught.value.remedy


def test_a_tar_or_a_pattern_in_a_bucket_is_read(folder: Path, tmp_path: Path, server: Server, monkeypatch) -> None:
    place = put(write_tars(folder, tmp_path / "tars"), server, monkeypatch)
    check_files(config_of(f"{place}"))
    for name, count in (("00000.tar", 6), ("0000[01].tar", 13)):
        check_files(config_of(f"{place}/{name}"))
        found = source_of(open_place(f"{place}/{name}"), reading=Reading())  # pyright: ignore
        assert found.num_images == count
        assert torch.equal(found.read(0, 5)[0], source_of(tmp_path / "tars" / name).read(0, 5)[0])


def test_gray_tars_in_a_bucket_need_a_number_of_channels(tmp_path: Path, server: Server, monkeypatch) -> None:
    Image.new("L", (SIZE, SIZE), 9).save(tmp_path / "a.png")
    gray = (tmp_path / "a.png").read_bytes()
    (tmp_path / "set").mkdir()
    count = SAMPLE_OF_BUCKET + 2
    (tmp_path / "set" / "0.tar").write_bytes(tar({f"{number:03d}.png": gray for number in range(count)}))
    place = put(tmp_path / "set", server, monkeypatch)
    with pytest.raises(ConfigError) as caught:
        source_of(place)  # pyright: ignore[reportArgumentType]
    assert caught.value.key == "data.channels"
    assert source_of(tmp_path / "set").shape == (1, SIZE, SIZE)
