"""The identity of a data set: changes with names, sizes, labels and content, not with copies; reads few files."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.data import identity
from ganscale.data.files import FolderFiles, ZipFiles, list_files
from ganscale.data.folder import FolderSource
from ganscale.data.images import ImageSource, StackedSource
from ganscale.data.labels import Labels
from ganscale.data.pictures import DEFAULT, Rules
from ganscale.data.shards import open_files

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six BMPs, all of one size in bytes, in two classes."""
    for number in range(6):
        path = tmp_path / "set" / ("cats" if number < 3 else "dogs") / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(path)
    return tmp_path / "set"


def hash_of(path: Path, rules: Rules = DEFAULT) -> str:
    return FolderSource(path, 8, seed=1, device=CPU, rules=rules).state_hash()


def labels_file(folder: Path, first: int) -> None:
    labels = [[f"{'cats' if n < 3 else 'dogs'}/{n}.bmp", first if n == 0 else n % 2] for n in range(6)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))


def replaced(folder: Path) -> None:
    path = folder / "cats" / "1.bmp"
    size, times = path.stat().st_size, path.stat()
    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == size


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda folder: shutil.copy(folder / "cats" / "1.bmp", folder / "cats" / "9.bmp"),
    "removed": lambda folder: (folder / "cats" / "1.bmp").unlink(),
    "renamed": lambda folder: (folder / "cats" / "1.bmp").rename(folder / "dogs" / "1.bmp"),
    "replaced by one of the same size and time": replaced,
    "labeled": lambda folder: labels_file(folder, 0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_change_changes_it(folder: Path, change: str, kind: str) -> None:
    def found() -> str:
        if kind == "folder":
            return hash_of(folder)
        return hash_of(Path(shutil.make_archive(str(folder), "zip", folder)))

    before = found()
    assert found() == before
    CHANGES[change](folder)
    assert found() != before


def test_labels_and_rules_are_part_of_it(folder: Path) -> None:
    found = [hash_of(folder)]
    found += [hash_of(folder, rules) for rules in (Rules(fit="pad"), Rules(channels=1), Rules(range=(0.0, 1.0)))]
    for first in (0, 1):
        labels_file(folder, first)
        found.append(hash_of(folder))
    assert len(set(found)) == 6


def test_a_copy_elsewhere_at_another_time_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "cats" / "1.bmp", (1, 1))
    assert hash_of(tmp_path / "copy") == hash_of(folder)


class Counting(FolderFiles):
    """Counts the files that are opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.opened: set[str] = set()

    def open(self, name: str):
        self.opened.add(name)
        return super().open(name)


def test_of_a_large_folder_a_fixed_sample_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_READ", 2)
    names, labels = list_files(open_files(folder)).pictures, Labels([0] * 6)
    first, second = Counting(folder), Counting(folder)
    before = identity.hash_pictures(first, names, labels, Rules())
    assert identity.hash_pictures(second, names, labels, Rules()) == before
    assert len(first.opened) == 2
    assert first.opened == second.opened
    (folder / min(first.opened)).write_bytes(b"x" * (folder / min(first.opened)).stat().st_size)
    assert identity.hash_pictures(second, names, labels, Rules()) != before


def test_a_zip_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ZipFiles(Path(shutil.make_archive(str(folder), "zip", folder)))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    assert identity.hash_pictures(files, sorted(name for name, _ in files.walk()), Labels([0] * 6), Rules())


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    names = list_files(open_files(folder)).pictures
    (folder / "cats" / "1.bmp").unlink()
    (folder / "cats" / "1.bmp").mkdir()
    with pytest.raises(ConfigError) as caught:
        identity.hash_pictures(FolderFiles(folder), names, Labels([0] * 6), Rules())
    assert caught.value.key == "data.path"
    assert "cats/1.bmp" in str(caught.value)


@pytest.mark.parametrize("kind", [ImageSource, StackedSource])
def test_of_images_in_memory_all_bytes_and_labels_count(kind: type) -> None:
    images, labels = torch.arange(4 * 64).reshape(4, 1, 8, 8).to(torch.uint8), torch.tensor([0, 1, 0, 1])

    def found(images: torch.Tensor, labels: torch.Tensor) -> str:
        return kind(images, labels, 10, seed=1, device=CPU).state_hash()

    before = found(images, labels)
    assert found(images.clone(), labels.clone()) == before
    assert found(images, labels.flip(0)) != before
    changed = images.clone()
    changed[3, 0, 7, 7] += 1
    assert found(changed, labels) != before
