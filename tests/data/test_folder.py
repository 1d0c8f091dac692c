"""Pictures from a folder or zip: what is found, decoded, ordered and read ahead."""

import io
import itertools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from ganscale.api import Trainer
from ganscale.config import ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data.files import list_files
from ganscale.data.folder import FolderSource
from ganscale.data.pictures import decode
from ganscale.data.shards import open_files
from ganscale.inference.grid import save_images
from ganscale.inference.interpolate import save_interpolation
from ganscale.training.build import build, build_source
from ganscale.training.loop import train

CPU = torch.device("cpu")


def png(color: tuple[int, int, int], size: tuple[int, int] = (20, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def gray() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (20, 16), 9).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures whose red value is ten times their number, in two classes, and a file that is no picture."""
    root = tmp_path / "pictures"
    for index in range(10):
        path = root / ("cats" if index < 6 else "dogs") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((10 * index, 0, 0)))
    (root / "notes.txt").write_text("no picture")
    return root


def zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return target


def numbers(images: torch.Tensor) -> list[int]:
    """Which pictures these are, by their red value."""
    return ((images[:, 0, 0, 0] + 1.0) * 127.5 / 10.0).round().int().tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_each_epoch_shows_every_picture_once_with_its_class(folder: Path, packed: bool) -> None:
    source = FolderSource(zipped(folder) if packed else folder, 16, seed=1, device=CPU)
    assert source.shape == (3, 16, 16)
    assert source.num_classes == 2
    for start in (0, 10, 20):
        images, labels = source.read(start, start + 10)
        assert sorted(numbers(images)) == list(range(10))
        assert labels.tolist() == [int(number >= 6) for number in numbers(images)]


def test_reading_ahead_changes_nothing(folder: Path) -> None:
    plain = FolderSource(folder, 16, seed=1, device=CPU)
    ahead = FolderSource(folder, 16, seed=1, device=CPU, num_workers=2)
    ahead.expect(lambda: ((start, start + 4) for start in range(8, 10**9, 4)))
    for start in (8, 12, 16, 20):
        torch.testing.assert_close(ahead.read(start, start + 4), plain.read(start, start + 4), rtol=0, atol=0)
    torch.testing.assert_close(ahead.read(0, 3), plain.read(0, 3), rtol=0, atol=0)
    torch.testing.assert_close(ahead.read(24, 28), plain.read(24, 28), rtol=0, atol=0)


def test_mirroring_depends_on_the_position_alone(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    source = FolderSource(tmp_path, 16, seed=3, device=CPU, mirror=True)
    left = source.read(0, 200)[0][:, 0, 0, 0] > 0
    assert 70 < int(left.sum()) < 130
    assert torch.equal(source.read(50, 60)[0][:, 0, 0, 0] > 0, left[50:60])


def test_the_central_square_is_kept() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (0, 200, 0)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, format="PNG")
    pixels = decode(buffer.getvalue(), 8)
    assert pixels.shape == (3, 8, 8)
    assert (pixels[1] == 200).all()


def test_a_zip_that_is_open_is_read_by_several_processes(folder: Path) -> None:
    """Forked workers must not share the position in the file."""
    plain = FolderSource(zipped(folder), 16, seed=1, device=CPU)
    ahead = FolderSource(folder.with_suffix(".zip"), 16, seed=1, device=CPU, num_workers=3)
    ahead.gather(torch.arange(10))
    ahead.expect(lambda: ((start, start + 5) for start in range(0, 10**9, 5)))
    for start in range(0, 200, 5):
        torch.testing.assert_close(ahead.read(start, start + 5), plain.read(start, start + 5), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_run_with_another_number_of_channels_is_sampled(folder: Path, tmp_path: Path, channels: int) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(png((9, 9, 9)) if channels == 4 else gray())
    overrides = ["data.name=folder", f"data.path={folder}", "data.resolution=16", f"run.dir={tmp_path}", "run.name=r"]
    overrides += ["train.images=8", "train.batch_size=4", "data.num_workers=0", "wandb.mode=disabled", "eval.every=0"]
    overrides += ["data.channels=4"] if channels == 4 else []
    result = Trainer(overrides=overrides, launcher="local").fit()
    generator = result.load_generator()
    assert generator.sample(2).shape == (2, channels, 16, 16)
    save_images(generator, tmp_path / "images", [0])
    with Image.open(tmp_path / "images" / "seed000000.png") as picture:
        assert picture.mode == ("L" if channels == 1 else "RGBA")
    save_interpolation(generator, tmp_path / "walk", [0, 1], steps=3)


def test_what_is_no_picture_set_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        open_files(folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture"):
        list_files(open_files(tmp_path / "empty"))


def test_a_broken_picture_is_named(folder: Path) -> None:
    (folder / "cats" / "broken.png").write_bytes(b"not a png")
    source = FolderSource(folder, 16, seed=1, device=CPU)
    with pytest.raises(ValueError, match=r"cats/broken\.png"):
        source.read(0, 11)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("size", [(10_000, 9_000), (20_000, 9_000)], ids=["warned-of", "refused-by-pillow"])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], num_workers: int
) -> None:
    Image.new("1", size).save(tmp_path / "bomb.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    source = FolderSource(tmp_path, 16, seed=1, device=CPU, num_workers=num_workers)
    source.expect(lambda: ((start, start + 1) for start in itertools.count()))
    with pytest.raises(ConfigError, match=r"bomb\.png") as caught:
        source.read(0, 1)
    assert caught.value.key == "data.path"
    assert caught.value.remedy


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_of_too_many_bytes_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    (folder / "cats" / "bomb.png").write_bytes(bytes(5000))
    monkeypatch.setattr("ganscale.data.files.MAX_BYTES", 4999)
    source = FolderSource(zipped(folder) if packed else folder, 16, seed=1, device=CPU)
    with pytest.raises(ConfigError, match=r"cats/bomb\.png.*5,000 bytes") as caught:
        source.read(0, 11)
    assert caught.value.key == "data.path"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_entry_larger_than_it_states_does_not_fill_the_memory(tmp_path: Path, method: int) -> None:
    path, size = tmp_path / "bomb.zip", 1 << 25
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("bomb.png", bytes(size))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 100)))
    tracemalloc.start()
    with pytest.raises(ConfigError, match=r"bomb\.png"):
        FolderSource(path, 16, seed=1, device=CPU).read(0, 1)
    assert tracemalloc.get_traced_memory()[1] < size / 8
    tracemalloc.stop()


def test_a_run_on_a_folder(folder: Path) -> None:
    config = load(
        overrides=[
            "data.name=folder",
            f"data.path={folder}",
            "data.resolution=16",
            "train.batch_size=4",
            "data.num_workers=1",
            "model.generator.width=8",
            "model.discriminator.width=8",
            "model.generator.conditioning=concat",
            "model.discriminator.conditioning=projection",
        ]
    )
    experiment = build(config)
    ticks = list(train(experiment, intervals={}, until=24))
    assert ticks[-1].images == 24


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.name=folder"], "data.path"),
        (["data.name=cifar10", "data.path=.", "data.resolution=28"], "data.resolution"),
        (["data.mirror=true"], "data.mirror"),
        (["data.channels=1"], "data.channels"),
        (["data.fit=pad"], "data.fit"),
        (["data.labels=none"], "data.labels"),
        (["data.background=[0, 0, 0]"], "data.background"),
        (["data.name=folder", "data.path=.", "data.range=[1, 1]"], "data.range"),
        (["data.name=folder", "data.path=.", "data.channels=2"], "data.channels"),
        (["data.name=folder", "data.path=.", "data.background=[0, 0, 256]"], "data.background.2"),
        (["data.name=folder", "data.path=.", "data.background=[0, 0]"], "data.background"),
    ],
)
def test_impossible_data_settings_are_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=overrides)
    assert caught.value.key == key
    assert caught.value.remedy


def test_a_path_without_data_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = load(overrides=["data.name=folder", f"data.path={tmp_path}/nowhere", f"run.dir={tmp_path}"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        check_files(config)
    with pytest.raises(ConfigError, match="no such folder or zip"):
        build_source(config, CPU)
