"""Conversion: what is written, continued, refused and reported."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.data.pictures import Rules, decode
from ganscale.data.prepared import PreparedSet
from ganscale.prepare import convert
from ganscale.prepare.convert import Settings, prepare
from ganscale.prepare.parts import PARTS, write_shards
from ganscale.storage.store import StorePath, open_place
from tests.buckets import Server, moto

SIZE = 12


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(pixels).resize((20, 16), Image.Resampling.BICUBIC)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twenty pictures in two classes."""
    for index in range(20):
        path = tmp_path / "pictures" / ("cats" if index < 12 else "dogs") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    return tmp_path / "pictures"


def settings(**changes: object) -> Settings:
    return Settings(**{"resolution": SIZE, "shard_size": 8000} | changes)  # pyright: ignore[reportArgumentType]


def run(source: Path, target: Path, **changes: object) -> dict:
    return prepare(source, target, settings(**changes), lambda done, total, bad: None)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_picture_is_stored_as_training_would_decode_it(source: Path, tmp_path: Path) -> None:
    report = run(source, tmp_path / "out")
    found = PreparedSet(tmp_path / "out")
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    assert found.names() == names
    assert len(found.manifest.shards) > 1
    assert found.manifest.classes == ("cats", "dogs")
    assert found.index["label"].tolist() == [0] * 12 + [1] * 8
    pixels = []
    for row, name in enumerate(names):
        stored = decode(found.checked(row, found.read(row)), SIZE)
        pixels.append(decode((source / name).read_bytes(), SIZE))
        assert (stored == pixels[-1]).all()
    assert report["classes"] == {"cats": 12, "dogs": 8}
    np.testing.assert_allclose(report["mean"], np.stack(pixels).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(report["std"], np.stack(pixels).std((0, 2, 3)), rtol=1e-12)


def test_shards_are_tars_in_webdatasets_convention(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    members: dict[str, bytes] = {}
    for path in sorted((tmp_path / "out").glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            members |= {entry.name: tar.extractfile(entry).read() for entry in tar}  # pyright: ignore
    assert len(members) == 40
    assert members["00000013.cls"] == b"1"
    assert members["00000013.png"] == PreparedSet(tmp_path / "out").read(13)


def test_the_same_source_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "one")
    run(source, tmp_path / "two", workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert set(hashes(tmp_path / "one")) > {"manifest.json", "index.bin", "contact_sheet.png", "report.json"}


def test_the_identity_is_that_of_pixels_and_classes(source: Path, tmp_path: Path) -> None:
    first = run(source, tmp_path / "one")["data_hash"]
    assert run(source, tmp_path / "shards", shard_size=3000)["data_hash"] == first
    assert run(source, tmp_path / "labels", labels="none")["data_hash"] != first
    picture(99).save(source / "cats" / "03.png")
    assert run(source, tmp_path / "changed")["data_hash"] != first


def test_bad_pictures_are_listed_and_nothing_looks_finished(source: Path, tmp_path: Path) -> None:
    (source / "cats" / "05.png").write_bytes(b"no picture")
    content = (source / "dogs" / "15.png").read_bytes()
    (source / "dogs" / "15.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ExecutionError, match="2 of 20"):
        run(source, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["cats/05.png", "dogs/15.png"]
    assert all(line["reason"] for line in lines)
    with pytest.raises(FileNotFoundError):
        PreparedSet(tmp_path / "out")
    report = run(source, tmp_path / "out", skip_bad=True)
    assert (report["pictures"], report["bad"]) == (18, 2)
    assert "cats/05.png" not in PreparedSet(tmp_path / "out").names()
    run(source, tmp_path / "fresh", skip_bad=True)
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


def test_repaired_pictures_are_taken_in_by_the_next_try(source: Path, tmp_path: Path) -> None:
    whole = (source / "cats" / "05.png").read_bytes()
    (source / "cats" / "05.png").write_bytes(bytes(len(whole)))
    with pytest.raises(ExecutionError):
        run(source, tmp_path / "out")
    (source / "cats" / "05.png").write_bytes(whole)
    run(source, tmp_path / "out")
    run(source, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


@pytest.mark.parametrize("when", [1, 3])
def test_an_interrupted_conversion_continues(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    def interrupted(*arguments: object, **options: object) -> Iterator[object]:
        for number, part in enumerate(write_shards(*arguments, **options), 1):  # pyright: ignore
            yield part
            if number == when:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "write_shards", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    examined: list[int] = []
    prepare(source, tmp_path / "out", settings(), lambda done, total, bad: examined.append(done))
    assert examined[0] > 1
    run(source, tmp_path / "fresh")
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")


def test_another_conversion_starts_over_and_a_finished_one_is_kept(source: Path, tmp_path: Path) -> None:
    (source / "cats" / "05.png").write_bytes(b"")
    with pytest.raises(ExecutionError):
        run(source, tmp_path / "out")
    run(source, tmp_path / "out", skip_bad=True, shard_size=3000)
    run(source, tmp_path / "fresh", skip_bad=True, shard_size=3000)
    assert hashes(tmp_path / "fresh") == hashes(tmp_path / "out")
    before = hashes(tmp_path / "out")
    assert run(source, tmp_path / "out", skip_bad=True, shard_size=3000)["pictures"] == 19
    assert hashes(tmp_path / "out") == before
    with pytest.raises(ConfigError) as caught:
        run(source, tmp_path / "out", skip_bad=True, resolution=16)
    assert caught.value.key == "OUT"


def test_a_folder_with_other_files_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        run(source, tmp_path / "out")
    assert caught.value.key == "OUT"
    assert (tmp_path / "out" / "thesis.txt").exists()


def _circle(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "b").symlink_to(folder)


SOURCES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no picture": ("", lambda folder: (folder / "notes.txt").write_text("text")),
    "nothing": ("none", lambda folder: None),
    "compressed tar": ("x.tar.gz", lambda folder: (folder / "x.tar.gz").write_bytes(b"x")),
    "damaged zip": ("x.zip", lambda folder: (folder / "x.zip").write_bytes(b"PK")),
    "circle": ("", _circle),
    "pattern of pictures": ("*.png", lambda folder: (folder / "a.png").write_bytes(b"")),
    "pattern without a match": ("train-*", lambda folder: None),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_none_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path, make = SOURCES[name]
    (tmp_path / "source").mkdir()
    make(tmp_path / "source")
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "source" / path, tmp_path / "out")
    assert caught.value.key == "SOURCE"
    assert caught.value.value == str(tmp_path / "source" / path)
    assert caught.value.remedy


def test_the_size_is_found_or_asked_for(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(source, tmp_path / "out", resolution=None)
    assert caught.value.key == "--resolution"
    for path in source.rglob("*.png"):
        picture(1).resize((16, 16)).save(path)
    assert run(source, tmp_path / "out", resolution=None)["resolution"] == 16


def test_near_duplicates_are_found(source: Path, tmp_path: Path) -> None:
    picture(3).save(source / "dogs" / "copy.png")
    picture(7).save(source / "dogs" / "again.jpg", quality=80)
    report = run(source, tmp_path / "out", resolution=16, rules=Rules(fit="stretch"))
    near = report["near_duplicates"]
    assert (report["equal"], near["groups"], near["pictures"], near["complete"]) == (1, 2, 4, True)
    assert near["names"] == [["cats/03.png", "dogs/copy.png"], ["cats/07.png", "dogs/again.jpg"]]


def test_source_and_result_may_lie_in_a_bucket(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Callable[[], str]
) -> None:
    place, remote = open_place(f"{bucket()}/source"), open_place(f"{bucket()}/out")
    assert isinstance(place, StorePath)
    assert isinstance(remote, StorePath)
    for path in sorted(source.rglob("*.png")):
        place.store.put(path.relative_to(source).as_posix(), path.read_bytes())
    run(source, tmp_path / "local")
    run(place, remote)  # pyright: ignore[reportArgumentType]
    assert {entry.key for entry in remote.store.list()} == set(hashes(tmp_path / "local"))
    for name, digest in hashes(tmp_path / "local").items():
        assert hashlib.sha256(remote.store.get(name)[0]).hexdigest() == digest
    assert not remote.store.list(PARTS)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as started:
        yield started


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    return lambda: server.use(monkeypatch)
