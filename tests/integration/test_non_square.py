"""Pictures that are not square: every command on one short run of 16 x 24 pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale import load_generator
from ganscale.cli import REFUSED
from ganscale.evaluate import main as evaluate
from ganscale.prepare.__main__ import main as prepare
from ganscale.report.__main__ import main as report
from ganscale.sample import main as sample
from ganscale.train import main as train
from tests.runs import DCGAN, QUIET

SHORT = ("train.images=32", "train.batch_size=8", "log.every=16", "log.samples_every=32")
EVALUATED = ("eval.num_samples=24", "eval.extractor=patches")
CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
DATA = ("data.name=folder", "data.num_workers=0", "data.resolution=[16, 24]")
RUN = (*DCGAN, *QUIET, *SHORT, *EVALUATED, *CONDITIONAL, *DATA)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures of two classes, half of them tall."""
    folder, pictures = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for index in range(30):
        path = folder / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (40, 60, 3) if index < 15 else (60, 32, 3)
        Image.fromarray(pictures.integers(0, 256, shape, np.uint8)).save(path)
    options = ["--resolution", "16", "24", "--workers", "1"]
    assert prepare([str(folder / "pictures"), str(folder / "prepared"), *options]) == 0
    return folder / "prepared"


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted once and evaluated at its end."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = [*RUN, f"data.path={prepared}", f"run.dir={folder}", "run.name=wide", "eval.every=32"]
    assert train([*arguments, "train.images=16", "--launcher", "local"]) == 0
    assert train([*arguments, "--launcher", "local"]) == 0
    return folder / "wide"


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_prepared_set_has_both_sides(prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["resolution"] == [16, 24]
    assert size(prepared / "contact_sheet.png") == (6 * 26, 5 * 18)


def test_grids_of_training(run: Path) -> None:
    assert size(run / "samples" / "00000032.png") == (2 * (4 * 24 + 2) + 2, 2 * (4 * 16 + 2) + 2)


def test_samples(run: Path, tmp_path: Path) -> None:
    assert load_generator(run).sample(3).shape == (3, 3, 16, 24)
    assert sample([str(run), "--seeds", "0-3", "--out", str(tmp_path)]) == 0
    assert size(tmp_path / "grid.png") == (2 * (4 * 24 + 2) + 2, 2 * (4 * 16 + 2) + 2)
    assert sample([str(run), "--images", str(tmp_path / "singles"), "--seeds", "0-1"]) == 0
    assert {size(path) for path in (tmp_path / "singles").glob("*.png")} == {(24, 16)}
    assert sample([str(run), "--num-samples", "40", "--out", str(tmp_path / "shards")]) == 0
    assert np.load(tmp_path / "shards" / "shard-000000.npz")["arr_0"].shape == (40, 16, 24, 3)


def test_neighbors_and_interpolation(run: Path, tmp_path: Path) -> None:
    assert sample([str(run), "--nearest", "2", "--seeds", "0-3", "--out", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "nearest.json").read_text())["samples"]) == 4
    assert sample([str(run), "--interpolate", "--seeds", "0-2", "--steps", "3", "--out", str(tmp_path)]) == 0
    assert size(tmp_path / "interpolation.png")[0] > size(tmp_path / "interpolation.png")[1]


@pytest.mark.slow
def test_an_export_is_the_same_network(run: Path, tmp_path: Path) -> None:
    assert sample([str(run), "--export", str(tmp_path), "--formats", "safetensors,pt2"]) == 0
    again = load_generator(tmp_path).sample(3)
    torch.testing.assert_close(again, load_generator(run).sample(3))


def test_evaluations(run: Path, tmp_path: Path) -> None:
    (kept,) = (run / "evaluations").iterdir()
    during = json.loads(kept.read_text())
    assert (during["data"], during["extractor"]) == ("folder 16x24", "patches")
    kept.unlink()
    assert evaluate([str(run), "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads(kept.read_text())["scores"] == during["scores"]


def test_a_report(run: Path, tmp_path: Path) -> None:
    assert report([str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count('"height":134') == 3  # its sample grids
    assert page.count('"width":198') == 3


@pytest.mark.parametrize("resolution", ["[16, 32]", "16"])
def test_another_size_than_the_sets_is_refused(
    resolution: str, prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = [
        *RUN,
        f"data.resolution={resolution}",
        f"data.path={prepared}",
        f"run.dir={tmp_path}",
        "--launcher",
        "local",
    ]
    assert train(changed) == REFUSED
    assert "--resolution 16" in capfd.readouterr().err
