"""Damage of every kind to a checkpoint: it is refused with a sentence, never loaded silently, never a traceback.

Every case goes through what a resume does: `newest`, which must fall back to the checkpoint before.
"""

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.storage.checkpoint import SCHEMA, CheckpointError, CheckpointStore, Manifest, load, read_manifest
from ganscale.train import main
from tests.runs import MLP, saved
from tests.storage.test_checkpoint import rewrite

FILES = ("state.pt", "manifest.json")
REGIONS = 32
"""Parts of equal size that a file is cut into; each is damaged in every way."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    """Two checkpoints of a small run: networks, average, optimizers."""
    folder = tmp_path_factory.mktemp("run")
    for images in (640, 1280):
        saved(folder, *MLP, images=images)
    return CheckpointStore(folder / "checkpoints")


@pytest.fixture(scope="module")
def store(good: CheckpointStore, tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    """A copy whose newer checkpoint each case spoils anew."""
    folder = tmp_path_factory.mktemp("spoilt") / "checkpoints"
    shutil.copytree(good.folder, folder)
    return CheckpointStore(folder)


Damage = Callable[[bytes, int, int, random.Random], bytes]


def truncate(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    return content[: draw.randrange(start, stop)]


def flip(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    place = draw.randrange(start, stop)
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def overwrite(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    place = draw.randrange(start, stop)
    size = draw.randrange(1, 1 + min(512, len(content) - place))
    return content[:place] + draw.randbytes(size) + content[place + size :]


def blank(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    """Zeros where a block was never written, as sparse files have them."""
    place = draw.randrange(start, stop)
    return content[:place] + bytes(stop - place) + content[stop:]


def lose(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    """A part of the middle is missing."""
    place = draw.randrange(start, stop)
    return content[:place] + content[stop:]


def double(content: bytes, start: int, stop: int, draw: random.Random) -> bytes:
    """A part was sent twice."""
    place = draw.randrange(start, stop)
    return content[:stop] + content[place:]


DAMAGES: tuple[Damage, ...] = (truncate, flip, flip, flip, flip, overwrite, blank, lose, double)


def meaning(content: bytes) -> object:
    """What a manifest says; `content` itself where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content


def cases(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Every region with every damage; the same ones each time."""
    draw = random.Random(seed)
    edges = [len(content) * part // REGIONS for part in range(REGIONS + 1)]
    for start, stop in itertools.pairwise(edges):
        for damage in DAMAGES:
            yield f"{damage.__name__} in bytes {start} to {stop}", damage(content, start, stop, draw)


def chosen(store: CheckpointStore) -> tuple[Manifest, list[str]]:
    said: list[str] = []
    found = store.newest(said.append)
    assert found is not None
    return found, said


@pytest.mark.parametrize("file", FILES)
def test_damage_anywhere_in_a_file_is_refused(good: CheckpointStore, store: CheckpointStore, file: str) -> None:
    path, whole = store.folders()[0] / file, (good.folders()[0] / file).read_bytes()
    tried = 0
    for name, content in cases(whole, seed=8):
        unchanged = content == whole or (file == "manifest.json" and meaning(content) == meaning(whole))
        path.write_bytes(content)
        found, said = chosen(store)
        if unchanged:  # a blank for a blank, or zeros for zeros
            assert (found.images, said) == (1280, []), name
            continue
        tried += 1
        assert found.images == 640, name
        assert len(said) == 1, name
        assert said[0].startswith("checkpoint 000000001280 is not used: its "), name
        assert "\n" not in said[0], name
        with pytest.raises(CheckpointError):
            load(path.parent)
    path.write_bytes(whole)
    assert tried >= 250, "both files together: more than 500 cases"
    assert chosen(store)[0].images == 1280


def half_state(folder: Path) -> None:
    """The upload stopped within the first file."""
    state = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(state[: len(state) // 2])
    (folder / "manifest.json").unlink()


def half_manifest(folder: Path) -> None:
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(manifest[: len(manifest) // 2])


def other_state(folder: Path) -> None:
    """The manifest arrived, the state is still that of another moment."""
    shutil.copy(folder.parent / f"{640:012d}" / "state.pt", folder)


def other_manifest(folder: Path) -> None:
    shutil.copy(folder.parent / f"{640:012d}" / "manifest.json", folder)


def all_of_another(folder: Path) -> None:
    other_state(folder)
    other_manifest(folder)


def without(*names: str) -> Callable[[Path], None]:
    """A manifest of this schema, well signed, that lacks something."""

    def spoil(folder: Path) -> None:
        rewrite(folder, **dict.fromkeys(names))

    return spoil


SPOILT: dict[str, Callable[[Path], object]] = {
    "half_state": half_state,
    "half_manifest": half_manifest,
    "no_manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no_state": lambda folder: (folder / "state.pt").unlink(),
    "other_state": other_state,
    "other_manifest": other_manifest,
    "all_of_another": all_of_another,
    "empty_state": lambda folder: (folder / "state.pt").write_bytes(b""),
    "older_schema": lambda folder: rewrite(folder, schema=SCHEMA - 1),
    "newer_schema": lambda folder: rewrite(folder, schema=SCHEMA + 1),
    "text_schema": lambda folder: rewrite(folder, schema=str(SCHEMA)),
    "no_schema": without("schema"),
    "images_as_text": lambda folder: rewrite(folder, images="1280"),
    "config_as_list": lambda folder: rewrite(folder, config=[]),
    "true_for_images": lambda folder: rewrite(folder, images=True),
    **{f"no_{name}": without(name) for name in ("images", "iteration", "config", "metrics", "sha256", "size")},
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_half_uploaded_and_older_ones_are_refused(
    good: CheckpointStore, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    shutil.copytree(good.folder, tmp_path / "checkpoints")
    store = CheckpointStore(tmp_path / "checkpoints", best_metric="fid")
    spoil(store.folders()[0])
    found, said = chosen(store)
    assert found.images == 640
    assert len(said) == 1
    assert store.best() is None, "looking for the best reads them all"


def state_of_other_networks(folder: Path) -> None:
    """Whole and well signed, but the state does not fit the config that it has."""
    images = int(folder.name)
    state = {"images": images, "iteration": 1, "generator": {"w": torch.zeros(3)}}
    config = read_manifest(folder).config
    shutil.rmtree(folder)
    CheckpointStore(folder.parent).save(state, config=config, metrics={})


SAVED = ("checkpoint.every=640", "checkpoint.mode=inline")
RUN = (*MLP, "train.images=1920", "train.batch_size=64", "log.every=640", "log.num_samples=4", *SAVED)
QUIET = ("--launcher", "local", "wandb.mode=disabled", "log.details=false", "eval.every=0", "train.device=cpu")


@pytest.mark.parametrize("kind", ["half_state", "older_schema", "no_images", "other_state"])
def test_a_run_goes_on_from_the_one_before_and_says_so(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*RUN, *QUIET, f"run.dir={tmp_path}"]
    assert main([*command, "run.name=whole"]) == 0
    assert main([*command, "run.name=spoilt", "train.images=1280"]) == 0
    folder = tmp_path / "spoilt" / "checkpoints"
    SPOILT[kind](folder / f"{1280:012d}")
    capsys.readouterr()
    assert main([*command, "run.name=spoilt"]) == 0
    said = capsys.readouterr()
    assert "checkpoint 000000001280 is not used: " in said.out
    assert "resuming at 640 images" in said.out
    assert "Traceback" not in said.out + said.err
    whole, after = (load(tmp_path / name / "checkpoints" / f"{1920:012d}")[1] for name in ("whole", "spoilt"))
    torch.testing.assert_close(after, whole, rtol=0, atol=0)


def test_a_whole_checkpoint_whose_state_does_not_fit_ends_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[Any] = [*RUN, *QUIET, f"run.dir={tmp_path}", "run.name=other"]
    assert main([*command, "train.images=640"]) == 0
    state_of_other_networks(tmp_path / "other" / "checkpoints" / f"{640:012d}")
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr()
    assert "checkpoint 000000000640 does not fit" in said.err
    assert "Traceback" not in said.out + said.err
