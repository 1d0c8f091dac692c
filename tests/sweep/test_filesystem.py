"""Ray Tune's files in a store, through pyarrow, as Tune handles them."""

import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from pyarrow.fs import FileSelector, FileType

from ganscale.storage.store import LocalStore, StorePath
from ganscale.sweep.filesystem import file_system


@pytest.fixture
def place(tmp_path: Path) -> StorePath:
    return StorePath(LocalStore(tmp_path / "bucket"), "try")


def test_folders_are_copied_there_and_back(place: StorePath, tmp_path: Path) -> None:
    files = file_system(place)
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"1")
    (source / "sub" / "b").write_bytes(b"2" * 10_000)
    files.create_dir("try/checkpoint")
    pyarrow.fs.copy_files(str(source), "try/checkpoint", destination_filesystem=files)
    assert [entry.key for entry in place.store.list()] == ["try/checkpoint/a", "try/checkpoint/sub/b"]
    again = pickle.loads(pickle.dumps(files))
    assert again == files
    pyarrow.fs.copy_files("try/checkpoint", str(target), source_filesystem=again)
    assert (target / "sub" / "b").read_bytes() == b"2" * 10_000
    files.copy_file("try/checkpoint/a", "try/c")
    files.move("try/c", "try/d")
    with files.open_input_stream("try/d") as stream:
        assert stream.read() == b"1"
    files.delete_dir("try/checkpoint")
    files.delete_file("try/d")
    assert place.store.list() == []


def test_folders_exist_as_long_as_something_lies_in_them(place: StorePath) -> None:
    files = file_system(place)
    with files.open_output_stream("try/a/b/c") as stream:
        stream.write(b"123")
    kinds = [files.get_file_info(path).type for path in ("try/a", "try/a/b/c", "try/none")]
    assert kinds == [FileType.Directory, FileType.File, FileType.NotFound]
    assert files.get_file_info("try/a/b/c").size == 3
    for recursive, expected in ((False, ["try/a/b"]), (True, ["try/a/b", "try/a/b/c"])):
        found = files.get_file_info(FileSelector("try/a", recursive=recursive))
        assert [info.path for info in found] == expected
    assert files.get_file_info(FileSelector("try/none", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        files.get_file_info(FileSelector("try/none"))
    for refused in (
        lambda: files.open_append_stream("try/a/b/c"),
        lambda: files.delete_dir_contents("", accept_root_dir=True),
    ):
        with pytest.raises(NotImplementedError):
            refused()
