"""Tables of samples as files."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.tracking.tables import COLUMNS, SampleTable, read_table, table_path, write_table


def table(*, searched: bool = True, classes: tuple[str | int, ...] = ("cat", 7)) -> SampleTable:
    """Two samples, the second with a logit that is not finite."""
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    count = 2 if searched else 0
    rows, distances = np.array([5, 3])[:count], np.array([0.25, 0.5])[:count]
    return SampleTable(pictures, classes, np.array([1.5, np.nan]), pictures[:count] + 1, distances, rows)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = table_path(tmp_path / "samples", 1200)
    assert path.name == "00001200.npz"
    write_table(path, table())
    found = read_table(path)
    assert found is not None
    assert list(found.classes) == ["cat", 7]
    for name in ("samples", "logits", "nearest", "distances", "rows"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table(), name), name)


def test_a_line_has_every_column_and_none_for_what_is_not_known() -> None:
    first, second = table().lines(1200)
    assert tuple(first) == COLUMNS
    assert (first["images"], first["index"], first["class"], first["logit"]) == (1200, 0, "cat", 1.5)
    assert (second["distance"], second["row"], second["logit"]) == (0.5, 3, None)
    np.testing.assert_array_equal(second["nearest"], table().nearest[1])
    bare, _ = table(searched=False, classes=()).lines(0)
    assert [name for name, value in bare.items() if value is None] == ["class", "distance", "nearest", "row"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 but no more", b"text"])
def test_a_damaged_file_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "1.npz"
    if content is not None:
        path.write_bytes(content)
    assert read_table(path) is None


def test_damage_within_a_file_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "1.npz"
    write_table(path, table())
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        place = archive.getinfo("samples.npy").header_offset + 80  # in the compressed bytes
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + bytes([255]) * 20 + whole[place + 20 :])
    assert read_table(path) is None
    header = np.lib.format.magic(1, 0) + (16).to_bytes(2, "little") + b"{'descr': (     "
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (contents | {"logits.npy": header}).items():
            archive.writestr(name, content)
    assert read_table(path) is None


def test_tables_of_a_folder_are_rewound_with_the_grids(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    tracker = JsonlTracker(folder)
    for images in (0, 10, 20):
        tracker.samples(images, np.zeros((4, 4, 3), np.uint8))
        tracker.table(images, table())
    tracker.rewind(10, at=20)
    assert sorted(path.name for path in folder.samples.iterdir()) == [
        f"{images:08d}.{kind}" for images in (0, 10) for kind in ("npz", "png")
    ]
