"""A run's files in a bucket: growing files as segments, others whole; readers get the newest of each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ganscale.storage import mirror as mirrors
from ganscale.storage.mirror import Mirror
from ganscale.storage.store import LocalStore, StorePath


@pytest.fixture
def root(tmp_path: Path) -> StorePath:
    return StorePath(LocalStore(tmp_path / "bucket"), "runs/a")


@pytest.fixture
def copy(root: StorePath, tmp_path: Path) -> Callable[[], tuple[Mirror, Path]]:
    number = [0]

    def make() -> tuple[Mirror, Path]:
        number[0] += 1
        path = tmp_path / f"copy-{number[0]}"
        path.mkdir()
        return Mirror(root, path), path

    return make


def writer(made: tuple[Mirror, Path], fence: int) -> tuple[Mirror, Path]:
    made[0]._fence = lambda: fence
    return made


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def contents(made: tuple[Mirror, Path]) -> dict[str, str]:
    made[0].pull()
    return {str(path.relative_to(made[1])): path.read_text() for path in sorted(made[1].rglob("*")) if path.is_file()}


def segments(root: StorePath, name: str) -> list[str]:
    return [entry.key.rpartition("/")[2] for entry in root.store.list(f"{root.key}/{name}")]


def test_growing_files_are_sent_once(root: StorePath, copy: Callable[[], tuple[Mirror, Path]]) -> None:
    mirror, path = writer(copy(), 1)
    append(path / "metrics.jsonl", "1\n2\n")
    (path / "samples").mkdir()
    (path / "samples" / "1.png").write_text("picture")
    mirror.push()
    append(path / "metrics.jsonl", "3\n4")
    mirror.push()
    mirror.push()
    assert segments(root, "metrics.jsonl") == ["00000001-0000-000000", "00000001-0000-000001"]
    assert contents(copy()) == {"metrics.jsonl": "1\n2\n3\n", "samples/1.png": "picture"}, "only whole lines"
    append(path / "metrics.jsonl", "4\n")
    (path / "samples" / "1.png").write_text("other")
    mirror.push()
    assert contents(copy()) == {"metrics.jsonl": "1\n2\n3\n44\n", "samples/1.png": "other"}


def test_a_file_written_anew_starts_a_generation(root: StorePath, copy: Callable[[], tuple[Mirror, Path]]) -> None:
    mirror, path = writer(copy(), 1)
    append(path / "metrics.jsonl", "1\n2\n3\n")
    append(path / "gone.json", "x")
    mirror.push()
    (path / "new").write_text("1\n")
    (path / "new").replace(path / "metrics.jsonl")
    (path / "gone.json").unlink()
    mirror.push()
    append(path / "metrics.jsonl", "2b\n")
    mirror.push()
    assert contents(copy()) == {"metrics.jsonl": "1\n2b\n"}
    assert segments(root, "metrics.jsonl") == ["00000001-0001-000000", "00000001-0001-000001"]


def test_a_later_writer_continues_and_an_earlier_one_is_ignored(
    root: StorePath, copy: Callable[[], tuple[Mirror, Path]]
) -> None:
    old, old_path = writer(copy(), 1)
    append(old_path / "train.log", "old\n")
    old.push()
    new, new_path = writer(copy(), 2)
    new.pull()
    append(new_path / "train.log", "new\n")
    new.push()
    append(old_path / "train.log", "late\n")
    old.push()
    assert contents(copy()) == {"train.log": "old\nnew\n"}
    append(new_path / "train.log", "newer\n")
    new.push()
    assert contents(copy()) == {"train.log": "old\nnew\nnewer\n"}


def test_many_segments_become_one(
    root: StorePath, copy: Callable[[], tuple[Mirror, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "MOST_SEGMENTS", 3)
    mirror, path = writer(copy(), 1)
    for number in range(4):
        append(path / "train.log", f"{number}\n")
        mirror.push()
    assert segments(root, "train.log") == ["00000001-0001-000000"]
    assert contents(copy()) == {"train.log": "0\n1\n2\n3\n"}


def test_a_reader_follows_a_growing_file(root: StorePath, copy: Callable[[], tuple[Mirror, Path]]) -> None:
    mirror, path = writer(copy(), 1)
    reader, local = copy()
    reader.fetch("train.log")
    assert not (local / "train.log").exists()
    seen = []
    for number in range(3):
        append(path / "train.log", f"{number}\n")
        mirror.push()
        reader.fetch("train.log")
        seen.append((local / "train.log").read_text())
    assert seen == ["0\n", "0\n1\n", "0\n1\n2\n"]
    (path / "config.yaml").write_text("a: 1")
    mirror.push()
    reader.fetch("config.yaml")
    assert (local / "config.yaml").read_text() == "a: 1"


def test_what_is_being_written_links_and_checkpoints_are_left_out(
    root: StorePath, copy: Callable[[], tuple[Mirror, Path]], tmp_path: Path
) -> None:
    mirror, path = writer(copy(), 1)
    (tmp_path / "secret").write_text("secret")
    (path / "link").symlink_to(tmp_path / "secret")
    (path / ".aside.png").write_text("half")
    (path / f"config.yaml.{'0' * 32}").write_text("half")
    mirror.push()
    assert root.store.list() == []
    for name in ("checkpoints/1/state.pt", ".heartbeats/0.json", "lease.json", ".stop"):
        (root / name).write_text("x")
    assert contents(copy()) == {}


def test_a_failed_upload_is_made_up_for(
    root: StorePath, copy: Callable[[], tuple[Mirror, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, path = writer(copy(), 1)
    append(path / "metrics.jsonl", "1\n")
    with monkeypatch.context() as patch:
        put = LocalStore.put

        def lose(store: LocalStore, key: str, content: bytes) -> str:
            put(store, key, content)
            raise OSError("no answer")

        patch.setattr(LocalStore, "put", lose)
        with pytest.raises(OSError, match="no answer"):
            mirror.push()
    append(path / "metrics.jsonl", "2\n")
    mirror.push()
    assert contents(copy()) == {"metrics.jsonl": "1\n2\n"}


def test_a_part_can_be_fetched_and_other_runs_checkpoints_are_not(
    root: StorePath, copy: Callable[[], tuple[Mirror, Path]]
) -> None:
    """As of a sweep, below which runs lie."""
    mirror, path = copy()
    mirror.start(lambda: 1, periodic=False)
    assert mirror._thread is None
    for name in ("plots/a.png", "trials/0000/seed-0/config.yaml", "trials/0001/seed-0/config.yaml"):
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("x")
    mirror.push()
    for name in ("trials/0000/lease.json", "trials/0000/seed-0/checkpoints/1/state.pt", ".ray/1/x"):
        (root / name).write_text("x")
    part, there = copy()
    part.pull("trials/0000")
    assert [str(each.relative_to(there)) for each in there.rglob("*") if each.is_file()] == [
        "trials/0000/seed-0/config.yaml"
    ]
    assert list(contents(copy())) == [
        "plots/a.png", "trials/0000/seed-0/config.yaml", "trials/0001/seed-0/config.yaml",
    ]  # fmt: skip
