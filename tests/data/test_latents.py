"""Latents: prepared from files, read scaled, trained on at any number of workers, and sampled in their own units."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data.latents import LABELS, LATENTS, MANIFEST, SPREAD, LatentSource, read_set
from ganscale.inference.load import load_generator
from ganscale.prepare.__main__ import main as prepare
from ganscale.prepare.latents import prepare_latents
from ganscale.sample import main as sample
from tests.fleet import Fleet
from tests.run.test_session import run
from tests.runs import TRANSFORMER
from tests.trajectories import assert_same, check_world, continued, load_state

SHAPE = (4, 16, 16)
MEAN, STD = np.array([1.0, -2.0, 0.0, 5.0]), np.array([0.5, 3.0, 1.0, 10.0])
CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 30 latents in two classes, from files of one and of several."""
    folder = tmp_path_factory.mktemp("latents")
    numbers = np.random.default_rng(0).standard_normal((30, *SHAPE)) * STD[:, None, None] + MEAN[:, None, None]
    for name, part in (("cat/0.npy", numbers[0]), ("cat/1.npy", numbers[1:10]), ("dog/all.npy", numbers[10:])):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "source" / name, part.astype(np.float16))
    assert prepare([str(folder / "source"), str(folder / "set")]) == 0
    return folder / "set"


def settings(path: Path) -> tuple[str, ...]:
    return ("data.name=latents", f"data.path={path}", *TRANSFORMER, "eval.num_samples=100", "eval.every=0")


def test_a_set_has_what_its_files_have_scaled(prepared: Path) -> None:
    source = LatentSource(prepared, seed=0, device=torch.device("cpu"), dtype=torch.float64)
    assert (source.shape, source.num_images, source.class_names) == (SHAPE, 30, ("cat", "dog"))
    seen, labels = source.gather(torch.arange(30))
    assert labels.tolist() == [0] * 10 + [1] * 20
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(4, dtype=seen.dtype), rtol=0.0, atol=1e-6)
    std = seen.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(std, torch.full_like(std, SPREAD), rtol=1e-6, atol=0.0)
    np.testing.assert_allclose(np.array(source.scale)[:, 0], MEAN, atol=0.5)
    files = [prepared.parent / "source" / name for name in ("cat/0.npy", "cat/1.npy", "dog/all.npy")]
    raw = np.concatenate([np.load(file).reshape(-1, *SHAPE) for file in files]).astype(np.float64)
    zero, one = np.array(source.scale).T[:, :, None, None]
    np.testing.assert_allclose(seen.numpy() * one + zero, raw, rtol=1e-12, atol=1e-12)
    first, classes = source.read(3, 8)
    rows = source.order.rows(3, 8)
    assert torch.equal(first, seen[rows])
    assert classes is not None
    assert torch.equal(classes, labels[rows])


def test_the_hash_is_of_numbers_and_classes(prepared: Path, tmp_path: Path) -> None:
    source = prepared.parent / "source"
    assert prepare([str(source), str(tmp_path / "same")]) == 0
    assert read_set(tmp_path / "same") == read_set(prepared)
    for name, part in (("cat", slice(0, 11)), ("dog", slice(11, 30))):
        (tmp_path / "other" / name).mkdir(parents=True)
        np.save(tmp_path / "other" / name / "0.npy", np.load(prepared / LATENTS)[part])
    assert prepare([str(tmp_path / "other"), str(tmp_path / "others")]) == 0
    assert read_set(tmp_path / "others").data_hash != read_set(prepared).data_hash


@pytest.mark.parametrize(
    ("content", "words", "key"),
    [
        (np.zeros((4, 8)), (), "SOURCE"),
        (np.zeros((4, 8, 8), np.int64), (), "SOURCE"),
        (np.full((4, 8, 8), np.nan), (), "SOURCE"),
        (np.ones((4, 8, 8)), (), "SOURCE"),
        (np.random.default_rng(0).random((4, 8, 8)), ("--resolution", "16"), "--resolution"),
        (np.random.default_rng(0).random((4, 8, 8)), ("--skip-bad",), "--skip-bad"),
    ],
)
def test_what_are_no_latents_is_refused(
    content: np.ndarray, words: tuple[str, ...], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", content)
    assert prepare([str(tmp_path / "in"), str(tmp_path / "out"), *words]) == 2
    assert key in capsys.readouterr().err
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_files_of_different_shapes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name, side in (("a", 8), ("b", 16)):
        np.save(tmp_path / "in" / f"{name}.npy", np.random.default_rng(0).random((4, side, side)))
    assert prepare([str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "b.npy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (("augment.transforms=[translation]",), "augment.transforms"),
        (("log.table_samples=4",), "log.table_samples"),
        (("data.mirror=true",), "data.mirror"),
        (("data.channels=3",), "data.channels"),
        (("eval.extractor=inception",), "eval.extractor"),
        (("model.generator.name=dcgan",), "model.generator.name"),
        (("model.generator.name=r3gan", "model.generator.output=tanh"), "model.generator.name"),
        (("data.resolution=32",), "data.resolution"),
        (("data.path=/nowhere",), "data.path"),
    ],
)
def test_settings_that_make_no_sense_are_refused(prepared: Path, more: tuple[str, ...], key: str) -> None:
    own = [
        word for word in settings(prepared) if not (more[0].startswith("model.generator.name") and "generator" in word)
    ]
    with pytest.raises(ConfigError) as caught:
        check_files(load(overrides=[*own, *more]))
    assert caught.value.key == key


def test_a_damaged_set_is_refused(prepared: Path, tmp_path: Path) -> None:
    for name in (LATENTS, LABELS, MANIFEST):
        (tmp_path / name).write_bytes((prepared / name).read_bytes())
    assert read_set(tmp_path).num_images == 30
    np.save(tmp_path / LABELS, np.zeros(3))
    with pytest.raises(ConfigError, match=LABELS):
        read_set(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ConfigError, match=MANIFEST):
        read_set(tmp_path)


@pytest.mark.multiprocess
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, prepared: Path) -> None:
    check_world(fleet, alone, (*settings(prepared), *CONDITIONAL, "penalty.r1=1"), 2)


@pytest.mark.multiprocess
def test_a_resumed_run_is_bit_identical(fleet: Fleet, prepared: Path) -> None:
    overrides = ("train.precision=float32", *settings(prepared))
    through = fleet.run(continued, 1, overrides, None, 4)[0]
    half = fleet.run(continued, 1, overrides, None, 2)[0]
    assert_same(load_state(fleet.run(continued, 1, overrides, half, 4)[0]), load_state(through))


def test_a_run_is_evaluated_and_its_samples_have_the_latents_units(prepared: Path, tmp_path: Path) -> None:
    run(tmp_path, *settings(prepared), *CONDITIONAL, "train.images=120", "eval.every=60", "log.details=true")
    folder = tmp_path / "run"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("frechet" in name for row in rows for name in row)
    generator = load_generator(folder)
    assert (generator.shape, generator.num_classes) == (SHAPE, 2)
    z, labels = generator.latents(range(3)), generator.classes(range(3))
    zero, one = torch.tensor(read_set(prepared).mean), torch.tensor(read_set(prepared).std) / SPREAD
    wanted = zero[:, None, None] + one[:, None, None] * generator(z, labels)
    torch.testing.assert_close(generator.sample(3), wanted.to(generator.dtype), rtol=1e-4, atol=1e-4)
    out = tmp_path / "out"
    assert sample([str(folder), "--images", str(out), "--seeds", "0-2"]) == 0
    np.testing.assert_allclose(np.load(out / "seed000002.npy"), generator.sample([2])[0].numpy(), rtol=1e-6)
    assert sample([str(folder), "--out", str(tmp_path / "grid"), "--seeds", "0-3"]) == 0
    assert (tmp_path / "grid" / "grid.png").exists()
    assert sample([str(folder), "--out", str(tmp_path / "many"), "--num-samples", "5"]) == 0
    stored = np.load(tmp_path / "many" / "shard-000000.npz")["arr_0"]
    np.testing.assert_allclose(stored, generator.sample(5).numpy(), rtol=1e-6)
    for words in (["--interpolate"], ["--nearest", "2"], ["--num-samples", "3", "--format", "zip"]):
        assert sample([str(folder), "--out", str(tmp_path / "refused"), *words]) == 2


def source_of(folder: Path, shape: tuple[int, ...] = (4, 8, 8), count: int = 3, name: str = "a.npy") -> Path:
    """A folder with a file of random latents."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("out", ["in", "in/cat", "in/new/set", ".", "own", "file"])
def test_files_of_the_user_are_not_written_over(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source_of(tmp_path / "in" / "cat", name=LATENTS)
    source_of(tmp_path / "own", name=LATENTS)
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    assert prepare([str(tmp_path / "in"), str(tmp_path / out)]) == 2
    assert "OUT" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_interrupted_attempt_begins_anew(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = source_of(tmp_path / "in" / "cat").parent, tmp_path / "out"
    left = iter(range(steps))

    def killed(path: Path, content: bytes) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("ganscale.prepare.latents.write_synced", killed)
        patch.setattr(Path, "replace", lambda self, target: killed(target, b""))
        with pytest.raises(KeyboardInterrupt):
            prepare_latents(source, out)
    assert len(list(out.iterdir())) == 1 + steps
    with pytest.raises(ConfigError):
        read_set(out)
    source_of(tmp_path / "in", name="top.npy")  # there are no classes now
    assert prepare([str(source), str(out)]) == 0
    assert read_set(out).num_images == 6
    assert {path.name for path in out.iterdir()} == {LATENTS, MANIFEST}


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    for number in range(40):
        source_of(tmp_path / "in", count=1, name=f"{number:02}.npy")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        prepare_latents(tmp_path / "in", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_set(tmp_path / "out").num_images == 40


def test_pictures_beside_latents_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = source_of(tmp_path / "in", name="stray.npy")
    (source / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(source / "cat" / "one.png")
    assert prepare([str(source), str(tmp_path / "out"), "--resolution", "8"]) == 2
    message = capsys.readouterr().err
    assert "stray.npy" in message
    assert "cat/one.png" in message
    assert not (tmp_path / "out").exists()
    (source / "stray.npy").rename(source / ".stray.npy")  # as other hidden files beside pictures
    assert prepare([str(source), str(tmp_path / "out"), "--resolution", "8"]) == 0


def test_latents_need_not_be_square(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = source_of(tmp_path / "in", (4, 8, 16)), tmp_path / "out"
    assert prepare([str(source), str(out)]) == 0
    word = next(word for word in capsys.readouterr().out.split() if word.startswith("data.resolution="))
    own = [other for other in settings(out) if not other.startswith("data.resolution")]
    config = load(overrides=[*own, word])
    check_files(config)
    run(tmp_path, *own, word, "train.images=60")
    assert load_generator(tmp_path / "run").shape == (4, 8, 16)
    for sides in ("16", "[16,8]"):
        with pytest.raises(ConfigError, match=r"use \[8, 16\]"):
            check_files(load(overrides=[*own, f"data.resolution={sides}"]))


@pytest.mark.parametrize("sides", [(4, 8), (8, 1032)])
def test_sides_that_no_run_takes_are_refused(
    sides: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare([str(source_of(tmp_path / "in", (1, *sides))), str(tmp_path / "out")]) == 2
    assert "8 to 1024" in capsys.readouterr().err


def test_two_channels_are_shown_as_one(tmp_path: Path) -> None:
    source, out = source_of(tmp_path / "in", (2, 16, 16), 30), tmp_path / "out"
    assert prepare([str(source), str(out)]) == 0
    run(tmp_path, *settings(out), "train.images=60", "log.details=true")
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    assert (tmp_path / "run" / "real.png").exists()


@pytest.mark.parametrize(("channels", "side", "fits"), [(1, 64, True), (4, 32, True), (16, 32, False)])
def test_latents_are_their_own_features_by_their_number(channels: int, side: int, fits: bool, tmp_path: Path) -> None:
    source, out = source_of(tmp_path / "in", (channels, side, side)), tmp_path / "out"
    assert prepare([str(source), str(out)]) == 0
    own = [word for word in settings(out) if not word.startswith("data.resolution")]
    for more, key in (("eval.every=0", "eval.extractor"), ("eval.every=8", "eval.every")):
        config = load(overrides=[*own, f"data.resolution={side}", more])
        check_files(load(overrides=[*own, f"data.resolution={side}", "eval.every=0"]))
        if fits:
            check_files(config)
            check_files(config, scores=True)
            continue
        with pytest.raises(ConfigError) as caught:
            check_files(config, scores=key == "eval.extractor")
        assert caught.value.key == key


@pytest.mark.parametrize(
    "change",
    [{"mean": [0.0]}, {"std": [1.0, 1.0, 1.0, 0.0]}, {"std": [1.0, 1.0, 1.0, float("nan")]}, {"mean": [1e999] * 4}],
)
def test_numbers_that_do_not_fit_a_set_are_refused(change: dict[str, list[float]], tmp_path: Path) -> None:
    assert prepare([str(source_of(tmp_path / "in")), str(tmp_path / "out")]) == 0
    manifest = tmp_path / "out" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(ConfigError, match="mean and a deviation"):
        read_set(tmp_path / "out")


@pytest.mark.parametrize("name", [LATENTS, LABELS])
def test_a_file_of_the_same_shape_that_was_replaced_is_refused(name: str, tmp_path: Path) -> None:
    source_of(tmp_path / "in" / "cat")
    source_of(tmp_path / "in" / "dog")
    out = tmp_path / "out"
    assert prepare([str(tmp_path / "in"), str(out)]) == 0
    array = np.load(out / name)
    np.save(out / name, array.astype(np.int32))
    with pytest.raises(ConfigError, match=f"{name} is not"):
        read_set(out)
    np.save(out / name, array[::-1])
    with pytest.raises(ConfigError, match="replaced"):
        read_set(out)
    np.save(out / name, array)
    assert read_set(out).num_images == 6
